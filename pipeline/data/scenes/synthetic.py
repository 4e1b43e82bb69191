"""A small synthetic data set for the demo and the tests: seeded, georeferenced, hard enough to need a network.

Seven regions of one UTM zone, each seen in two seasons. What the four classes look like depends on the region (soil,
water, crops), the season (how green), and the scene (sun, haze, gain). Their spectra overlap on purpose: green fields
have the mean colour of forest, bare fields that of roofs, shadows that of water. What distinguishes them is texture:
smooth water, speckled canopy, rows and parcels, blocks with shadows. Whole regions are held out for validation and
test, so a score says how well a network does in a region it has never seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.raster_io import Grid, write_cog

Array = NDArray[np.float32]
Pixels = TypeVar("Pixels", bound=NDArray[Any])

BANDS: Final = ("blue", "green", "red", "nir")
CLASSES: Final = ("water", "forest", "field", "built")
COLORS: Final = ((46, 110, 184), (34, 110, 60), (222, 190, 88), (196, 74, 66))
NODATA: Final = 0
CRS: Final = "EPSG:32633"
PIXEL_METRES: Final = 5.0

# Reflectance in BANDS order.
_CLEAR: Final = (0.055, 0.050, 0.035, 0.030)
_TURBID: Final = (0.085, 0.115, 0.120, 0.120)
_LEAVES: Final = (0.035, 0.065, 0.045, 0.300)
_BROWN: Final = (0.045, 0.075, 0.090, 0.210)
_SOIL: Final = (0.085, 0.110, 0.145, 0.215)
_STREET: Final = (0.105, 0.110, 0.120, 0.150)
_ROOF: Final = (0.150, 0.165, 0.195, 0.240)


def make_world(folder: str | Path, *, num_scenes: int = 14, size: int = 1024, seed: int = 0) -> None:
    """Write `images/ID.tif`, `labels/ID.tif` and `splits.csv` (id, split, group) for scenes such as `north_spring`.

    Images are uint16 COGs [4,size,size] (reflectance times 10000, nodata 0) with empty corners, as the footprint is
    turned like a satellite's; labels are uint8 COGs of class ids with 255 where there is no image. Scenes come region
    by region, so that the first four already hold a train and a test region. Equal arguments give equal pixels.

    Args:
        folder: made if missing; files of the same names are replaced.
        num_scenes: 1 to 14.
        size: height and width in pixels.
        seed: of everything.

    Raises:
        ValueError: there are not that many scenes in this world.
    """
    scenes = [(region, season) for region in REGIONS for season in SEASONS]
    if not 1 <= num_scenes <= len(scenes):
        raise ValueError(f"num_scenes {num_scenes}: this world has 1 to {len(scenes)} scenes")
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(_write_scene, root, number, *scenes[number], size, seed) for number in range(num_scenes)]
        for job in jobs:
            job.result()
    rows = [f"{region.name}_{season.name},{region.split},{region.name}" for region, season in scenes[:num_scenes]]
    (root / "splits.csv").write_text("\n".join(["id,split,group", *rows]) + "\n")  # last: it says the world is whole


def make_scene(
    region: LandRegion, season: Season, size: int, seed: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Pixels uint16 [4,size,size] and class ids uint8 [size,size] of one scene; 0 and 255 outside the footprint."""
    place = np.random.default_rng([seed, zlib.crc32(region.name.encode())])  # what all seasons of a region share
    rng = np.random.default_rng([seed, zlib.crc32(region.name.encode()), zlib.crc32(season.name.encode())])
    tint = place.uniform(0.88, 1.12, (len(CLASSES), len(BANDS))).astype(np.float32)
    label = _layout(rng, region, size)
    sun = rng.uniform(0, 2 * np.pi)
    paints = (
        _water(rng, region, size),
        _forest(rng, season, sun, size),
        _field(rng, region, season, size),
        _built(rng, region, season, sun, size),
    )
    image = np.empty((len(BANDS), size, size), np.float32)
    for k, paint in enumerate(paints):
        where = label == k
        image[:, where] = (paint * tint[k][:, None, None])[:, where]
    pixels = _sense(rng, image, season)
    outside = ~_footprint(rng, size)
    pixels[:, outside] = NODATA
    label[outside] = IGNORE
    return pixels, label


