"""VRTs: those that stay in their folder are read, others refused with the reason."""

from __future__ import annotations

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from pipeline import store
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster

ALL = Window(0, 0, 32, 32)
SOURCE = '<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'


def vrt(source: str = SOURCE, *, band: str = "", inside: str = "", head: str = "", dataset: str = "") -> str:
    return (
        f'{head}<VRTDataset rasterXSize="32" rasterYSize="32" {dataset}>{inside}'
        f'<VRTRasterBand dataType="Byte" band="1" {band}>'
        f"<SimpleSource>{source}<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


@pytest.fixture
def folder(tmp_path):
    write_raster(tmp_path / "a.tif", make_pixels(1, 32, 32, "uint8"), crs=UTM, transform=TRANSFORM, nodata=3)
    (tmp_path / "sub").mkdir()
    write_raster(tmp_path / "sub" / "b.png", make_pixels(1, 32, 32, "uint8", 1))
    return tmp_path


@pytest.mark.parametrize("head", ["", "\n ", '<?xml version="1.0"?>\n'])
def test_a_vrt_of_files_beside_it_is_read(folder, head):
    (folder / "x.vrt").write_text(vrt(head=head))
    np.testing.assert_array_equal(raster_io.read(str(folder / "x.vrt"), ALL)[0], make_pixels(1, 32, 32, "uint8"))
    (folder / "y.vrt").write_text(vrt(SOURCE.replace("a.tif", "sub/b.png"), head=head))
    np.testing.assert_array_equal(raster_io.read(str(folder / "y.vrt"), ALL)[0], make_pixels(1, 32, 32, "uint8", 1))
    assert raster_io.probe(str(folder / "x.vrt")) and raster_io.describe(str(folder / "x.vrt")).format.startswith("VRT")


def test_what_gdal_itself_writes_is_read(folder):
    with rasterio.open(folder / "a.tif") as dataset:
        copy(dataset, folder / "x.vrt", driver="VRT")
    pixels, valid = raster_io.read(str(folder / "x.vrt"), ALL)
    expected, seen = raster_io.read(str(folder / "a.tif"), ALL)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, seen)
    info = raster_io.describe(str(folder / "x.vrt"))
    assert info.grid.difference(raster_io.describe(str(folder / "a.tif")).grid) == ""


def source(name: str, relative: str = "1") -> str:
    return f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (vrt(source("/etc/passwd")), "is not relative"),
        (vrt(source("a.tif", "0")), "is not relative"),
        (vrt("<SourceFilename>a.tif</SourceFilename>"), "is not relative"),
        (vrt(source("/vsicurl/http://127.0.0.1:9/a.tif")), "is not relative"),
        (vrt(source("http://127.0.0.1:9/a.tif")), "is not relative"),
        (vrt(source("vrt://a.tif")), "is not relative"),
        (vrt(source("GTIFF_DIR:1:a.tif")), "is not relative"),
        (vrt(source("../other/a.tif")), "lies outside its folder"),
        (vrt(source("sub/link.tif")), "lies outside its folder"),
        (vrt(source("missing.tif")), "'missing.tif' is not there"),
        (vrt(source("loop.tif")), "its source 'loop.tif' cannot be read"),
        (vrt(source("x" * 5000)), "its source 'x+' cannot be read"),
        (vrt(source("sub")), "its source 'sub' cannot be read"),
        (vrt(source("pipe")), "its source 'pipe' cannot be read"),
        (vrt(source("inner.vrt")), "no TIFF, PNG, JPEG"),
        (vrt(source("text.txt")), "no TIFF, PNG, JPEG"),
        (vrt(source("<VRTDataset/>".replace("<", "&lt;"))), "is not there"),
        (vrt(band='subClass="VRTDerivedRasterBand"'), "VRTDerivedRasterBand"),
        (vrt(band='subClass="VRTRawRasterBand"'), "VRTRawRasterBand"),
        (vrt(dataset='subClass="VRTWarpedDataset"'), "VRTWarpedDataset"),
        (vrt(inside="<PixelFunctionCode>1</PixelFunctionCode>"), "holds PixelFunctionCode"),
        (vrt(inside="<GDALWarpOptions/>"), "holds GDALWarpOptions"),
        (vrt(f"{SOURCE}<OpenOptions><OOI key='x'>1</OOI></OpenOptions>"), "holds OpenOptions"),
        (vrt(inside=f"<OverviewList/><MaskBand>{source('/etc/passwd')}</MaskBand>"), "is not relative"),
        (vrt(head='<!DOCTYPE a [<!ENTITY x "y">]>'), "declares entities"),
        (vrt() + "<", "cannot be read"),
        ("<Other><VRTDataset/></Other>", "begins with Other"),
        ("<VRTDataset>" + "<VRTRasterBand>" * 5000 + "</VRTRasterBand>" * 5000 + "</VRTDataset>", "cannot be read"),
    ],
)
def test_what_a_vrt_must_not_do(folder, tmp_path_factory, text, says):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_raster(elsewhere / "a.tif", make_pixels(1, 32, 32, "uint8"))
    (folder / "sub" / "link.tif").symlink_to(elsewhere / "a.tif")
    (folder / "loop.tif").symlink_to("loop.tif")
    os.mkfifo(folder / "pipe")
    (folder / "inner.vrt").write_text(vrt())
    (folder / "text.txt").write_text("no raster")
    (folder / "x.vrt").write_text(text)
    for attempt in (raster_io.describe, raster_io.probe, lambda uri: raster_io.read(uri, ALL)):
        with pytest.raises(SceneError, match=says) as caught:
            attempt(str(folder / "x.vrt"))
        assert str(folder / "x.vrt") in caught.value.message


