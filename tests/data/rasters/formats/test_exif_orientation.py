"""Pictures with an orientation tag are read as Pillow's `ImageOps.exif_transpose`, and so viewers, show them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.formats.exif_orientation import tag
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.index import index
from tests.factory import TRANSFORM, UTM, make_pixels, recipe_for, write_raster

ENDINGS = [".jpg", ".png", ".webp", ".tif"]


def picture(path: Path, orientation: int, bands: int = 3, height: int = 20, width: int = 31) -> np.ndarray:
    """Write a picture that is stored as the tag says; returns what is shown [C,H,W]."""
    pixels = make_pixels(bands, height, width, "uint8")
    if bands == 4:
        pixels[3] = np.where(pixels[3] > 100, 255, 0)
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    lossless: dict[str, dict[str, Any]] = {".webp": {"lossless": True, "exact": True}}
    options = {".jpg": {"quality": 95, "subsampling": 0}, **lossless}.get(path.suffix, {})
    if path.suffix == ".tif":
        image.save(path, tiffinfo={274: orientation})
    else:
        exif = image.getexif()
        exif[274] = orientation
        image.save(path, exif=exif, **options)
    with Image.open(path) as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored))
    return shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_it_is_shown(tmp_path: Path, orientation: int, ending: str) -> None:
    uri = tmp_path / f"a{ending}"
    shown = picture(uri, orientation)
    info = raster_io.describe(str(uri))
    assert (info.grid.height, info.grid.width) == shown.shape[1:] and info.levels[0] == shown.shape[1:]
    pixels, valid = raster_io.read(str(uri), Window(0, 0, *shown.shape[1:]))
    # Decoders of JPEG differ by a little.
    np.testing.assert_allclose(pixels.astype(int), shown, atol=4 if ending == ".jpg" else 0)
    assert valid.all() and pixels.shape[1:] == ((20, 31) if orientation < 5 else (31, 20))


@given(
    orientation=st.integers(1, 8),
    row=st.integers(-10, 40),
    col=st.integers(-10, 40),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_and_masks_are_those_of_what_is_shown(
    tmp_path: Path, orientation: int, row: int, col: int, height: int, width: int
) -> None:
    uri = tmp_path / f"{orientation}.png"
    shown = picture(uri, orientation, bands=4)
    pixels, valid = raster_io.read(str(uri), Window(row, col, height, width))
    around = np.pad(shown, ((0, 0), (40, 80), (40, 80)))[:, 40 + row : 40 + row + height, 40 + col : 40 + col + width]
    np.testing.assert_array_equal(valid, around[3] > 0)
    np.testing.assert_array_equal(pixels[:, valid], around[:3, valid])


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_overviews_are_turned(tmp_path: Path, orientation: int) -> None:
    uri = tmp_path / "a.tif"
    shown = picture(uri, orientation, height=64, width=96)
    with rasterio.open(uri, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    info = raster_io.describe(str(uri))
    height, width = shown.shape[1:]
    assert info.levels == ((height, width), (height // 2, width // 2), (height // 4, width // 4))
    quarter, _ = raster_io.read(str(uri), Window(0, 0, height, width), shape=(height // 4, width // 4))
    with rasterio.open(uri, overview_level=1) as dataset:
        stored = dataset.read().transpose(1, 2, 0)
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(stored)
    image.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(quarter, np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1))


def test_a_raster_with_coordinates_is_read_as_it_is_stored(tmp_path: Path) -> None:
    pixels = make_pixels(1, 8, 12, "uint8")
    uri = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=TRANSFORM)
    Image.fromarray(pixels[0]).save(tmp_path / "b.tif", tiffinfo={274: 6})
    (tmp_path / "b.tfw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    for name in (uri, tmp_path / "b.tif"):
        assert raster_io.describe(str(name)).grid.width == 12
        np.testing.assert_array_equal(raster_io.read(str(name), Window(0, 0, 8, 12))[0], pixels)


@pytest.mark.parametrize(
    "content",
    [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"\xff\xd8\xff\xe1\0\1", b"\xff\xd8\xff\xe1"],
)
def test_damaged_tags_are_no_tags(content: bytes) -> None:
    assert tag(io.BytesIO(content)) == 1


def test_a_mask_drawn_on_the_shown_picture_fits_and_a_label_is_turned_likewise(tmp_path: Path) -> None:
    label = (np.random.default_rng(0).random((31, 20)) < 0.5).astype(np.uint8)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        picture(tmp_path / "images" / f"s{number}.jpg", 6)
        stored = np.ascontiguousarray(np.rot90(label)) if number % 2 else label
        exif = Image.Exif()
        exif[274] = 6 if number % 2 else 1
        Image.fromarray(stored).save(tmp_path / "masks" / f"s{number}.png", exif=exif)
    found = index(recipe_for(tmp_path))
    for scene in found.scenes:
        assert (scene.height, scene.width) == (31, 20)
        assert scene.class_counts == (int((label == 0).sum()), int(label.sum()))
        np.testing.assert_array_equal(raster_io.read_label(str(scene.label), Window(0, 0, 31, 20))[0], label)
