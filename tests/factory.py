"""Scenes for tests: small rasters of any kind, in a folder of the test's own, and a recipe that fits them.

make_scene(tmp_path, "a", dtype="uint16", invalid="nodata")     # images/a.tif + masks/a.png
world(tmp_path, scenes=6, size=96)                              # a small set that a network can learn
recipe_for(tmp_path, **{"train.steps": 3, "data.sampling.size": 64})
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from pipeline import config
from pipeline.recipe import Recipe, replace

UTM = "EPSG:32633"
TRANSFORM = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
NODATA = {"uint8": 0, "uint16": 0, "int16": -32768, "float32": -9999.0}


QUICK: Final = {
    "compute.tracking_uri": "http://127.0.0.1:9",
    "compute.tracking_required": False,
    "model.encoder": "convnext_atto",
    "model.norm": "group",
    "model.decoder_channels": [16, 8, 8, 8, 8],
}
"""Settings of a small network, whose training no server hears of."""


def write_raster(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = None,
    transform: Sequence[float] | None = None,
    nodata: float | None = None,
    mask: np.ndarray | None = None,
    alpha: bool = False,
    names: Sequence[str] = (),
    colors: dict[int, tuple[int, int, int]] | None = None,
    **options: Any,
) -> Path:
    """Write [C,H,W] or [H,W] in the format that the file's ending says.

    `mask` [H,W] becomes an internal mask band, `alpha` declares the last band as alpha, `colors` a palette, and
    `options` go to GDAL (tiled=True, blockxsize=64, compress="deflate").
    """
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    driver = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "GTiff")
    if driver == "GTiff":
        options = {"photometric": "MINISBLACK", "alpha": "UNSPECIFIED" if alpha else "NO", **options}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED=False),
        rasterio.open(
            path,
            "w",
            driver=driver,
            count=pixels.shape[0],
            height=pixels.shape[1],
            width=pixels.shape[2],
            dtype=str(pixels.dtype),
            crs=crs,
            transform=rasterio.Affine(*transform) if transform is not None else None,
            nodata=nodata,
            **options,
        ) as dataset,
    ):
        if colors is not None:
            dataset.write_colormap(1, {value: (*color, 255) for value, color in colors.items()})
        if alpha and driver == "GTiff":
            dataset.colorinterp = (*dataset.colorinterp[:-1], ColorInterp.alpha)
        dataset.write(pixels)
        for band, name in enumerate(names, 1):
            dataset.set_band_description(band, name)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def make_pixels(bands: int, height: int, width: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Noise [bands,height,width] that holds none of the values in NODATA."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0.3, 0.1, (bands, height, width)).astype(np.float32)
    low, high = {"uint8": (1, 250), "uint16": (1, 10_000), "int16": (-2_000, 10_000)}[dtype]
    return rng.integers(low, high, (bands, height, width)).astype(dtype)


def make_scene(
    folder: Path,
    name: str = "a",
    *,
    height: int = 64,
    width: int = 64,
    bands: int = 3,
    dtype: str = "uint8",
    crs: str | None = UTM,
    transform: Sequence[float] | None = TRANSFORM,
    invalid: str = "none",
    ending: str = ".tif",
    pixels: np.ndarray | None = None,
    names: Sequence[str] = (),
    label: np.ndarray | None = None,
    label_ending: str | None = ".png",
    label_nodata: float | None = None,
    layout: str = "folders",
    seed: int = 0,
    **options: Any,
) -> np.ndarray:
    """Write one scene with its label; returns the validity [H,W] that a reader must find.

    `invalid` puts the upper left eighth out of use: `nodata` (declared value), `nan`, `mask` (internal mask band) or
    `alpha`; `opaque` adds a constant alpha band. `layout` is `folders` (images/a.tif, masks/a.png) or `suffix`
    (a.png, a_mask.png). `label_ending=None` writes no label. PNG and JPEG carry no coordinates.
    """
    pixels = make_pixels(bands, height, width, dtype, seed) if pixels is None else pixels
    bands, height, width = pixels.shape
    valid = np.ones((height, width), bool)
    if invalid not in ("none", "opaque"):
        valid[: height // 2, : width // 4] = False
    kind: dict[str, Any] = {}
    if invalid == "nodata":
        kind["nodata"] = NODATA[dtype]
        pixels = np.where(valid, pixels, np.array(NODATA[dtype], dtype))
    elif invalid == "nan":
        pixels = np.where(valid, pixels, np.float32(np.nan))
    elif invalid == "mask":
        kind["mask"] = valid
    elif invalid in ("alpha", "opaque"):
        kind["alpha"] = True
        opaque = np.iinfo(dtype).max if dtype != "float32" else 1
        pixels = np.concatenate([pixels, (valid * opaque).astype(dtype)[None]])
    where = {"crs": crs, "transform": transform} if ending == ".tif" else {}
    image = folder / "images" / f"{name}{ending}" if layout == "folders" else folder / f"{name}{ending}"
    write_raster(image, pixels, **where, **kind, names=names, **options)
    if label_ending is not None:
        if label is None:
            label = (np.random.default_rng(seed + 1).random((height, width)) < 0.3).astype(np.uint8)
        where = {"crs": crs, "transform": transform} if label_ending == ".tif" else {}
        target = folder / "masks" / name if layout == "folders" else folder / f"{name}_mask"
        write_raster(target.with_name(target.name + label_ending), label, **where, nodata=label_nodata)
    return valid


def world(
    folder: Path, scenes: int = 6, size: int = 96, *, bands: int = 3, dtype: str = "uint8", seed: int = 0
) -> Path:
    """A small set that a network can learn: bright discs (class 1) on a noisy ground (class 0).

    images/s0.tif ... (georeferenced), masks/s0.tif and splits.csv: of six scenes four train, one is val, one test;
    groups are `north` and `south`. A corner of each scene is nodata.
    """
    scale = {"uint8": 1, "uint16": 40, "int16": 40, "float32": 1 / 255}[dtype]
    rows = ["id,split,group"]
    for number in range(scenes):
        rng = np.random.default_rng([seed, number])
        label = np.zeros((size, size), np.uint8)
        y, x = np.mgrid[:size, :size]
        for _ in range(6):
            row, col, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(size / 12, size / 6)
            label[(y - row) ** 2 + (x - col) ** 2 < radius**2] = 1
        ground = rng.normal(70, 15, (bands, size, size)) + label * np.linspace(60, 90, bands)[:, None, None]
        pixels = (ground.clip(5, 250) * scale).astype(dtype)
        east = TRANSFORM[2] + 10_000 * number
        split = ("val" if number % 6 == 4 else "test" if number % 6 == 5 else "train") if scenes > 2 else "train"
        make_scene(
            folder,
            f"s{number}",
            pixels=pixels,
            dtype=dtype,
            invalid="nodata",
            label=label,
            label_ending=".tif",
            transform=(*TRANSFORM[:2], east, *TRANSFORM[3:]),
            tiled=True,
            blockxsize=64,
            blockysize=64,
            compress="deflate",
        )
        rows.append(f"s{number},{split},{('north', 'south')[number % 2]}")
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return folder


def recipe_for(folder: Path, **overrides: Any) -> Recipe:
    """A small valid recipe for the scenes in `folder`: two classes, a tiny network, this process, output in runs/.

    Splits come from splits.csv if there is one, else by hash. Overrides are dotted paths:
    `recipe_for(folder, **{"train.steps": 3})`.
    """
    table = (folder / "splits.csv").exists()
    tree = {
        "name": "tiny",
        "data": {
            "root": str(folder),
            "images": "images/*",
            "labels": "masks/{id}.*",
            "classes": [{"name": "ground"}, {"name": "disc"}],
            "split": {"kind": "table"} if table else {"kind": "hash", "test": 0.25},
            "sampling": {"size": 32},
        },
        "model": {"encoder": "resnet10t", "decoder_channels": [32, 24, 16, 12, 8]},
        "train": {"steps": 4, "global_batch": 2, "checkpoint_every": 2, "log_every": 1},
        "predict": {"window": 64, "batch": 2},
        "compute": {
            "output": str(folder / "runs"),
            "runner": "local",
            "feed": "local",
            "device": "cpu",
            "threads_per_worker": 1,
        },
    }
    return replace(config.validate(Recipe, tree), overrides)
