"""GRIB: checks before GDAL reads it.

A field may be packed as JPEG 2000, and what is in its place GDAL opens with any of its drivers, some of which follow
names to other files. Source: WMO Manual on Codes, FM 92 GRIB.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import signatures
from pipeline.data.rasters.raster_reader import DAMAGED
from pipeline.errors import SceneError

_BEGIN: Final = b"GRIB"
_END: Final = b"7777"
# Bulletins have a line of text before it.
_MAX_TEXT: Final = 100
_JPEG_2000: Final = (40, 40000)
_PACKING, _DATA = 5, 7


def is_grib(head: bytes) -> bool:
    """Whether a file begins as GRIB of either edition."""
    at = head.find(_BEGIN, 0, _MAX_TEXT)
    return at >= 0 and head[at + 7 : at + 8] in (b"\1", b"\2")


def check_grib(uri: str, path: Path) -> None:
    """Refuse fields that are no JPEG 2000 though they say so.

    Raises:
        SceneError: with the reason.
    """
    with (
        raster_reader.parsing(uri),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for begin, end in _messages(data):
            packing = 0
            for number, start, stop in _sections(data, begin, end):
                if number == _PACKING:
                    packing = int.from_bytes(data[start + 9 : start + 11])
                elif number == _DATA and packing in _JPEG_2000 and not _is_packed(data[start + 5 : stop]):
                    raise SceneError(f"{uri}: cannot be read (a field is packed as no JPEG 2000)", DAMAGED)


def _is_packed(field: bytes) -> bool:
    """Whether it is JPEG 2000; a field of one value throughout is empty."""
    return not field or signatures.is_jpeg_2000(field[: signatures.HEAD_BYTES])


def _messages(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Begin and end of every message of edition 2; none of edition 1, which has no such fields."""
    at = data.find(_BEGIN)
    while at >= 0:
        edition = data[at + 7]
        if edition == 1:
            if any(data[found + 7 : found + 8] == b"\2" for found in _found(data)):
                raise ValueError("messages of editions 1 and 2")
            return
        end = at + int.from_bytes(data[at + 8 : at + 16])
        if edition != 2 or end > len(data) or data[end - 4 : end] != _END:
            raise ValueError(f"a message at byte {at} is cut off")
        yield at, end
        at = data.find(_BEGIN, end)


def _found(data: mmap.mmap) -> Iterator[int]:
    at = data.find(_BEGIN)
    while at >= 0:
        yield at
        at = data.find(_BEGIN, at + 1)


def _sections(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the sections of a message."""
    at = begin + 16
    while at < end - 4:
        size, number = int.from_bytes(data[at : at + 4]), data[at + 4]
        if not (5 <= size <= end - 4 - at and 1 <= number <= _DATA):
            raise ValueError(f"a section at byte {at} is damaged")
        yield number, at, at + size
        at += size