def test_a_source_that_only_begins_as_a_picture_is_not_followed(folder):
    (folder / "a.tif").write_bytes(b"\xff\xd8\xff " + vrt().encode())
    (folder / "x.vrt").write_text(vrt())
    with pytest.raises(SceneError, match="no TIFF, PNG, JPEG"):
        raster_io.describe(str(folder / "x.vrt"))


@pytest.fixture
def bucket(folder, s3_server):
    """The folder's files in a bucket, in a folder of their own beside `b.tif`."""
    base = s3_server.uri("set")
    store.upload_dir(folder, store.join(base, "vrt"))
    store.upload_file(folder / "a.tif", store.join(base, "b.tif"))
    return store.join(base, "vrt")


def test_in_a_bucket(folder, bucket):
    (folder / "x.vrt").write_text(vrt(SOURCE.replace("a.tif", "./sub/../a.tif")))
    uri = store.join(bucket, "x.vrt")
    store.upload_file(folder / "x.vrt", uri)
    store.write_bytes(uri + ".aux.xml", b"<PAMDataset/>")  # what lies beside it does not hide its sources
    pixels, valid = raster_io.read(uri, ALL)
    expected, seen = raster_io.read(str(folder / "x.vrt"), ALL)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, seen)
    assert raster_io.describe(uri) == raster_io.describe(str(folder / "x.vrt"))
    assert raster_io.probe(uri) == raster_io.probe(uri)


def test_a_mask_beside_a_source_counts_in_a_bucket_too(folder, bucket):
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 10:] = 255
    write_raster(folder / "a.tif", make_pixels(1, 32, 32, "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(folder / "a.tif", "r+") as dataset:
        dataset.write_mask(mask)
    with rasterio.open(folder / "a.tif") as dataset:
        copy(dataset, folder / "x.vrt", driver="VRT")
    for name in ("a.tif", "a.tif.msk", "x.vrt"):
        store.upload_file(folder / name, store.join(bucket, name))
    _, seen = raster_io.read(str(folder / "x.vrt"), ALL)
    _, valid = raster_io.read(store.join(bucket, "x.vrt"), ALL)
    np.testing.assert_array_equal(valid, seen)
    assert not seen[:, :10].any() and seen[:, 10:].all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (vrt(source("../b.tif")), "lies outside its folder"),
        (vrt(source("sub/../../b.tif")), "lies outside its folder"),
        (vrt(source("..%2fb.tif")), "holds one of"),
        (vrt(source("/etc/passwd")), "is not relative"),
        (vrt(source("s3://test/b.tif")), "is not relative"),
        (vrt(source("a.tif", "0")), "is not relative"),
        (vrt(source("missing.tif")), "'missing.tif' is not there"),
        (vrt(source("inner.vrt")), "no TIFF, PNG, JPEG"),
        (vrt(inside="<GDALWarpOptions/>"), "holds GDALWarpOptions"),
        (vrt(head='<!DOCTYPE a [<!ENTITY x "y">]>'), "declares entities"),
    ],
)
def test_what_a_vrt_in_a_bucket_must_not_do(bucket, text, says):
    store.write_bytes(store.join(bucket, "inner.vrt"), vrt().encode())
    for name in ("x.vrt", "x.bin"):
        uri = store.join(bucket, name)
        store.write_bytes(uri, text.encode())
        with pytest.raises(SceneError, match=says if name == "x.vrt" else "under another name") as caught:
            raster_io.describe(uri)
        assert uri in caught.value.message


def test_on_a_web_server(folder):
    for name, text in {"x.vrt": vrt(), "y.vrt": vrt(source("../a.tif")), "z.vrt": vrt(source("%2e%2e/a.tif"))}.items():
        (folder / name).write_text(text)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        pixels, valid = raster_io.read(f"{base}/x.vrt", ALL)
        expected, seen = raster_io.read(str(folder / "x.vrt"), ALL)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(valid, seen)
        with pytest.raises(SceneError, match="lies outside its folder"):
            raster_io.describe(f"{base}/y.vrt")
        with pytest.raises(SceneError, match="holds one of"):
            raster_io.describe(f"{base}/z.vrt")
        server.shutdown()
