"""Bands in files of their own."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster


def coarser(factor: float, dx: float = 0.0, dy: float = 0.0) -> tuple[float, ...]:
    return (10.0 * factor, 0.0, 500_000.0 + dx, 0.0, -10.0 * factor, 5e6 + dy)


def write(folder, name, pixels, transform=TRANSFORM, crs=UTM, **options) -> str:
    return str(write_raster(folder / f"{name}.tif", pixels, crs=crs, transform=transform, **options))


def test_files_on_one_grid_are_the_bands_of_one_image(tmp_path):
    pixels = make_pixels(3, 40, 60, "uint16")
    parts = [write(tmp_path, f"b{i}", pixels[i], names=(f"B0{i}",)) for i in range(3)]
    uri = "\n".join(parts)
    info = raster_io.describe(uri)
    assert info.bands == ("B00", "B01", "B02") and info.dtype == "uint16" and "3 files: GTiff" in info.format
    whole, valid = raster_io.read(uri, Window(-5, 10, 50, 50))
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(whole[i], raster_io.read(part, Window(-5, 10, 50, 50))[0][0])
    assert not valid[:5].any() and valid[5:45].all()
    assert raster_io.probe(uri) != raster_io.probe("\n".join(parts[::-1]))


def test_names_that_do_not_differ_are_numbered(tmp_path):
    parts = [write(tmp_path, f"b{i}", make_pixels(1, 8, 8, "uint8")) for i in range(2)]
    assert raster_io.describe("\n".join(parts)).bands == ("band_1", "band_2")


@pytest.mark.parametrize("factor", [2, 6])
def test_coarser_bands_are_interpolated_as_gdal_does(tmp_path, factor):
    fine, rough = make_pixels(1, 60, 120, "uint16"), make_pixels(1, 60 // factor, 120 // factor, "uint16", 3)
    uri = write(tmp_path, "fine", fine) + "\n" + write(tmp_path, "rough", rough, coarser(factor))
    pixels, valid = raster_io.read(uri, Window(0, 0, 60, 120))
    np.testing.assert_array_equal(pixels[0], fine[0])
    with rasterio.open(tmp_path / "rough.tif") as dataset:
        options = {"crs": UTM, "transform": rasterio.Affine(*TRANSFORM), "width": 120, "height": 60}
        with WarpedVRT(dataset, resampling=Resampling.bilinear, **options) as warped:
            expected = warped.read(1).astype(int)
    inner = np.s_[factor:-factor, factor:-factor]
    np.testing.assert_allclose(pixels[1].astype(int)[inner], expected[inner], atol=1)
    assert valid.all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-20, 60), st.integers(-20, 120), st.integers(1, 70), st.integers(1, 70))
def test_a_window_is_the_cut_of_the_whole(tmp_path, row, col, height, width):
    uri = f"{tmp_path}/fine.tif\n{tmp_path}/rough.tif\n{tmp_path}/odd.tif"
    if not (tmp_path / "odd.tif").exists():
        write(tmp_path, "fine", make_pixels(1, 60, 120, "uint16"), nodata=0)
        rough = make_pixels(1, 30, 60, "uint16", 3)
        rough[0, 4:7, 8] = 0
        write(tmp_path, "rough", rough, coarser(2), nodata=0)
        write(tmp_path, "odd", make_pixels(1, 40, 80, "uint16", 4), coarser(1.5))
    whole, valid = raster_io.read(uri, Window(-80, -80, 300, 300))
    assert valid[80:140, 80:200].sum() < 60 * 120  # nodata of the rough band hides what it was mixed into
    area = np.s_[80 + row : 80 + row + height, 80 + col : 80 + col + width]
    pixels, seen = raster_io.read(uri, Window(row, col, height, width))
    np.testing.assert_array_equal(seen, valid[area])
    np.testing.assert_array_equal(pixels[:, seen], whole[(slice(None), *area)][:, seen])


def test_label_bands_keep_their_values(tmp_path):
    rough = make_pixels(1, 30, 60, "uint8")
    uri = write(tmp_path, "fine", make_pixels(1, 60, 120, "uint8")) + "\n" + write(tmp_path, "r", rough, coarser(2))
    labels, _ = raster_io.read_label_bands(uri, Window(0, 0, 60, 120))
    np.testing.assert_array_equal(labels[1], rough[0].repeat(2, 0).repeat(2, 1))


def test_bands_of_different_types_share_one_that_holds_both(tmp_path):
    small, large = make_pixels(1, 8, 8, "uint8"), make_pixels(1, 8, 8, "int16", 2)
    uri = write(tmp_path, "a", small) + "\n" + write(tmp_path, "b", large)
    assert raster_io.describe(uri).dtype == "int16"
    pixels, _ = raster_io.read(uri, Window(0, 0, 8, 8))
    np.testing.assert_array_equal(pixels, np.concatenate([small.astype(np.int16), large]))


def test_bands_without_coordinates_go_by_their_size(tmp_path):
    uri = write(tmp_path, "a", make_pixels(1, 40, 60, "uint8"), None, None)
    rough = write(tmp_path, "b", make_pixels(1, 20, 30, "uint8"), None, None)
    assert raster_io.read(f"{uri}\n{rough}", Window(0, 0, 40, 60))[0].shape == (2, 40, 60)
    other = write(tmp_path, "c", make_pixels(1, 20, 40, "uint8"), None, None)
    with pytest.raises(SceneError, match="of different shape: 60 × 40 pixels against 40 × 20"):
        raster_io.describe(f"{uri}\n{other}")


@pytest.mark.parametrize(
    ("crs", "transform", "says"),
    [
        ("EPSG:32634", TRANSFORM, "different CRS: EPSG:32633 against EPSG:32634"),
        (UTM, coarser(1, dx=50), "cover different areas: x 500000 to 500600, y 4999600 to 5000000 against"),
        (UTM, coarser(2), "cover different areas"),
        (UTM, (10.0, 1.0, 500_000.0, 1.0, -10.0, 5e6), "turned or mirrored"),
        (UTM, (10.0, 0.0, 500_000.0, 0.0, 10.0, 4_999_600.0), "turned or mirrored"),
    ],
)
def test_bands_of_other_places_are_refused_with_both_names(tmp_path, crs, transform, says):
    pixels = make_pixels(1, 40, 60, "uint8")
    first, second = write(tmp_path, "a", pixels), write(tmp_path, "b", pixels, transform, crs)
    for attempt in (raster_io.describe, lambda uri: raster_io.read(uri, Window(0, 0, 8, 8))):
        with pytest.raises(SceneError, match=says) as caught:
            attempt(f"{first}\n{second}")
        assert first in caught.value.message and second in caught.value.message


def test_the_file_that_is_missing_or_damaged_is_named(tmp_path):
    first, second = (write(tmp_path, n, make_pixels(1, 300, 300, "uint8"), compress="deflate") for n in "ab")
    with pytest.raises(SceneError, match=r"c\.tif: no such file") as caught:
        raster_io.describe(f"{first}\n{tmp_path}/c.tif")
    assert "\n" not in caught.value.message
    data = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[: len(data) // 2])
    for attempt in (raster_io.probe, lambda uri: raster_io.read(uri, Window(0, 0, 300, 300))):
        with pytest.raises(SceneError, match=r"^[^\n]*b\.tif: cannot be read"):
            attempt(f"{first}\n{second}")


def test_scale_works_over_bands_of_several_resolutions(tmp_path):
    fine, rough = np.full((1, 64, 64), 40, np.uint8), np.full((1, 32, 32), 90, np.uint8)
    uri = write(tmp_path, "a", fine) + "\n" + write(tmp_path, "b", rough, coarser(2))
    for shape in ((16, 16), (48, 48), (128, 128)):
        pixels, valid = raster_io.read(uri, Window(0, 0, 64, 64), shape=shape)
        assert valid.all() and (pixels[0] == 40).all() and (pixels[1] == 90).all()
