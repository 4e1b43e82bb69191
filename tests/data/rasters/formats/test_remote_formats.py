"""Formats in a bucket: in ranges, by chunk, or through a copy; the same pixels as here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import store
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from tests.data.rasters.formats.test_dicom import series
from tests.data.rasters.formats.test_grib import grib2
from tests.data.rasters.formats.test_netcdf import world
from tests.data.rasters.formats.test_netcdf import write as netcdf
from tests.data.rasters.formats.test_nifti import save as save_nifti
from tests.data.rasters.formats.test_nifti import volume
from tests.data.rasters.formats.test_slides import svs
from tests.factory import make_pixels, make_scene


def same(uri: str, path: Path, window: Window) -> None:
    here, there = raster_io.describe(str(path)), raster_io.describe(uri)
    assert here == there
    for one, other in zip(raster_io.read(str(path), window), raster_io.read(uri, window), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def bucket(s3_server):
    return s3_server.uri("set")


def test_single_files(tmp_path, bucket):
    svs(tmp_path / "a.svs", levels=2)
    save_nifti(tmp_path / "b.nii.gz", volume())
    np.save(tmp_path / "c.npy", make_pixels(3, 30, 40, "uint16"))
    np.savez(tmp_path / "d.npz", make_pixels(3, 30, 40, "uint16"))
    make_scene(tmp_path, "e", height=90, width=80, label_ending=None)
    paths = {"a.svs": Window(10, 20, 200, 100), "b.nii.gz": Window(0, 0, 9, 9, 3), "d.npz": Window(-2, 5, 20, 20)}
    for name, window in {**paths, "images/e.tif": Window(5, 5, 50, 50)}.items():
        store.upload_file(tmp_path / name, store.join(bucket, name))
        same(store.join(bucket, name), tmp_path / name, window)
    netcdf(tmp_path / "f.nc", world())
    grib2(tmp_path, "PNG").rename(tmp_path / "g.grb")
    for name in ("f.nc", "g.grb"):
        store.upload_file(tmp_path / name, store.join(bucket, name))
        same(store.join(bucket, name), tmp_path / name, Window(2, 3, 15, 20))
    for name in ("c.bin", "c.tif"):  # the name says nothing
        store.upload_file(tmp_path / "c.npy", store.join(bucket, name))
        pixels, _ = raster_io.read(store.join(bucket, name), Window(0, 0, 30, 40))
        np.testing.assert_array_equal(pixels, make_pixels(3, 30, 40, "uint16"))


def test_a_series(tmp_path, bucket):
    series(tmp_path / "scan", [5.0, -10.0, 0.0])
    store.upload_dir(tmp_path / "scan", bucket)
    same(bucket, tmp_path / "scan", Window(0, 0, 20, 30, 1))


def test_what_is_not_there_or_empty(tmp_path, bucket):
    with pytest.raises(SceneError, match=r"none\.tif: no such file"):
        raster_io.describe(store.join(bucket, "none.tif"))
    store.write_bytes(store.join(bucket, "empty.tif"), b"")
    with pytest.raises(SceneError, match=r"empty\.tif: the file is empty"):
        raster_io.describe(store.join(bucket, "empty.tif"))
    store.write_bytes(store.join(bucket, "text.svs"), b"no raster at all\n" * 100)
    with pytest.raises(SceneError, match=r"text\.svs: cannot be read"):
        raster_io.describe(store.join(bucket, "text.svs"))
