"""Small sets with and without planted faults, for the doctor. Each scene is seeded; grids do not overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

Mask = NDArray[np.uint8]
Image = NDArray[np.float32]
SIDE = 192


def write(path: Path, pixels: NDArray, number: int = 0, *, alpha: bool = False, **profile: object) -> None:
    """Write [C,H,W] or [H,W]; a TIFF lies on a grid of its own for each number."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".png": "PNG", ".jpg": "JPEG"}.get(path.suffix, "GTiff")
    if driver == "GTiff":
        where = rasterio.Affine(10, 0, 500_000 + 5_000 * number, 0, -10, 5_000_000)
        profile = {"crs": "EPSG:32633", "transform": where, "photometric": "MINISBLACK", **profile}
        if alpha:
            profile["alpha"] = "UNSPECIFIED"
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", driver=driver, dtype=pixels.dtype, **shape, **profile) as out:
        if alpha:
            out.colorinterp = (*out.colorinterp[:-1], ColorInterp.alpha)
        out.write(pixels)


def texture(rng: np.random.Generator, scale: float, side: int = SIDE) -> Image:
    """Smooth noise [side, side] of deviation 1."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), scale)
    return noise / noise.std()


def roads(seed: int, *, width: int = 6, sun: tuple[int, int] = (3, 3)) -> tuple[Image, Mask]:
    """Thin bright lines with a dark verge on the side away from the sun, and other lines that no label shows."""
    rng = np.random.default_rng([1, seed])
    image = np.stack([90 + 14 * texture(rng, 8) + 6 * texture(rng, 1.2) for _ in range(3)])
    mask, verge = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    for line in range(5):
        ends = rng.integers(-40, SIDE + 40, (2, 2))
        target = np.zeros_like(mask)
        cv2.line(target, *(tuple(map(int, e)) for e in ends), 1, width if line < 4 else 3)
        image[:, (target > 0) & (mask == 0)] += 45 if line < 4 else 30
        if line < 4:
            mask |= target
        verge |= np.roll(target, sun, (0, 1))
    image[:, (verge > 0) & (mask == 0)] -= 38
    return image + rng.normal(0, 5, image.shape).astype(np.float32), mask


def buildings(seed: int, *, bands: int = 3) -> tuple[Image, Mask]:
    """Rectangles of different brightness, brighter than the ground or darker, with shadows to one side."""
    rng = np.random.default_rng([2, seed])
    image = np.stack([100 + 12 * texture(rng, 6) + 6 * texture(rng, 1.2) for _ in range(bands)])
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(16):
        row, col = rng.integers(2, SIDE - 34, 2)
        height, width = rng.integers(12, 30, 2)
        image[:, row + 3 : row + height + 3, col + width : col + width + 3] -= 35
        image[:, row : row + height, col : col + width] = 100 + rng.choice([-35, 40, 55]) + rng.normal(0, 8)
        mask[row : row + height, col : col + width] = 1
    return image + rng.normal(0, 5, image.shape).astype(np.float32), mask


def retinas(seed: int) -> tuple[Image, Mask]:
    """A bright disc on black with a bright spot and vessels: every scene looks like every other."""
    rng = np.random.default_rng([3, seed])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    radius = np.hypot(y, x)
    image = np.where(radius < SIDE * 0.46, 150 - 0.5 * radius, 3).astype(np.float32) + 4 * texture(rng, 10)
    image += 70 * np.exp(-((y - rng.normal(0, 4)) ** 2 + (x - 40 - rng.normal(0, 4)) ** 2) / 200)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(7):
        steps = np.cumsum(rng.normal(0, 3, (30, 2)) + rng.normal(0, 4, 2), axis=0)
        points = (np.array([SIDE / 2 + 40, SIDE / 2]) + steps).round().astype(np.int32)
        cv2.polylines(mask, [points], isClosed=False, color=1, thickness=2)
    mask[radius >= SIDE * 0.46] = 0
    image = np.where(mask == 1, image - 45, image)
    shown = np.stack([image * f for f in (1.0, 0.6, 0.3)]) + rng.normal(0, 2, (3, SIDE, SIDE))
    return shown.astype(np.float32), mask


def as_bytes(image: Image) -> NDArray[np.uint8]:
    """Rounded to 1..255."""
    return image.round().clip(1, 255).astype(np.uint8)


def make(
    folder: Path,
    scene: Callable[[int], tuple[NDArray, Mask]],
    *,
    scenes: int = 12,
    label: Callable[[Mask, int], Mask] = lambda mask, _: mask,
) -> Path:
    """images/s00.tif ... and labels/s00.tif ...; a quarter of the scenes tests."""
    rows = ["id,split,group"]
    for number in range(scenes):
        pixels, mask = scene(number)
        pixels = as_bytes(pixels) if pixels.dtype == np.float32 else pixels
        write(folder / f"images/s{number:02}.tif", pixels, number)
        write(folder / f"labels/s{number:02}.tif", label(mask, number), number)
        rows.append(f"s{number:02},{'test' if number % 4 == 3 else 'train'},s{number:02}")
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return folder
