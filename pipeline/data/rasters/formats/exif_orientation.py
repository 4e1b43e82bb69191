"""Images with an EXIF orientation tag, read as viewers show them.

The tag is number 274 of TIFF 6.0 and of EXIF (CIPA DC-008), in which JPEG, PNG and WebP keep it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window

UPRIGHT: Final = 1
_TAG: Final = 274
_SHORT: Final = 3
_MAX_ENTRIES: Final = 1000
_MAX_EXIF: Final = 1 << 20
_EXIF: Final = b"Exif\0\0"
# Of stored pixels: whether rows become columns, and then whether rows and columns run the other way.
_MOVES: Final = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class OrientedReader:
    """A reader (`protocol.Reader`) of another's pixels as viewers show them; `orientation` is 2 to 8."""

    reader: Reader
    orientation: int

    @property
    def height(self) -> int:
        """Rows as shown."""
        return self.reader.width if self._turned else self.reader.height

    @property
    def width(self) -> int:
        """Columns as shown."""
        return self.reader.height if self._turned else self.reader.width

    @property
    def slices(self) -> int:
        """As stored."""
        return self.reader.slices

    @property
    def num_bands(self) -> int:
        """As stored."""
        return self.reader.num_bands

    @property
    def dtype(self) -> str:
        """As stored."""
        return self.reader.dtype

    @property
    def grid(self) -> Grid:
        """Without coordinates: a raster that has some is read as it is stored."""
        return Grid(self.height, self.width)

    @cached_property
    def info(self) -> RasterInfo:
        """What the header says, as shown."""
        info = self.reader.info
        tile, levels = info.tile, info.levels
        if self._turned:
            tile, levels = (tile[1], tile[0]), tuple((width, height) for height, width in levels)
        note = f"{info.format}, turned as its orientation tag ({self.orientation}) says"
        return replace(info, grid=self.grid, tile=tile, levels=levels, format=note)

    @property
    def _turned(self) -> bool:
        return _MOVES[self.orientation][0]

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered [C, h, w] and validity [h, w] of a window of what is shown."""
        turned, down, across = _MOVES[self.orientation]
        height, width = self.info.levels[level] if level else (self.height, self.width)
        row = height - window.row - window.height if down else window.row
        col = width - window.col - window.width if across else window.col
        stored = window._replace(row=row, col=col)
        if turned:
            stored = window._replace(row=col, col=row, height=window.width, width=window.height)
        pixels, valid = self.reader.read(stored, bands, level)
        return Pixels(np.ascontiguousarray(self._shown(pixels)), np.ascontiguousarray(self._shown(valid)))

    def _shown(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        turned, down, across = _MOVES[self.orientation]
        array = array.swapaxes(-1, -2) if turned else array
        return array[..., :: -1 if down else 1, :: -1 if across else 1]

    def close(self) -> None:
        """Release the file."""
        self.reader.close()


def oriented(reader: Reader, file: BinaryIO) -> Reader:
    """The reader itself, or one of what viewers show.

    A raster with coordinates is read as it is stored, which is what its transform is about.
    """
    if reader.grid.georeferenced:
        return reader
    found = tag(file)
    return reader if found == UPRIGHT else OrientedReader(reader, found)


def tag(file: BinaryIO) -> int:
    """The orientation 1 to 8 that a TIFF, JPEG, PNG or WebP file states; 1 of others, and where that is damaged."""
    head = file.read(12)
    try:
        if head[:2] in (b"II", b"MM"):
            return _in_tiff(file)
        parts: Iterator[bytes] = iter(())
        if head.startswith(b"\xff\xd8"):
            parts = _of_jpeg(file)
        elif head.startswith(b"\x89PNG\r\n\x1a\n"):
            parts = _of_chunks(file, 8, ">I4s", b"eXIf", 4)
        elif head.startswith(b"RIFF") and head[8:] == b"WEBP":
            parts = _of_chunks(file, 12, "<4sI", b"EXIF", 0)
        for part in parts:
            return _in_tiff(io.BytesIO(part.removeprefix(_EXIF)))
    except (struct.error, ValueError, OSError, OverflowError):
        pass
    return UPRIGHT


def first_page(head: bytes) -> int:
    """Where the header of the first page of a TIFF or BigTIFF is, by the first 16 bytes of the file.

    Raises:
        struct.error: there are fewer.
    """
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    return int(struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0])


def _in_tiff(file: BinaryIO) -> int:
    """The tag of the first page of a TIFF or BigTIFF."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    file.seek(first_page(head))
    counted, entry = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    (count,) = struct.unpack(order + counted, file.read(struct.calcsize(counted)))
    size = struct.calcsize(order + entry)
    for number, kind, _, value in struct.iter_unpack(order + entry, file.read(min(count, _MAX_ENTRIES) * size)):
        if number == _TAG and kind == _SHORT:
            (found,) = struct.unpack_from(order + "H", value)
            return found if found in _MOVES else UPRIGHT
    return UPRIGHT


def _of_jpeg(file: BinaryIO) -> Iterator[bytes]:
    """Exif segments before the first scan."""
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker[1:] == b"\xff":  # padding
            marker = marker[1:] + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            return
        (length,) = struct.unpack(">H", file.read(2))
        content = file.read(length - 2)
        if marker[1] == 0xE1 and content.startswith(_EXIF):
            yield content


def _of_chunks(file: BinaryIO, begin: int, form: str, wanted: bytes, behind: int) -> Iterator[bytes]:
    """Contents of the chunks of one name; `behind` each chunk are some bytes more."""
    place = begin
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        one, other = struct.unpack(form, head)
        name, length = (one, other) if isinstance(one, bytes) else (other, one)
        if name == wanted and length <= _MAX_EXIF:
            yield file.read(length)
        # Chunks of RIFF are padded to an even length; those of PNG have a checksum behind them.
        place += 8 + length + (behind or length % 2)
