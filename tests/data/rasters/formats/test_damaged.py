"""Files that were made to do harm, or came to it: read or refused, fast, in little memory, by a process that lives.

All are opened by one child process whose address space may grow by 1 GiB, with 5 seconds for each.
"""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.rasters.formats.test_dicom import save as save_dicom
from tests.data.rasters.formats.test_nifti import save as save_nifti
from tests.data.rasters.formats.test_nifti import volume
from tests.data.rasters.formats.test_slides import svs
from tests.factory import make_pixels, make_scene, write_raster

CHILD = """
import json, resource, signal, sys, time, warnings
warnings.simplefilter("ignore")
import imagecodecs, nibabel, numcodecs.zlib, pydicom, pyfive, tifffile, zarr
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import LabelError, SceneError

pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
W = Window(0, 0, 64, 64)
attempts = {
    "describe": raster_io.describe,
    "probe": raster_io.probe,
    "read": lambda uri: raster_io.read(uri, W),
    "shrink": lambda uri: raster_io.read(uri, Window(0, 0, 640, 640), shape=(32, 32)),
    "label": lambda uri: raster_io.read_label_bands(uri, W),
}
for uri in sys.argv[1:]:
    print(json.dumps({"begin": uri}), flush=True)
    signal.alarm(5)
    said, begin = {}, time.monotonic()
    for name, attempt in attempts.items():
        try:
            attempt(uri)
        except (SceneError, LabelError) as error:
            said[name] = error.message
            assert uri in error.message and error.hint, error.message
    signal.alarm(0)
    print(json.dumps({"end": uri, "said": said, "seconds": time.monotonic() - begin}), flush=True)
"""


def look(paths: list[Path]) -> dict[str, dict[str, str]]:
    """What a child process says of each file: attempt -> message, empty where all went well."""
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # What decodes GRIB prints its troubles, too.
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"{lines[-1:]} ended it with {done.returncode}: {done.stderr[-2000:]}"
    found = {line["end"]: line["said"] for line in lines if "end" in line}
    assert set(found) == set(map(str, paths))
    return found


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """40,000 × 40,000 black pixels in a few megabytes."""
    packer = zlib.compressobj(1)
    row = b"\0" * 40_001
    return png(40_000, 40_000, b"".join(packer.compress(row) for _ in range(40_000)) + packer.flush())


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes = b"", next_page: int = 0) -> bytes:
    """A TIFF of one page: tag -> (type, count, value)."""
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_page) + body


