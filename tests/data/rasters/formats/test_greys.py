"""Grey palettes and images whose 0 is white are read as they are shown, alike in all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

ALL = Window(0, 0, 8, 8)
FORMATS = [".png", ".gif", ".bmp", ".tif"]
# Pillow writes palettes of 256 entries, so that the images are those of any greys.
_PADDED = (".gif", ".tif")
GREYS = np.random.default_rng(0).choice([40, 90, 200, 255], (8, 8)).astype(np.uint8)


def with_palette(path: Path, values: np.ndarray, palette: list[int], **options: Any) -> str:
    image = Image.fromarray(values, "P")
    image.putpalette([v for grey in palette for v in (grey, grey, grey)])
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("palette", [[40, 90, 200, 255], [255, 200, 90, 40], [90, 255, 40, 200]])
def test_the_grey_value_counts_and_not_its_position(tmp_path: Path, ending: str, palette: list[int]) -> None:
    positions = np.array([palette.index(v) for v in GREYS.ravel()], np.uint8).reshape(8, 8)
    uri = with_palette(tmp_path / f"a{ending}", positions, palette)
    info = raster_io.describe(uri)
    assert (info.bands, info.dtype) == (("band_1",), "uint8")
    pixels, valid = raster_io.read(uri, ALL)
    np.testing.assert_array_equal(pixels, GREYS[None])
    assert valid.all()
    np.testing.assert_array_equal(raster_io.read_label(uri, ALL)[0], positions)
    stored = raster_io.read(uri, ALL, reading=Reading(greys="stored"))[0]
    padded = [*palette, 0] if ending == ".tif" else palette
    in_order = padded in (sorted(padded), sorted(padded, reverse=True))
    np.testing.assert_array_equal(stored, positions[None] if in_order else np.stack([GREYS] * 3))


@pytest.mark.parametrize("ending", [".png", ".gif"])
def test_transparent_entries_are_invalid(tmp_path: Path, ending: str) -> None:
    positions = (GREYS > 90).astype(np.uint8)
    uri = with_palette(tmp_path / f"a{ending}", positions, [40, 200, 90], transparency=0)
    pixels, valid = raster_io.read(uri, ALL)
    assert len(pixels) == 1
    np.testing.assert_array_equal(valid, positions == 1)
    assert (pixels[0][valid] == 200).all()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("palette", [[0, 255], [255, 0]])
def test_black_and_white_are_0_and_1(tmp_path: Path, ending: str, palette: list[int]) -> None:
    white = GREYS > 90
    positions = np.where(white, palette.index(255), palette.index(0)).astype(np.uint8)
    uri = with_palette(tmp_path / f"a{ending}", positions, palette, **({"bits": 1} if ending == ".png" else {}))
    np.testing.assert_array_equal(raster_io.read(uri, ALL)[0][0], white * (255 if ending in _PADDED else 1))


@pytest.mark.parametrize(("dtype", "bits"), [("uint8", 1), ("uint8", 8), ("uint16", 16)])
@pytest.mark.parametrize("overviews", [False, True])
def test_0_is_white(tmp_path: Path, dtype: str, bits: int, overviews: bool) -> None:
    top = (1 << bits) - 1
    shown = np.random.default_rng(1).integers(0, top + 1, (8, 8)).astype(dtype)
    uri = str(tmp_path / "a.tif")
    profile = {"width": 8, "height": 8, "count": 1, "dtype": dtype, "photometric": "MINISWHITE", "nodata": 0}
    with rasterio.open(uri, "w", driver="GTiff", **profile, **({"nbits": 1} if bits == 1 else {})) as dataset:
        dataset.write(top - shown, 1)
    pixels, valid = raster_io.read(uri, ALL)
    np.testing.assert_array_equal(pixels[0], shown)
    np.testing.assert_array_equal(valid, shown != top)  # nodata is a stored value
    np.testing.assert_array_equal(raster_io.read(uri, ALL, reading=Reading(greys="stored"))[0][0], top - shown)
    assert pixels.dtype == dtype and "0 is white" in raster_io.describe(uri).format
    assert raster_io.describe(uri).nodata == (float(top),)
    if overviews:
        with rasterio.open(uri, "r+") as dataset:
            dataset.build_overviews([2], rasterio.enums.Resampling.nearest)
        half, valid = raster_io.read(uri, ALL, shape=(4, 4))
        with rasterio.open(uri, overview_level=0) as dataset:
            np.testing.assert_array_equal(half[0][valid], (top - dataset.read(1))[valid])
        assert valid.any()


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREYS), Image.fromarray(255 - GREYS)]
    for ending in (".gif", ".png"):
        uri = str(tmp_path / f"a{ending}")
        frames[0].save(uri, save_all=True, append_images=frames[1:])
        pixels, _ = raster_io.read(uri, ALL)
        assert "page 1 of 2" in raster_io.describe(uri).format
        np.testing.assert_array_equal(pixels[0], GREYS)
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(SceneError, match="an animation of 2 frames"):
        raster_io.describe(str(tmp_path / "a.webp"))
