"""When nodata values make a pixel invalid: by default as GDAL's dataset mask says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.recipe.data import Reading
from tests.factory import TRANSFORM, UTM, write_raster

ANY = Reading(nodata_rule="any")


@given(
    bands=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "float32"]),
    nodata=st.sampled_from([None, 0, 1, 7, -9999]),
    mask=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_validity_is_the_dataset_mask(
    tmp_path: Path, bands: int, dtype: str, nodata: float | None, mask: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, 7, 30]) if nodata != -9999 or dtype.startswith("u") else np.array([-9999, 1, 7, 30])
    pixels = rng.choice(values, (bands, 9, 11)).astype(dtype)
    usable = nodata if nodata is None or nodata >= 0 or not dtype.startswith("u") else None
    # GDAL's dataset mask of a file that has both is the mask alone; here both count.
    hidden = rng.random((9, 11)) < 0.7 if mask and usable is None else None
    uri = str(write_raster(tmp_path / "a.tif", pixels, nodata=usable, mask=hidden))
    found = raster_io.read(uri, Window(0, 0, 9, 11))[1]
    with rasterio.open(uri) as dataset:
        np.testing.assert_array_equal(found, dataset.dataset_mask() > 0)
    measured = pixels != (usable if usable is not None else 10_000)
    np.testing.assert_array_equal(
        raster_io.read(uri, Window(0, 0, 9, 11), reading=ANY)[1], measured.all(0) & (True if hidden is None else hidden)
    )


def test_what_no_network_can_take_hides_a_pixel_from_any_band(tmp_path: Path) -> None:
    lowest = float(np.finfo(np.float32).min)
    pixels = np.ones((2, 1, 5), np.float32)
    pixels[0, 0] = [1, np.nan, np.inf, lowest, 1]
    pixels[1, 0, 4] = lowest
    uri = str(write_raster(tmp_path / "a.tif", pixels, nodata=lowest))
    np.testing.assert_array_equal(raster_io.read(uri, Window(0, 0, 1, 5))[1], [[True, False, False, False, False]])


def test_a_nodata_value_of_the_recipe_follows_the_rule(tmp_path: Path) -> None:
    pixels = np.array([[[7, 7, 1]], [[7, 2, 2]]], np.uint16)
    uri = str(write_raster(tmp_path / "a.tif", pixels))
    whole = Window(0, 0, 1, 3)
    np.testing.assert_array_equal(raster_io.read(uri, whole, nodata=7)[1], [[False, True, True]])
    np.testing.assert_array_equal(raster_io.read(uri, whole, nodata=7, reading=ANY)[1], [[False, False, True]])


def test_the_rule_holds_in_overviews_and_at_other_scales(tmp_path: Path) -> None:
    pixels = np.full((2, 64, 64), 5, np.uint8)
    pixels[0, :32] = 0
    pixels[1, :32, :32] = 0
    uri = str(write_raster(tmp_path / "a.tif", pixels, nodata=0))
    with rasterio.open(uri, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    for shape in ((16, 16), (24, 24), (8, 8)):
        valid = raster_io.read(uri, Window(0, 0, 64, 64), shape=shape)[1]
        half = shape[0] // 2
        assert not valid[:half, :half].any() and valid[:half, half + 1 :].all() and valid[half + 1 :].all()
        assert not raster_io.read(uri, Window(0, 0, 64, 64), shape=shape, reading=ANY)[1][:half].any()


@pytest.mark.parametrize("factor", [1, 2])
def test_bands_in_files_of_their_own(tmp_path: Path, factor: int) -> None:
    """Nodata in one file lets a pixel pass, in all files it hides it; resampling mixes no nodata into what is valid."""
    one = np.full((24, 24), 50, np.int16)
    two = np.full((24 // factor, 24 // factor), 80, np.int16)
    one[:12] = two[: 12 // factor] = -9999
    two[18 // factor :] = -9999
    a, _, c, d, _, f = TRANSFORM
    write_raster(tmp_path / "a.tif", one, nodata=-9999, crs=UTM, transform=TRANSFORM)
    place = (a * factor, 0.0, c, d, -a * factor, f)
    write_raster(tmp_path / "b.tif", two, nodata=-9999, crs=UTM, transform=place)
    uri, whole = f"{tmp_path / 'a.tif'}\n{tmp_path / 'b.tif'}", Window(0, 0, 24, 24)
    pixels, valid = raster_io.read(uri, whole)
    assert not valid[:12].any() and valid[14:16].all() and valid[20:].all()
    assert (pixels[1][valid & (pixels[1] != -9999)] == 80).all(), "no mixture of values and nodata"
    assert (pixels[1, 20:] == -9999).all() and (pixels[0, 12:] == 50).all()
    strict = raster_io.read(uri, whole, reading=ANY)[1]
    assert strict[14:16].all() and not strict[:12].any() and not strict[18:].any()


def test_a_mask_of_one_file_hides_whatever_the_rule(tmp_path: Path) -> None:
    hidden = np.ones((4, 4), bool)
    hidden[0] = False
    write_raster(tmp_path / "a.tif", np.ones((4, 4), np.uint8), mask=hidden)
    write_raster(tmp_path / "b.tif", np.ones((4, 4), np.uint8))
    valid = raster_io.read(f"{tmp_path / 'a.tif'}\n{tmp_path / 'b.tif'}", Window(0, 0, 4, 4))[1]
    np.testing.assert_array_equal(valid, hidden)


def test_fill_values_of_netcdf_variables_follow_the_rule(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in (("a", [[-1, -1, 3]]), ("b", [[-1, 2, 3]])):
            file[name] = np.array(values, np.int16)
            file[name].attrs["_FillValue"] = np.int16(-1)
    for rule, expected in (("all", [False, True, True]), ("any", [False, False, True])):
        reading = Reading(variable=("a", "b"), nodata_rule=rule)
        np.testing.assert_array_equal(
            raster_io.read(str(tmp_path / "a.h5"), Window(0, 0, 1, 3), reading=reading)[1], [expected]
        )
