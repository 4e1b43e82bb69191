"""Classic NetCDF, written by SciPy, and what its attributes mean, compared with GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy
from scipy.io import netcdf_file

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading
from tests.factory import TRANSFORM, UTM, write_raster

ALL = Window(0, 0, 20, 30)
LAT = ("lat", {"units": "degrees_north", "standard_name": "latitude"})
LON = ("lon", {"units": "degrees_east"})
VALUES = np.random.default_rng(0).integers(-500, 500, (3, 20, 30)).astype(np.int16)


def write(path: Path, arrays: dict[str, tuple[Any, tuple[str, ...], dict[str, Any]]], version: int = 1) -> str:
    """A file of variables: name -> values, dimensions, attributes; `time` has no limit, so that it is in records."""
    with netcdf_file(path, "w", version=version) as file:
        sizes = {
            name: size for values, dims, _ in arrays.values() for name, size in zip(dims, np.shape(values), strict=True)
        }
        for name in sorted(sizes, key=lambda name: name != "time"):
            file.createDimension(name, None if name == "time" else sizes[name])
        for name, (values, dims, attributes) in arrays.items():
            variable = file.createVariable(name, np.asarray(values).dtype, dims)
            for key, value in attributes.items():
                setattr(variable, key, value)
            if dims:
                variable[:] = values
    return str(path)


def world(
    lat: Any = None, lon: Any = None, values: Any = VALUES, **attributes: Any
) -> dict[str, tuple[Any, tuple[str, ...], dict[str, Any]]]:
    """Values [time, lat, lon] with the coordinates of their pixels' centres."""
    lat = np.linspace(60, 41, 20) if lat is None else lat
    lon = np.linspace(5, 34, 30) if lon is None else lon
    return {
        "lat": (lat, ("lat",), LAT[1]),
        "lon": (lon, ("lon",), LON[1]),
        "time": (np.arange(3.0), ("time",), {"units": "days since 2020-01-01"}),
        "t": (values, ("time", "lat", "lon"), attributes),
    }


def by_gdal(uri: str, variable: str = "t") -> tuple[np.ndarray, np.ndarray, rasterio.Affine]:
    with rasterio.open(f"netcdf:{uri}:{variable}") as dataset:
        return dataset.read(), dataset.read_masks() > 0, dataset.transform


def check_as_gdal_wrote_it(uri: str, source: str) -> raster_io.RasterInfo:
    """Compare a file that GDAL made of a raster with what GDAL reads of it, and with where the raster lies."""
    expected, seen, transform = by_gdal(uri, "Band1")
    pixels, valid = raster_io.read(uri, Window(0, 0, *expected.shape[1:]))
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, seen[0])
    info = raster_io.describe(uri)
    np.testing.assert_allclose(info.grid.transform, transform[:6])
    assert info.grid.difference(raster_io.describe(source).grid) == ""
    return info


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ups", [False, True])
def test_values_and_places_are_those_of_gdal(tmp_path, version, ups):
    lat = np.linspace(60, 41, 20)[:: -1 if ups else 1]
    uri = write(tmp_path / "a.bin", world(lat, _FillValue=np.int16(7)), version)
    pixels, valid = raster_io.read(uri, ALL)
    expected, seen, transform = by_gdal(uri)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, seen.any(axis=0))
    info = raster_io.describe(uri)
    np.testing.assert_allclose(info.grid.transform, transform[:6], atol=1e-9)
    assert (info.grid.crs, info.dtype, info.bands) == ("EPSG:4326", "int16", ("time_1", "time_2", "time_3"))
    assert info.format.startswith("NetCDF classic") and ("turned north up" in info.format) == ups
    part = Window(3, 4, 5, 6)
    np.testing.assert_array_equal(raster_io.read(uri, part)[0], pixels[:, 3:8, 4:10])


def test_scaled_values_become_measured_ones(tmp_path):
    attributes = {
        "scale_factor": 0.01,
        "add_offset": 273.15,
        "missing_value": np.int16(-499),
        "valid_min": np.int16(-490),
    }
    uri = write(tmp_path / "a.nc", world(**attributes))
    pixels, valid = raster_io.read(uri, ALL)
    np.testing.assert_allclose(pixels, VALUES * 0.01 + 273.15, rtol=1e-6)
    np.testing.assert_array_equal(valid, (VALUES >= -490).all(axis=0))
    info = raster_io.describe(uri)
    assert info.dtype == "float32" == str(pixels.dtype) and "int16 × 0.01 + 273.15" in info.format


def test_what_was_never_written_is_invalid(tmp_path):
    values = VALUES.astype(np.float32)
    values[1, 4, 5] = np.float32(9.969209968386869e36)
    values[2, 6, 7] = np.nan
    _, valid = raster_io.read(write(tmp_path / "a.nc", world(values=values)), ALL)
    assert not valid[4, 5] and not valid[6, 7] and valid.sum() == valid.size - 2


def test_unsigned_bytes(tmp_path):
    values = np.array([[0, 127, 128], [200, 254, 255]], np.uint8)
    arrays = {"image": (values.view(np.int8), ("y", "x"), {"_Unsigned": "true", "_FillValue": np.int8(-1)})}
    uri = write(tmp_path / "a.nc", arrays)
    pixels, valid = raster_io.read(uri, Window(0, 0, 2, 3))
    np.testing.assert_array_equal(pixels[0], values)
    np.testing.assert_array_equal(valid, values != 255)
    assert raster_io.describe(uri).dtype == "uint8"


