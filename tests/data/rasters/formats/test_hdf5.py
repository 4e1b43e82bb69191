"""HDF5 and NetCDF 4, written by h5py and by GDAL."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from rasterio.shutil import copy

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading
from tests.data.rasters.formats.test_netcdf import check_as_gdal_wrote_it
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster

ALL = Window(0, 0, 60, 70)
VALUES = make_pixels(3, 60, 70, "uint16")


def dimensions(file: h5py.File, array: h5py.Dataset, names: tuple[str, ...]) -> None:
    """Coordinates 0, 1, 2 … with units where they are degrees."""
    units = {"lat": "degrees_north", "lon": "degrees_east"}
    for axis, name in enumerate(names):
        file[name] = np.arange(float(array.shape[axis]))
        file[name].make_scale(name)
        file[name].attrs["units"] = np.bytes_(units.get(name, "1"))
        array.dims[axis].attach_scale(file[name])


@pytest.mark.parametrize("name", ["NC4", "NC4C"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_what_gdal_writes(tmp_path, name, dtype):
    place = {"crs": UTM, "transform": TRANSFORM, "nodata": 7}
    source = write_raster(tmp_path / "a.tif", make_pixels(1, 60, 70, dtype), **place)
    copy(source, tmp_path / "a.nc", driver="netCDF", format=name, compress="DEFLATE" if name == "NC4" else "NONE")
    info = check_as_gdal_wrote_it(str(tmp_path / "a.nc"), str(source))
    assert info.format.startswith("NetCDF 4 Band1")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, 32, 32)},
        {"chunks": (3, 16, 70), "compression": "gzip", "shuffle": True},
        {"chunks": (2, 7, 9), "compression": "gzip", "fletcher32": True},
    ],
)
def test_windows_of_any_layout(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("science/image", data=VALUES, **options)
    uri = str(tmp_path / "a.h5")
    info = raster_io.describe(uri)
    assert (info.dtype, len(info.bands), info.format) == ("uint16", 3, "HDF5 science/image[?,?,?]")
    assert info.tile == (options.get("chunks", (1, 1, 70))[1:])
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, col = int(rng.integers(0, 50)), int(rng.integers(0, 60))
        window = Window(row, col, int(rng.integers(1, 60 - row)), int(rng.integers(1, 70 - col)))
        pixels, valid = raster_io.read(uri, window)
        np.testing.assert_array_equal(pixels, VALUES[:, row : row + window.height, col : col + window.width])
        assert valid.all()


def test_dimensions_by_their_scales(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("t", data=VALUES.transpose(1, 2, 0))
        dimensions(file, array, ("lat", "lon", "time"))
        array.attrs["scale_factor"] = 0.5
    uri = str(tmp_path / "a.h5")
    info = raster_io.describe(uri)
    assert info.bands == ("time_1", "time_2", "time_3") and "t[lat,lon,time]" in info.format
    assert info.grid.transform == (1, 0, -0.5, 0, -1, 59.5) and info.grid.crs == "EPSG:4326"
    pixels, _ = raster_io.read(uri, ALL)
    np.testing.assert_array_equal(pixels, VALUES[:, ::-1].astype(np.float32) / 2)
    stacked = Reading(stack="time")
    pixels, _ = raster_io.read(uri, ALL._replace(slice=2), reading=stacked)
    np.testing.assert_array_equal(pixels, VALUES[2:, ::-1].astype(np.float32) / 2)


def test_blocks_that_were_never_written_hold_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("t", (60, 70), "int16", chunks=(16, 16), fillvalue=-9)
        array.attrs["_FillValue"] = np.int16(-9)
        array[20:40, 10:50] = VALUES[0, 20:40, 10:50]
        expected = array[:]
    pixels, valid = raster_io.read(str(tmp_path / "a.h5"), ALL)
    np.testing.assert_array_equal(pixels[0], expected)
    np.testing.assert_array_equal(valid, expected != -9)


def test_image_and_label_in_one_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"], file["mask"] = VALUES, (VALUES[0] % 3).astype(np.uint8)
        file["other"] = VALUES
        file["text"] = "no array"
    uri = str(tmp_path / "a.h5")
    np.testing.assert_array_equal(raster_io.read(uri, ALL)[0], VALUES)
    np.testing.assert_array_equal(raster_io.read_label(uri, ALL)[0], VALUES[0] % 3)
    reading = Reading(label_variable="other", variable="mask")
    np.testing.assert_array_equal(raster_io.read(uri, ALL, reading=reading)[0], VALUES[:1] % 3)
    np.testing.assert_array_equal(raster_io.read_label_bands(uri, ALL, reading=reading)[0], VALUES)


def elsewhere(folder: Path) -> Path:
    """A file that must not be read through another."""
    path = folder / "elsewhere.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.full((60, 70), 77, np.uint8)
    return path


def by_external_file(file: h5py.File, other: Path) -> None:
    file.create_dataset("t", (60, 70), "u1", external=[(str(other), 0, 4200)])


def by_virtual_array(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((60, 70), "u1")
    layout[:] = h5py.VirtualSource(str(other), "secret", (60, 70))
    file.create_virtual_dataset("t", layout)


def by_link(file: h5py.File, other: Path) -> None:
    file["t"] = h5py.ExternalLink(str(other), "/secret")


@pytest.mark.parametrize("way", [by_external_file, by_virtual_array, by_link])
def test_other_files_are_not_followed(tmp_path, tmp_path_factory, way):
    other = elsewhere(tmp_path_factory.mktemp("elsewhere"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        way(file, other)
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(np.unique(file["t"])) >= 1  # the HDF5 library does follow them
    for attempt in (raster_io.describe, raster_io.probe, lambda uri: raster_io.read(uri, ALL)):
        with pytest.raises(SceneError, match=r"in other files|linked to other files"):
            attempt(str(tmp_path / "a.h5"))


def test_types_that_are_no_image_do_not_hinder(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = VALUES
        file["table"] = np.zeros((5, 5), [("a", "f4"), ("b", "i2")])
        file["words"] = np.array([["a", "b"], ["c", "d"]], h5py.string_dtype())
        file["lists"] = np.array([np.arange(2), np.arange(3)], object).astype(h5py.vlen_dtype("i4"))
        file["complex"] = np.zeros((5, 5), np.complex64)
        file["yes"] = np.zeros((5, 5), bool)
        file["empty"] = h5py.Empty("f4")
        file["none"] = np.zeros((0, 5))
        file["to"] = h5py.SoftLink("/nowhere")
        file["round"] = h5py.SoftLink("/round")
    np.testing.assert_array_equal(
        raster_io.read(str(tmp_path / "a.h5"), ALL, reading=Reading(variable="image"))[0], VALUES
    )


def test_what_is_not_understood_is_not_passed_over(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_dataset("a", data=VALUES, chunks=(1, 32, 32))
        file["b"] = VALUES
    uri = str(tmp_path / "a.h5")
    with pytest.raises(SceneError, match="arrays that cannot be read: a") as caught:
        raster_io.describe(uri)
    assert "h5py" in caught.value.hint
    np.testing.assert_array_equal(raster_io.read(uri, ALL, reading=Reading(variable="b"))[0], VALUES)


def test_compression_that_is_not_known_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=VALUES, chunks=(1, 32, 32), compression="lzf")
    with pytest.raises(SceneError, match="LZF") as caught:
        raster_io.probe(str(tmp_path / "a.h5"))
    assert "write it again" in caught.value.hint


def test_a_group_inside_itself(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b/image"] = VALUES
        file["a/b/again"] = file["a"]
        for number in range(10):
            file[f"a/b/{number}"] = file["a/b"]
    with pytest.raises(SceneError, match="groups inside themselves"):
        raster_io.describe(str(tmp_path / "a.h5"))
