"""Checks of signatures and sidecar files of TIFF and PNG that GDAL itself does not make."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.raster_reader import DAMAGED
from pipeline.errors import SceneError

_TIFF_BEGIN: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_BEGIN: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"IEND\xaeB`\x82"
_PNG_TAIL_BYTES: Final = 4096
_JPEG_2000_BEGIN: Final = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
HEAD_BYTES: Final = 4096
"""How much of the beginning GDAL's drivers look at, at most."""
# Anywhere in there these let GDAL read other files, whatever the file begins with.
_POINTERS: Final = (
    *(b"<VRT", b"PDS_VERSION_ID", b"ODL_VERSION_ID", b"IsisCube", b"^QUBE", b"Product_Observational", b"LBLSIZE"),
    *(b"Algorithm Begin", b"DatasetHeader ", b"<WMS", b"<GDAL_WMS", b"<MRF_META", b"<Dimap_Document"),
)
_MAX_PAGES: Final = 20_000
# Bytes of a value by the number of its type.
_VALUE_BYTES: Final = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


def check_sidecars(uri: str, path: Path) -> None:
    """Refuse sidecar overviews and masks that are no TIFF: GDAL would open them with any of its drivers."""
    for ending in (".ovr", ".msk", ".msk.ovr"):
        sidecar = path.with_name(path.name + ending)
        if sidecar.is_file():
            with sidecar.open("rb") as file:
                if file.read(4) not in _TIFF_BEGIN:
                    raise SceneError(
                        f"{uri}: cannot be read (its sidecar {sidecar.name} is no TIFF)", "remove that file"
                    )


def check_png(uri: str, path: Path) -> None:
    """Refuse a PNG without an end. GDAL's fast way of reading it does not notice."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _PNG_TAIL_BYTES))  # some programs append something
        if _PNG_END not in file.read():
            raise SceneError(f"{uri}: cannot be read (the PNG was cut off)", DAMAGED)


def is_png(head: bytes) -> bool:
    """Whether a file begins as PNG."""
    return head.startswith(_PNG_BEGIN)


def is_jpeg_2000(head: bytes) -> bool:
    """Whether `HEAD_BYTES` of the beginning are JPEG 2000, and nothing else to any of GDAL's drivers."""
    return head.startswith(_JPEG_2000_BEGIN) and not has_remote_sources(head)


def has_remote_sources(head: bytes) -> bool:
    """Whether a driver of GDAL may take `HEAD_BYTES` of the beginning for a header that names other files."""
    return any(mark in head for mark in _POINTERS)


def is_tiff(head: bytes) -> bool:
    """Whether a file begins as TIFF or BigTIFF."""
    return head[:4] in _TIFF_BEGIN


def check_tiff(uri: str, path: Path) -> None:
    """Refuse a chain of pages that bites its tail or does not end, and a first page that was cut off.

    Libraries would follow the one for long, and overlook the other.

    Raises:
        SceneError: with the reason.
    """
    with raster_reader.parsing(uri), path.open("rb") as file:
        order, big, offset = _head(file.read(16))
        entry, pointer = (20, "Q") if big else (12, "I")
        seen: set[int] = set()
        while offset:
            if offset in seen or len(seen) >= _MAX_PAGES:
                what = "go round in a circle" if offset in seen else f"are more than {_MAX_PAGES}"
                raise SceneError(f"{uri}: cannot be read (its pages {what})", DAMAGED)
            file.seek(offset)
            (count,) = struct.unpack(order + ("Q" if big else "H"), _exactly(file, 8 if big else 2))
            if seen:
                file.seek(count * entry, 1)
            else:
                _check_entries(_exactly(file, count * entry), order, big, path.stat().st_size)
            seen.add(offset)
            (offset,) = struct.unpack(order + pointer, _exactly(file, struct.calcsize(pointer)))


def _head(data: bytes) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, and where the first page is."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (first,) = struct.unpack(order + "Q", data[8:16]) if big else struct.unpack(order + "I", data[4:8])
    return order, big, first


def _check_entries(data: bytes, order: str, big: bool, size: int) -> None:
    """Raise ValueError if a value of the page lies beyond the end of the file."""
    form, inline = (order + "HHQQ", 8) if big else (order + "HHII", 4)
    for tag, kind, count, where in struct.iter_unpack(form, data):
        length = count * _VALUE_BYTES.get(kind, 0)
        if length > inline and where + length > size:
            raise ValueError(f"tag {tag} lies beyond the end of the file")


def _exactly(file: Any, count: int) -> bytes:
    data: bytes = file.read(count)
    if len(data) < count:
        raise ValueError("a page lies beyond the end of the file")
    return data
