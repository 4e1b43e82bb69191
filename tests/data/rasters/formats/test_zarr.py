"""Zarr and OME-Zarr, against zarr's own arrays."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError


def noise(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def ome(path, data: np.ndarray, axes: str = "czyx", *, version: str = "0.5", levels: int = 3) -> list[np.ndarray]:
    """An OME-Zarr image whose levels keep every second pixel."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    images, datasets = [data], []
    for _ in range(levels - 1):
        images.append(images[-1][..., ::2, ::2])
    for n, image in enumerate(images):
        array = group.create_array(
            str(n), shape=image.shape, dtype=image.dtype, chunks=(*(1 for _ in image.shape[:-2]), 32, 48)
        )
        array[...] = image
        scale = [1.0] * (data.ndim - 2) + [0.5 * 2**n, 250.0 * 2**n]
        datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    units = {"y": "micrometer", "x": "nanometer"}
    kinds = [
        {"name": a, "type": "space" if a in "zyx" else "x", **({"unit": units[a]} if a in units else {})} for a in axes
    ]
    channels = (
        {"channels": [{"label": f"stain {n}"} for n in range(data.shape[axes.index("c")])]} if "c" in axes else {}
    )
    body = {"multiscales": [{"axes": kinds, "datasets": datasets}], "omero": channels}
    group.attrs.update({"ome": {"version": version, **body}} if version == "0.5" else body)
    return images


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_axes_and_units_are_those_of_the_metadata(tmp_path, version):
    data = noise(2, 3, 100, 200)
    images = ome(tmp_path / "a", data, version=version)
    info = raster_io.describe(str(tmp_path / "a"))
    assert info.levels == ((100, 200), (50, 100), (25, 50)) and info.slices == 3
    assert info.bands == ("stain 0", "stain 1") and info.dtype == "uint16" and info.tile == (32, 48)
    assert info.grid.transform == (0.25, 0, 0, 0, 0.5, 0) and info.format == "OME-Zarr czyx"
    for number in range(3):
        pixels, valid = raster_io.read(str(tmp_path / "a"), Window(10, 20, 60, 90, number))
        np.testing.assert_array_equal(pixels, data[:, number, 10:70, 20:110])
        assert valid.all()
    half, _ = raster_io.read(str(tmp_path / "a"), Window(20, 40, 40, 80, 1), shape=(20, 40))
    np.testing.assert_array_equal(half, images[1][:, 1, 10:30, 20:60])
    _, valid = raster_io.read(str(tmp_path / "a"), Window(90, 190, 20, 20, 2))
    assert valid.sum() == 100 and raster_io.probe(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("axes", "shape"), [("yx", (100, 200)), ("zyx", (3, 100, 200)), ("tczyx", (1, 2, 3, 100, 200))]
)
def test_axes_may_be_fewer_or_more(tmp_path, axes, shape):
    data = noise(*shape)
    ome(tmp_path / "a", data, axes)
    info = raster_io.describe(str(tmp_path / "a"))
    assert info.slices == (3 if "z" in axes else 1) and len(info.bands) == (2 if "c" in axes else 1)
    pixels, _ = raster_io.read(str(tmp_path / "a"), Window(0, 0, 100, 200, info.slices - 1))
    np.testing.assert_array_equal(pixels, data.reshape((-1, info.slices, 100, 200))[:, -1])


@pytest.mark.parametrize(("shape", "names", "axes"), [
    ((3, 40, 60), None, "cyx"),
    ((40, 60, 3), None, "yxc"),
    ((40, 60), None, "yx"),
    ((40, 60, 50), ("y", "x", "band"), "yxc"),
    ((9, 40, 60), ("z", "lat", "lon"), "zyx"),
])  # fmt: skip
def test_plain_arrays_go_by_their_names_or_lengths(tmp_path, shape, names, axes):
    data = noise(*shape, dtype="float32")
    chunks = tuple(min(20, n) for n in shape)
    array = zarr.create_array(str(tmp_path / "a"), shape=shape, chunks=chunks, dtype="float32", dimension_names=names)
    array[...] = data
    info = raster_io.describe(str(tmp_path / "a"))
    assert info.format == f"Zarr {axes}" and not info.georeferenced
    pixels, _ = raster_io.read(str(tmp_path / "a"), Window(2, 3, 30, 40))
    chw = np.moveaxis(data, 2, 0) if axes == "yxc" else data[:1] if axes == "zyx" else data.reshape(-1, 40, 60)
    np.testing.assert_array_equal(pixels, chw[:, 2:32, 3:43])