@pytest.mark.parametrize(
    ("lon", "left", "step"),
    [
        (np.arange(0, 360, 12.0), -6.0, 12.0),
        (np.concatenate([np.arange(180, 360, 12.0), np.arange(0, 180, 12.0)]), 174.0, 12.0),
        (np.concatenate([np.arange(6, 180, 12.0), np.arange(-174, 0, 12.0)]), 0.0, 12.0),
        (np.linspace(34, 5, 30), 34.5, -1.0),
        ((np.arange(30) * 0.1).astype(np.float32), -0.05, 0.1),
    ],
)
def test_longitudes(tmp_path, lon, left, step):
    transform = raster_io.describe(write(tmp_path / "a.nc", world(lon=lon))).grid.transform
    assert transform[2] == pytest.approx(left, abs=1e-5) and transform[0] == pytest.approx(step, rel=1e-5)


def test_coordinates_that_place_nothing_are_said(tmp_path):
    uri = write(tmp_path / "a.nc", world(lat=np.sort(np.random.default_rng(1).uniform(0, 60, 20))))
    info = raster_io.describe(uri)
    assert not info.georeferenced and "without coordinates: lat is not regular" in info.format


def test_a_crs_without_a_meaning_is_said(tmp_path):
    arrays = world(grid_mapping="crs")
    arrays["crs"] = (np.int32(0), (), {"crs_wkt": "no CRS"})
    info = raster_io.describe(write(tmp_path / "a.nc", arrays))
    assert not info.georeferenced and "its CRS has no meaning" in info.format
    arrays["crs"] = (np.int32(0), (), {"grid_mapping_name": "geostationary"})
    info = raster_io.describe(write(tmp_path / "b.nc", arrays))
    assert not info.georeferenced and "grid mapping crs is not written as WKT" in info.format


def test_a_dimension_can_be_slices(tmp_path):
    uri = write(tmp_path / "a.nc", world())
    reading = Reading(stack="time")
    info = raster_io.describe(uri, reading=reading)
    assert (info.slices, info.bands) == (3, ("t",))
    for number in range(3):
        pixels, _ = raster_io.read(uri, ALL._replace(slice=number), reading=reading)
        np.testing.assert_array_equal(pixels, VALUES[number : number + 1])
    with pytest.raises(SceneError, match="no dimension 'level'"):
        raster_io.describe(uri, reading=Reading(stack="level"))


def test_the_order_of_dimensions_does_not_matter(tmp_path):
    turned = world()
    turned["t"] = (VALUES.transpose(2, 1, 0).copy(), ("lon", "lat", "band"), {})
    del turned["time"]
    uri = write(tmp_path / "a.nc", turned)
    np.testing.assert_array_equal(raster_io.read(uri, ALL)[0], VALUES)
    assert raster_io.describe(uri).bands == ("band_1", "band_2", "band_3")


def test_which_variable(tmp_path):
    arrays = world()
    arrays["u"] = (VALUES[0].astype(np.float32) / 2, ("lat", "lon"), {})
    arrays["mask"] = (np.abs(VALUES[0] % 3).astype(np.int8), ("lat", "lon"), {})
    uri = write(tmp_path / "a.nc", arrays)
    with pytest.raises(SceneError, match="it has the variables u, mask, t") as caught:
        raster_io.describe(uri)
    assert "data.reading.variable" in caught.value.hint
    with pytest.raises(SceneError, match="no variable 'v' that is an image; it has u, mask, t"):
        raster_io.describe(uri, reading=Reading(variable="v"))
    pixels, _ = raster_io.read(uri, ALL, reading=Reading(variable="u"))
    np.testing.assert_array_equal(pixels[0], VALUES[0] / 2)
    np.testing.assert_array_equal(raster_io.read_label(uri, ALL)[0], np.abs(VALUES[0] % 3))
    both = Reading(variable=("u", "t"))
    assert raster_io.describe(uri, reading=both).bands == ("u", "t_time_1", "t_time_2", "t_time_3")
    pixels, _ = raster_io.read(uri, ALL, reading=both)
    np.testing.assert_array_equal(pixels, np.concatenate([VALUES[:1] / 2, VALUES]))


def test_variables_on_different_grids(tmp_path):
    arrays = world()
    arrays["small"] = (VALUES[0, :5, :6].copy(), ("a", "b"), {})
    uri = write(tmp_path / "a.nc", arrays)
    with pytest.raises(SceneError, match="t and small do not lie on one grid"):
        raster_io.describe(uri, reading=Reading(variable=("t", "small")))


def test_a_projection_as_gdal_writes_it(tmp_path):
    crs = rasterio.CRS.from_epsg(32633)
    arrays = {
        "crs": (np.int32(0), (), {"grid_mapping_name": "transverse_mercator", "crs_wkt": crs.to_wkt()}),
        "y": (np.arange(20) * -0.01 + 5000, ("y",), {"standard_name": "projection_y_coordinate", "units": "km"}),
        "x": (np.arange(30) * 0.01 + 500, ("x",), {"standard_name": "projection_x_coordinate", "units": "km"}),
        "t": (VALUES[0], ("y", "x"), {"grid_mapping": "crs"}),
    }
    grid = raster_io.describe(write(tmp_path / "a.nc", arrays)).grid
    assert rasterio.CRS.from_wkt(grid.crs) == crs
    np.testing.assert_allclose(grid.transform, (10, 0, 499_995, 0, -10, 5_000_005), atol=1e-5)


@pytest.mark.parametrize("name", ["NC", "NC2"])
def test_what_gdal_writes(tmp_path, name):
    place = {"crs": UTM, "transform": TRANSFORM, "nodata": -7}
    source = write_raster(tmp_path / "a.tif", VALUES[0], **place)
    copy(source, tmp_path / "a.nc", driver="netCDF", format=name)
    check_as_gdal_wrote_it(str(tmp_path / "a.nc"), str(source))