def tags(width: int = 64, height: int = 64, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Of an uncompressed image of bytes in one strip."""
    known = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    known |= {273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height & 0xFFFFFFFF)}
    return known | {int(tag[1:]): value for tag, value in more.items()}


def many_pages(count: int) -> bytes:
    """A chain of tiny pages."""
    page = tags(1, 1)
    size = 2 + 12 * len(page) + 4
    parts = [b"II*\0", struct.pack("<I", 8)]
    for n in range(count):
        following = 8 + (n + 1) * size if n + 1 < count else 0
        parts.append(tiff(page, next_page=following)[8:])
    return b"".join(parts)


def hostile_tiffs(folder: Path) -> dict[str, bytes]:
    vrt = '<VRTDataset rasterXSize="9" rasterYSize="9"><SRS>EPSG:4326</SRS></VRTDataset>'
    tiled = {"t322": (3, 1, 64), "t323": (3, 1, 64), "t324": (4, 1, 200), "t325": (4, 1, 4096)}
    without_strips = {k: v for k, v in tags(3_000_000, 2_000_000, **tiled).items() if k not in (273, 278, 279)}
    pages_in_circle = tiff(tags(), b"\7" * 5000, next_page=8)
    two = tiff(tags(), next_page=126)
    return {
        "circle.tif": pages_in_circle,
        "circle_of_two.tif": two + b"\0" * (126 - len(two)) + tiff(tags(), next_page=8)[8:] + b"\7" * 5000,
        "chain.tif": many_pages(100_000),
        "offsets.tif": tiff(tags(t273=(4, 1, 0xFFFFFFF0)), b"\7" * 5000),
        "counts.tif": tiff(tags(t279=(4, 1, 0xFFFFFFFF)), b"\7" * 5000),
        "six_million_million_pixels.tif": tiff(without_strips, b"\7" * 5000),
        "one_strip.tif": tiff(tags(400_000, 400_000), b"\7" * 5000),
        "no_height.tif": tiff(tags(64, 0), b"\7" * 5000),
        "tag_count.tif": tiff(tags(t258=(3, 0xFFFFFFFF, 8)), b"\7" * 5000),
        "far_page.tif": b"II*\0" + struct.pack("<I", 0xFFFFFFF0),
        "only_a_head.tif": b"II*\0",
        "big_only_a_head.tif": b"II+\0\x08\0\0\0" + b"\xff" * 8,
        "samples.tif": tiff(tags(t277=(3, 1, 65_535)), b"\7" * 5000),
        "vrt.tif": vrt.encode(),
        "aperio.tif": tiff(tags(t270=(2, 60, 200)), b"Aperio Image Library v1|MPP = nan".ljust(5000)),
        "planes.ome.tif": tiff(tags(t270=(2, 400, 200)), b'<?xml version="1.0"?><OME><Image/></OME>'.ljust(5000)),
    }


def hostile_others(folder: Path) -> dict[str, bytes]:
    array = b"\x93NUMPY\x01\0\x76\0{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
    nifti = Path(save_nifti(folder / "v.nii", volume())).read_bytes()
    dicom = Path(save_dicom(folder / "v.dcm", np.zeros((40, 50), np.int16))).read_bytes()
    jpeg = folder / "v.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)).save(jpeg)
    return {
        "empty.tif": b"",
        "empty.nii": b"",
        "noise.tif": np.random.default_rng(0).bytes(5000),
        "text.png": b"no picture at all\n" * 50,
        "bomb.png": bomb(),
        "huge.png": png(999_999, 999_999, zlib.compress(b"\0" * 100)),
        "wide.png": png(2_000_000_000, 1, zlib.compress(b"\0" * 100)),
        "cut.jpg": jpeg.read_bytes()[:-3000],
        "huge.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "huge.npy": (array % b"400000, 400000").ljust(127) + b"\n" + b"\0" * 100,
        "negative.npy": (array % b"-4, 400000").ljust(127) + b"\n" + b"\0" * 100,
        "code.npy": (array % b"__import__('os'),").ljust(127) + b"\n" + b"\0" * 100,
        "zeros.gz": gzip.compress(b"\0" * 300_000_000, 1),
        "cut.nii.gz": gzip.compress(nifti)[:-300],
        "cut.nii": nifti[:-300],
        "cut.dcm": dicom[:-300],
        "cut_header.dcm": dicom[:200],
        "preamble.dcm": b"\0" * 128 + b"DICM",
        "archive.npz": b"PK\3\4" + b"\xff" * 200,
        "gif.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + b"\0" * 60,
        "jp2.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 300,
        "jpeg_claims.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x22\0\2\x11\1\3\x11\1" + b"\0" * 200,
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the child said of every hostile file, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    files = hostile_tiffs(folder) | hostile_others(folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    claims = {"shape": (500_000, 500_000), "fortran_order": False, "descr": "|u1"}
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, claims)
        file.write(b"\0" * 10_000_000)
    write_raster(folder / "nan.tif", np.zeros((9, 9), np.uint8))
    (folder / "nan.tfw").write_text("nan\nnan\nnan\nnan\nnan\nnan\n")
    (folder / "broken.zarr").mkdir()
    (folder / "broken.zarr" / "zarr.json").write_text("{")
    (folder / "folder").mkdir()
    paths = [folder / name for name in (*files, "bomb.npz", "nan.tif", "broken.zarr", "folder")]
    return {Path(uri).name: messages for uri, messages in look(paths).items()}


# Their first page is whole, so that it may be read.
READ = ("circle.tif", "circle_of_two.tif", "counts.tif", "tag_count.tif", "aperio.tif", "planes.ome.tif")


def test_all_that_cannot_be_read_is_refused_before_training(said):
    fine = {name for name, messages in said.items() if "describe" not in messages and "probe" not in messages}
    assert fine <= set(READ)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty.tif", "the file is empty"),
        ("six_million_million_pixels.tif", "header claims 3000000 × 2000000 pixels"),
        ("one_strip.tif", "cannot be read"),
        ("bomb.png", "can only be read as a whole, and this one takes 1.5 GiB"),
        ("huge.png", "header claims 999999 × 999999 pixels"),
        ("chain.tif", "its pages are more than 20000"),
        ("samples.tif", "header claims 65535 bands"),
        ("vrt.tif", "a VRT under another name is not recognized"),
        ("nan.tif", "transform holds no numbers"),
        ("bomb.npz", "takes 232.8 GiB"),
        ("huge.npy", "bytes"),
        ("zeros.gz", "not recognized"),
        ("cut.jpg", "cannot be read"),
        ("cut.dcm", "cannot be read"),
        ("preamble.dcm", "no pixel data"),
        ("folder", "a folder without DICOM files or Zarr"),
    ],
)
def test_the_reason_is_said(said, name, says):
    assert says in said[name]["probe"]


def test_files_cut_off_anywhere(tmp_path):
    make_scene(tmp_path, height=300, width=300, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    make_scene(tmp_path, "b", height=300, width=300, ending=".png", label_ending=None)
    svs(tmp_path / "c.svs")
    tifffile.imwrite(tmp_path / "d.ome.tif", make_pixels(2, 200, 200, "uint16"), ome=True, tile=(64, 64))
    np.savez_compressed(tmp_path / "e.npz", make_pixels(2, 200, 200, "uint16"))
    save_nifti(tmp_path / "f.nii.gz", volume())
    save_dicom(tmp_path / "g.dcm", make_pixels(1, 90, 90, "uint16")[0])
    whole = [tmp_path / "images" / "a.tif", tmp_path / "images" / "b.png", *sorted(tmp_path.glob("?.*"))]
    cut = []
    for path in whole:
        data = path.read_bytes()
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            cut.append(tmp_path / f"{share}-{path.name}")
            cut[-1].write_bytes(data[: int(len(data) * share)])
    said = look([*whole, *cut])
    # A whole file is read (but a label of NaN-free floats or colours may be refused as a label).
    assert all(set(said[str(path)]) <= {"label"} for path in whole)
    # Of a file that lost a tenth something is missing wherever it was cut.
    lost = [path for path in cut if float(path.name.partition("-")[0]) <= 0.9]
    assert [path.name for path in lost if not said[str(path)]] == []


def test_files_with_wrong_bytes(tmp_path):
    """Whatever a few changed bytes make of a header."""
    svs(tmp_path / "a.svs", levels=2)
    save_nifti(tmp_path / "b.nii", volume())
    save_dicom(tmp_path / "c.dcm", make_pixels(1, 90, 90, "uint16")[0])
    np.save(tmp_path / "d.npy", make_pixels(3, 30, 30, "uint8"))
    make_scene(tmp_path, height=90, width=90, label_ending=None)
    rng = np.random.default_rng(7)
    changed = []
    for path in (*sorted(tmp_path.glob("?.*")), tmp_path / "images" / "a.tif"):
        data = path.read_bytes()
        for number in range(12):
            broken = bytearray(data)
            begin = len(data) - 3000 if path.suffix == ".svs" and number % 2 else 0
            for at in rng.integers(max(0, begin), max(0, begin) + min(len(data), 700), rng.integers(1, 9)):
                broken[min(at, len(data) - 1)] = rng.integers(256)
            changed.append(tmp_path / f"{number}-{path.name}")
            changed[-1].write_bytes(bytes(broken))
    look(changed)