def test_an_array_inside_a_group_and_shards(tmp_path):
    data = noise(64, 64)
    group = zarr.open_group(str(tmp_path / "a"), mode="w")
    group.create_array("mask", shape=(64, 64), chunks=(16, 16), shards=(32, 32), dtype="uint16")[...] = data
    for uri in (str(tmp_path / "a"), str(tmp_path / "a" / "mask")):
        label, valid = raster_io.read_label(uri, Window(5, 5, 50, 50))
        np.testing.assert_array_equal(label, data[5:55, 5:55])
        assert valid.all()


def test_nan_and_the_declared_fill_value_are_invalid(tmp_path):
    array = zarr.create_array(str(tmp_path / "a"), shape=(8, 8), chunks=(4, 4), dtype="float32")
    data = noise(8, 8, dtype="float32")
    data[1, 1], data[2, 2] = np.nan, -9999
    array[...] = data
    array.attrs["_FillValue"] = -9999
    valid = raster_io.read(str(tmp_path / "a"), Window(0, 0, 8, 8))[1]
    assert np.argwhere(~valid).tolist() == [[1, 1], [2, 2]]


def test_big_endian_is_turned(tmp_path):
    array = zarr.create_array(str(tmp_path / "a"), shape=(8, 8), chunks=(4, 4), dtype=">i2", zarr_format=2)
    array[...] = noise(8, 8, dtype="int16")
    pixels, _ = raster_io.read(str(tmp_path / "a"), Window(0, 0, 8, 8))
    assert pixels.dtype == np.int16 and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels[0], noise(8, 8, dtype="int16"))


def test_zarr_in_a_bucket(tmp_path, s3_server):
    import pathlib

    from pipeline import store

    data = noise(2, 3, 100, 200)
    ome(tmp_path / "a", data)
    uri = s3_server.uri("image.zarr")
    for file in pathlib.Path(tmp_path / "a").rglob("*"):
        if file.is_file():
            store.upload_file(file, store.join(uri, file.relative_to(tmp_path / "a").as_posix()))
    assert raster_io.describe(uri) == raster_io.describe(str(tmp_path / "a"))
    pixels, valid = raster_io.read(uri, Window(10, 20, 60, 90, 2))
    np.testing.assert_array_equal(pixels, data[:, 2, 10:70, 20:110])
    assert valid.all()


# ------------------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_meant(tmp_path):
    group = zarr.open_group(str(tmp_path / "a"), mode="w")
    with pytest.raises(SceneError, match="a: a Zarr group with no arrays"):
        raster_io.describe(str(tmp_path / "a"))
    for name in ("left", "right"):
        group.create_array(name, shape=(4, 4), dtype="uint8")
    with pytest.raises(SceneError, match="a: a Zarr group with the arrays left, right"):
        raster_io.describe(str(tmp_path / "a"))
    ome(tmp_path / "b", noise(2, 1, 1, 50, 50), "tczyx")
    with pytest.raises(SceneError, match="b: it has 2 times"):
        raster_io.describe(str(tmp_path / "b"))
    zarr.create_array(str(tmp_path / "c"), shape=(2, 2, 2, 2), dtype="uint8")
    with pytest.raises(SceneError, match=r"c: an array of shape \(2, 2, 2, 2\)"):
        raster_io.describe(str(tmp_path / "c"))
    zarr.create_array(str(tmp_path / "d"), shape=(10**7, 10**7), chunks=(100, 100), dtype="uint8")
    with pytest.raises(SceneError, match="header claims 10000000 × 10000000 pixels"):
        raster_io.describe(str(tmp_path / "d"))
    zarr.create_array(str(tmp_path / "e"), shape=(10**5, 10**5), chunks=(10**5, 10**5), dtype="uint8")
    with pytest.raises(SceneError, match="stored in blocks of 100000 × 100000 pixels"):
        raster_io.describe(str(tmp_path / "e"))


def test_damaged_metadata_and_chunks(tmp_path):
    ome(tmp_path / "a", noise(1, 1, 50, 50))
    chunk = next(p for p in sorted((tmp_path / "a" / "0").rglob("*")) if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(SceneError, match="a: cannot be read"):
        raster_io.probe(str(tmp_path / "a"))
    (tmp_path / "a" / "zarr.json").write_text('{"zarr_format": 3, "node_type": ')
    with pytest.raises(SceneError, match="a: cannot be read"):
        raster_io.describe(str(tmp_path / "a"))
