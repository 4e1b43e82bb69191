"""GRIB of both editions, and what a field must not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.shutil import copy

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from tests.factory import make_pixels, write_raster

ALL = Window(0, 0, 20, 30)
VALUES = make_pixels(2, 20, 30, "uint8").astype(np.float32)
DEGREES = (0.5, 0.0, 5.0, 0.0, -0.5, 60.0)


def grib2(folder: Path, packing: str) -> Path:
    source = write_raster(folder / "a.tif", VALUES, crs="EPSG:4326", transform=DEGREES)
    copy(source, folder / "a.bin", driver="GRIB", DATA_ENCODING=packing)
    return folder / "a.bin"


def grib1(values: np.ndarray) -> bytes:
    """A message of bytes on a grid of half degrees: the sections of FM 92 GRIB, edition 1."""
    height, width = values.shape
    product = bytes([2, 98, 0, 255, 0x80, 33, 1, 0, 0, 20, 1, 2, 3, 0, 1, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0])
    corners = [int(v * 1000).to_bytes(3) for v in (59.75, 5.25, 59.75 - (height - 1) / 2, 5.25 + (width - 1) / 2)]
    grid = bytes([0, 255, 0]) + width.to_bytes(2) + height.to_bytes(2) + corners[0] + corners[1] + b"\x80"
    grid += corners[2] + corners[3] + (500).to_bytes(2) * 2 + bytes(5)
    data = b"\x08" + bytes(6) + b"\x08" + values.astype(np.uint8).tobytes() + b"\0"  # 8 bits of padding, 8 a value
    body = b"".join((len(section) + 3).to_bytes(3) + section for section in (product, grid, data))
    return b"GRIB" + (len(body) + 12).to_bytes(3) + b"\1" + body + b"7777"


@pytest.mark.parametrize("packing", ["SIMPLE_PACKING", "COMPLEX_PACKING", "PNG", "JPEG2000"])
def test_edition_2(tmp_path, packing):
    uri = str(grib2(tmp_path, packing))
    pixels, valid = raster_io.read(uri, ALL)
    np.testing.assert_allclose(pixels, VALUES, atol=1e-3)
    info = raster_io.describe(uri)
    assert valid.all() and info.dtype == "float32" and info.format.startswith("GRIB")
    np.testing.assert_allclose(info.grid.transform, DEGREES, atol=1e-6)


def test_edition_1(tmp_path):
    (tmp_path / "a.grb").write_bytes(grib1(VALUES[0]) + grib1(VALUES[1]))
    uri = str(tmp_path / "a.grb")
    np.testing.assert_array_equal(raster_io.read(uri, ALL)[0], VALUES)
    info = raster_io.describe(uri)
    np.testing.assert_allclose(info.grid.transform, DEGREES, atol=1e-3)
    assert info.bands[0].startswith("UGRD")


def with_field(data: bytes, field: bytes) -> bytes:
    """The first message, with something else in its data section."""
    at = 16
    while data[at + 4] != 7:
        at += int.from_bytes(data[at : at + 4])
    head = data[16:at] + (len(field) + 5).to_bytes(4) + b"\7" + field + b"7777"
    return data[:8] + (len(head) + 16).to_bytes(8) + head


@pytest.mark.parametrize("begin", [b"", b"\xff\x4f\xff\x51"])
def test_a_field_cannot_name_other_files(tmp_path, begin):
    other = write_raster(tmp_path / "other.tif", VALUES[0])
    vrt = (
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
        f"<SourceFilename>{other}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    data = grib2(tmp_path, "JPEG2000").read_bytes()
    hostile = with_field(data, begin + vrt.encode())
    for name, content in {"a.grb": hostile, "b.grb": grib1(VALUES[0]) + hostile}.items():
        (tmp_path / name).write_bytes(content)
        for attempt in (raster_io.describe, raster_io.probe, lambda uri: raster_io.read(uri, ALL)):
            with pytest.raises(SceneError, match=r"packed as no JPEG 2000|editions 1 and 2"):
                attempt(str(tmp_path / name))
