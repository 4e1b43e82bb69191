"""VRTs: those that stay in their folder are read, others refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from pipeline.data import rasters
from pipeline.data.windows import Window
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
    np.testing.assert_array_equal(rasters.read(str(folder / "x.vrt"), ALL)[0], make_pixels(1, 32, 32, "uint8"))
    (folder / "y.vrt").write_text(vrt(SOURCE.replace("a.tif", "sub/b.png"), head=head))
    np.testing.assert_array_equal(rasters.read(str(folder / "y.vrt"), ALL)[0], make_pixels(1, 32, 32, "uint8", 1))
    assert rasters.probe(str(folder / "x.vrt")) and rasters.describe(str(folder / "x.vrt")).format.startswith("VRT")


def test_what_gdal_itself_writes_is_read(folder):
    with rasterio.open(folder / "a.tif") as dataset:
        copy(dataset, folder / "x.vrt", driver="VRT")
    pixels, valid = rasters.read(str(folder / "x.vrt"), ALL)
    expected, seen = rasters.read(str(folder / "a.tif"), ALL)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, seen)
    info = rasters.describe(str(folder / "x.vrt"))
    assert info.grid.difference(rasters.describe(str(folder / "a.tif")).grid) == ""


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
    (folder / "inner.vrt").write_text(vrt())
    (folder / "text.txt").write_text("no raster")
    (folder / "x.vrt").write_text(text)
    for attempt in (rasters.describe, rasters.probe, lambda uri: rasters.read(uri, ALL)):
        with pytest.raises(SceneError, match=says) as caught:
            attempt(str(folder / "x.vrt"))
        assert str(folder / "x.vrt") in caught.value.message


def test_a_source_that_only_begins_as_a_picture_is_not_followed(folder):
    (folder / "a.tif").write_bytes(b"\xff\xd8\xff " + vrt().encode())
    (folder / "x.vrt").write_text(vrt())
    with pytest.raises(SceneError, match="no TIFF, PNG, JPEG"):
        rasters.describe(str(folder / "x.vrt"))