def _write_scene(root: Path, number: int, region: LandRegion, season: Season, size: int, seed: int) -> None:
    pixels, label = make_scene(region, season, size, seed)
    east, north = 400_000 + 12_000 * (number // 4), 5_200_000 + 12_000 * (number % 4)
    grid = Grid(size, size, CRS, (PIXEL_METRES, 0.0, float(east), 0.0, -PIXEL_METRES, float(north)))
    name = f"{region.name}_{season.name}.tif"
    write_cog(root / "images" / name, pixels, grid, nodata=NODATA, names=BANDS)
    write_cog(root / "labels" / name, label[None], grid, nodata=IGNORE, names=CLASSES, colors=COLORS)


def _noise(rng: np.random.Generator, size: int, scale: float) -> Array:
    """Gaussian noise [size,size], smooth over `scale` pixels, mean 0 and standard deviation 1."""
    step = max(1, int(scale / 4))  # smooth fields are made small and enlarged
    small = -(-size // step) + 1
    frequency = np.fft.fftfreq(small)[:, None] ** 2 + np.fft.rfftfreq(small)[None] ** 2
    spectrum = np.fft.rfft2(rng.standard_normal((small, small), np.float32))
    spectrum *= np.exp(-2 * (np.pi * scale / step) ** 2 * frequency)
    field: Array = np.fft.irfft2(spectrum, s=(small, small)).astype(np.float32)
    return _enlarge((field - field.mean()) / (field.std() + 1e-6), step, size)


def _enlarge(field: Array, step: int, size: int) -> Array:
    """Bilinear enlargement by a whole factor, cut to [size,size]."""
    if step == 1:
        return field[:size, :size]
    position = np.arange(size, dtype=np.float32) / step
    low = position.astype(int)
    part = position - low
    rows: Array = field[low] * (1 - part)[:, None] + field[low + 1] * part[:, None]
    large: Array = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return large


def _layout(rng: np.random.Generator, region: LandRegion, size: int) -> NDArray[np.uint8]:
    """Class ids [size,size]: the strongest of four smooth fields, and a river through them."""
    scales = (60.0, 40.0, 50.0, 36.0)
    votes = [_noise(rng, size, s) + 0.25 * _noise(rng, size, 9) + b for s, b in zip(scales, region.cover, strict=True)]
    label: NDArray[np.uint8] = np.argmax(np.stack(votes), axis=0).astype(np.uint8)
    label[np.abs(_noise(rng, size, 110)) < region.river] = CLASSES.index("water")
    return label


def _axes(rng: np.random.Generator, size: int, warp: float) -> tuple[Array, Array]:
    """Pixel coordinates turned by a random angle and bent a little: the axes of parcels and of streets."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    u = x * np.cos(angle) + y * np.sin(angle) + warp * _noise(rng, size, 150)
    v = y * np.cos(angle) - x * np.sin(angle) + warp * _noise(rng, size, 150)
    return u.astype(np.float32), v.astype(np.float32)


def _mix(share: Array, first: Sequence[float], second: Sequence[float]) -> Array:
    """Spectra [4,H,W] between `first` (share 0) and `second` (share 1)."""
    a, b = (np.asarray(s, np.float32)[:, None, None] for s in (first, second))
    blended: Array = a + share * (b - a)
    return blended


def _water(rng: np.random.Generator, region: LandRegion, size: int) -> Array:
    mud = np.clip(region.mud + 0.2 * _noise(rng, size, 70), 0, 1)
    return _mix(mud, _CLEAR, _TURBID)


def _forest(rng: np.random.Generator, season: Season, sun: float, size: int) -> Array:
    crowns = _noise(rng, size, 1.6)
    lit = crowns - _shift(crowns, sun, 2)  # the sunny and the shaded side of each crown
    brown = np.clip(season.brown + 0.25 * _noise(rng, size, 12), 0, 1)
    shine: Array = np.clip(1 + 0.17 * lit, 0.25, None)
    return _mix(brown, _LEAVES, _BROWN) * shine


def _field(rng: np.random.Generator, region: LandRegion, season: Season, size: int) -> Array:
    u, v = _axes(rng, size, 12)
    long, wide = region.parcel * 1.8, region.parcel
    i = np.floor(v / wide).astype(int) % 64
    j = np.floor(u / long + rng.uniform(0, 1, 64)[i]).astype(int) % 64
    green: Array = np.clip(season.green + rng.uniform(-0.5, 0.5, (64, 64)), 0.05, 1).astype(np.float32)[i, j]
    bright: Array = rng.uniform(0.8, 1.2, (64, 64)).astype(np.float32)[i, j]
    period = rng.uniform(4, 7, (64, 64)).astype(np.float32)[i, j]
    along = np.where(rng.random((64, 64))[i, j] < 0.5, u, v)
    strength = rng.uniform(0.03, 0.18, (64, 64)).astype(np.float32)[i, j]
    rows: Array = strength * np.sin(2 * np.pi * along / period)
    return _mix(np.clip(green + rows + 0.06 * _noise(rng, size, 5), 0, 1), _SOIL, _LEAVES) * bright


def _built(rng: np.random.Generator, region: LandRegion, season: Season, sun: float, size: int) -> Array:
    u, v = _axes(rng, size, 6)
    i, j = (np.floor(a / region.block).astype(int) % 64 for a in (v, u))
    centre = [np.abs(a / region.block % 1 - 0.5) for a in (v, u)]
    half = rng.uniform(0.18, 0.40, (2, 64, 64)).astype(np.float32)
    roof = (centre[0] < half[0][i, j]) & (centre[1] < half[1][i, j])
    shade = _shift(roof, sun, 3) & ~roof
    bright = rng.uniform(0.45, 1.35, (64, 64)).astype(np.float32)[i, j]
    garden = np.clip(0.4 * season.green + 0.35 * _noise(rng, size, 6), 0, 0.9)
    ground = np.where(shade, 0.4, 1) * _mix(garden, _STREET, _LEAVES)
    return np.where(roof, bright * np.asarray(_ROOF, np.float32)[:, None, None], ground).astype(np.float32)


def _shift(a: Pixels, sun: float, length: float) -> Pixels:
    shifted: Pixels = np.roll(a, (round(length * np.sin(sun)), round(length * np.cos(sun))), (0, 1))
    return shifted


def _sense(rng: np.random.Generator, image: Array, season: Season) -> NDArray[np.uint16]:
    """Simulate the instrument: sun, haze, a brightness ramp and noise on reflectance."""
    size = image.shape[-1]
    ramp = 1 + 0.08 * _noise(rng, size, size / 3)
    gain = season.sun * rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, (len(BANDS), 1, 1))
    haze = rng.uniform(0, 0.03) * np.array([1.0, 0.7, 0.5, 0.2])[:, None, None]
    noise = rng.standard_normal(image.shape, np.float32) * (0.006 + 0.07 * image)
    return np.clip((image * ramp * gain + haze + noise) * 10_000, 1, 65_535).astype(np.uint16)


def _footprint(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """True inside a square turned by some degrees, as the swath of a satellite is."""
    angle = np.deg2rad(rng.uniform(7, 13)) * rng.choice((-1, 1))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside: NDArray[np.bool_] = np.maximum(np.abs(u), np.abs(v)) < 0.5 * size
    return inside


@dataclass(frozen=True)
class LandRegion:
    """A part of the world: what lies there, and what all its seasons share."""

    name: str
    split: str
    cover: tuple[float, float, float, float]
    """How much each class is favoured, in CLASSES order."""
    river: float
    """Half-width of the river, in standard deviations of the field it is a contour of."""
    mud: float
    """0 clear water, 1 turbid."""
    parcel: float
    """Width of a parcel in pixels."""
    block: float
    """Side of a block of buildings in pixels."""


@dataclass(frozen=True)
class Season:
    """A time of the year."""

    name: str
    green: float
    """Mean share of crop on the fields."""
    brown: float
    """Mean share of brown leaves."""
    sun: float
    """Illumination."""


REGIONS: Final = (
    LandRegion("north", "train", (-0.4, 0.7, 0.2, -0.2), 0.05, 0.1, 34, 15),
    LandRegion("south", "test", (-0.2, 0.0, 0.5, 0.1), 0.06, 0.5, 28, 17),
    LandRegion("coast", "train", (0.7, 0.0, 0.1, 0.1), 0.03, 0.3, 24, 18),
    LandRegion("plain", "train", (-0.5, -0.2, 0.8, 0.1), 0.05, 0.8, 42, 14),
    LandRegion("valley", "val", (0.0, 0.3, 0.3, 0.0), 0.08, 0.4, 26, 16),
    LandRegion("upland", "test", (0.0, 0.6, 0.0, 0.1), 0.04, 0.2, 30, 14),
    LandRegion("delta", "train", (0.2, 0.1, 0.1, 0.6), 0.08, 0.9, 30, 19),
)
SEASONS: Final = (Season("spring", 0.65, 0.1, 1.05), Season("autumn", 0.35, 0.6, 0.85))
