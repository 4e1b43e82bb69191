"""A cache of remote rasters on the node's disk: decoded pixels in cells of a fixed raster.

A cell is a tile of the file where tiles are of a usual size, so that reading one decodes nothing twice. LZ4 behind a
bit shuffle is decoded several times faster than the file's own compression: what is on the disk comes faster than
from a local file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.store import Cache

_SMALL, _USUAL, _LARGE = 256, 512, 1024
_MOST_CELLS: Final = 64
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True)
class TileCache:
    """The cells of one level of a raster.

    `name` holds everything that the pixels depend on: URI, stamp, way of reading, level, bands. `tile` is the height
    and width of the file's blocks; 0: unknown.
    """

    name: str
    height: int
    width: int
    tile: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a cell."""
        return _side(self.tile[0]), _side(self.tile[1])

    def over(self, window: Window) -> Iterator[Window]:
        """The cells that a window touches, cut at the raster's edge."""
        rows, cols = self.shape
        for row in range(window.row // rows * rows, window.row + window.height, rows):
            for col in range(window.col // cols * cols, window.col + window.width, cols):
                height, width = min(rows, self.height - row), min(cols, self.width - col)
                yield window._replace(row=row, col=col, height=height, width=width)

    def read(self, window: Window, cache: Cache, source: Callable[[Window], Pixels]) -> Pixels:
        """A window inside the raster, from the cache as far as it is there; the rest is read at once and kept.

        Windows of very many cells are not kept: they are read once.
        """
        cells = list(self.over(window))
        if len(cells) > _MOST_CELLS:
            return source(window)
        found = {cell: _decoded(cache.get(self._key(cell)), cell) for cell in cells}
        missing = [cell for cell, pixels in found.items() if pixels is None]
        if missing:
            area = _around(missing)
            pixels, valid = source(area)
            for cell in missing:
                part = _slices(cell, area)
                found[cell] = Pixels(pixels[:, *part], valid[part])
                cache.put(self._key(cell), _encoded(pixels[:, *part], valid[part]))
        return _joined(window, {cell: pixels for cell, pixels in found.items() if pixels is not None})

    def _key(self, cell: Window) -> str:
        return json.dumps([self.name, cell.slice, cell.row, cell.col, cell.height, cell.width])


def _side(tile: int) -> int:
    if not 0 < tile <= _LARGE:
        return _USUAL
    return tile if tile >= _SMALL else -(-_SMALL // tile) * tile


def _around(cells: list[Window]) -> Window:
    row, col = min(c.row for c in cells), min(c.col for c in cells)
    height, width = max(c.row + c.height for c in cells) - row, max(c.col + c.width for c in cells) - col
    return cells[0]._replace(row=row, col=col, height=height, width=width)


def _slices(inner: Window, outer: Window) -> tuple[slice, slice]:
    """Slices of a window inside another one that contains it."""
    row, col = inner.row - outer.row, inner.col - outer.col
    return slice(row, row + inner.height), slice(col, col + inner.width)


def _joined(window: Window, cells: dict[Window, Pixels]) -> Pixels:
    first = next(iter(cells.values()))[0]
    pixels = np.empty((len(first), window.height, window.width), first.dtype)
    valid = np.empty((window.height, window.width), np.bool_)
    for cell, (values, known) in cells.items():
        row, col = max(cell.row, window.row), max(cell.col, window.col)
        height = min(cell.row + cell.height, window.row + window.height) - row
        width = min(cell.col + cell.width, window.col + window.width) - col
        common = window._replace(row=row, col=col, height=height, width=width)
        there, here = _slices(common, window), _slices(common, cell)
        pixels[:, *there], valid[there] = values[:, *here], known[here]
    return Pixels(pixels, valid)


def _encoded(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> bytes:
    """A line of JSON, the pixels, and the bits of the validity, unless all are valid."""
    packed = _codec(pixels.dtype.itemsize).encode(np.ascontiguousarray(pixels))
    head = json.dumps({"dtype": pixels.dtype.str, "shape": pixels.shape, "pixels": len(packed)}).encode()
    bits = b"" if valid.all() else np.packbits(valid).tobytes()
    return b"".join((_LENGTH.pack(len(head)), head, packed, bits))


def _decoded(data: bytes | None, cell: Window) -> Pixels | None:
    if data is None:
        return None
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    head = json.loads(data[_LENGTH.size : start])
    end = start + head["pixels"]
    dtype = np.dtype(head["dtype"])
    pixels = np.frombuffer(_codec(dtype.itemsize).decode(memoryview(data)[start:end]), dtype).reshape(head["shape"])
    if end == len(data):
        return Pixels(pixels, np.ones((cell.height, cell.width), np.bool_))
    bits = np.frombuffer(data, np.uint8, offset=end)
    return Pixels(
        pixels, np.unpackbits(bits, count=cell.height * cell.width).reshape(cell.height, cell.width).astype(np.bool_)
    )


@lru_cache(maxsize=8)
def _codec(itemsize: int) -> Any:
    from numcodecs import Blosc, blosc

    blosc.use_threads = False  # windows are read in parallel already; this way it also works without Python's lock
    return Blosc(cname="lz4", clevel=1, shuffle=Blosc.BITSHUFFLE, typesize=itemsize)
