"""Read windows from shards."""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips.raw_chip import RawChip
from pipeline.data.feed.shards import layout
from pipeline.data.feed.shards.layout import (
    CHUNK,
    FOOTER,
    HINT,
    MAGIC,
    NONE_VALID,
    REMOVE_HINT,
    ROW,
    SOME_VALID,
    UNREADABLE,
    VERIFY_HINT,
    Layout,
    PlacedScene,
)
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.errors import ManifestError, SceneError

if TYPE_CHECKING:
    from pipeline.log import Advance  # processes that read chips show no progress

# Of a frame of Blosc: bytes of the content, bytes of the frame.
_LENGTHS: Final = struct.Struct("<4xI4xI")


@dataclass(frozen=True)
class Verified:
    """Shards of which every byte is as it was written."""

    uri: str
    num_scenes: int
    num_shards: int
    stored_bytes: int


class Shards:
    """Windows from prepared shards; to be shared by threads.

    Files are mapped into memory; those in a bucket are first copied to this node's disk, whole.
    """

    def __init__(self, uri: str, layout: Layout) -> None:
        self._uri, self._layout = uri, layout
        self._files: dict[int, File] = {}
        self._tables: dict[str, NDArray[Any]] = {}
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards.open, (self._uri, self._layout.digest)

    @classmethod
    def open(cls, uri: str, digest: str) -> Shards:
        """The shards in a folder.

        Raises:
            ManifestError: there are none, they are damaged, or of other data than `digest` says.
        """
        layout = Layout.read(uri)
        if layout.digest != digest:
            raise ManifestError(f"the shards at {uri} are of manifest {layout.digest[:12]}, not of {digest[:12]}", HINT)
        return cls(uri, layout)

    def read(self, scene: str, window: Window) -> RawChip | None:
        """Raw chip of a window, or None if the shards do not hold it.

        Raises:
            SceneError: a shard is missing or damaged.
        """
        placed = self._layout.scenes.get(scene)
        if placed is None:
            return None
        top, left = max(window.row, 0), max(window.col, 0)
        bottom, right = min(window.row + window.height, placed.height), min(window.col + window.width, placed.width)
        whole = (top, left, bottom, right) == (*window[:2], window.row + window.height, window.col + window.width)
        cut = self._empty(window.height, window.width, padded=not whole)
        if top >= bottom or left >= right:
            return cut
        first, end = (top // CHUNK, left // CHUNK), (-(-bottom // CHUNK), -(-right // CHUNK))
        table = self._table(scene, placed)[window.slice, first[0] : end[0], first[1] : end[1]]
        if (table["state"] == UNREADABLE).any():
            return None
        cut.valid[top - window.row : bottom - window.row, left - window.col : right - window.col] = True
        rows = [_Overlap.of(i * CHUNK, window.row, window.height, placed.height) for i in range(first[0], end[0])]
        cols = [_Overlap.of(i * CHUNK, window.col, window.width, placed.width) for i in range(first[1], end[1])]
        file = self._file(placed.shard)
        for row, entries in zip(rows, table.tolist(), strict=True):
            for col, entry in zip(cols, entries, strict=True):
                self._put(cut, row, col, file, entry)
        return cut

    def verify(self, progress: Advance | None = None) -> Verified:
        """Read everything once and compare checksums.

        Args:
            progress: is called with scenes done and all scenes.

        Raises:
            SceneError: shards are damaged; says which, and where.
        """
        scenes = self._layout.scenes
        damaged = []
        for done, (scene, placed) in enumerate(scenes.items(), 1):
            file = self._file(placed.shard)
            if file.damaged(placed.first, placed.num_chunks) is not None:
                damaged.append(f"{file.uri}: damaged at scene {scene}")
            if progress is not None:
                progress(done, len(scenes))
        if damaged:
            raise SceneError("\n  ".join(damaged), REMOVE_HINT)
        return Verified(self._uri, len(scenes), len(self._layout.files), sum(self._layout.sizes))

    def _empty(self, height: int, width: int, *, padded: bool) -> RawChip:
        make = np.zeros if padded else np.empty
        layout = self._layout
        planes = (layout.num_planes,) if layout.num_planes else ()
        mask: NDArray[np.uint8] = np.empty((*planes, height, width), np.uint8)
        if padded:
            mask[:] = IGNORE
        return RawChip(make((layout.num_bands, height, width), layout.dtype), np.zeros((height, width), np.bool_), mask)

    def _put(self, cut: RawChip, row: _Overlap, col: _Overlap, file: File, entry: tuple[int, ...]) -> None:
        """One chunk's part of a window."""
        offset, size, _, constant, state = entry
        if state == NONE_VALID:
            cut.image[:, row.into, col.into] = 0
            cut.valid[row.into, col.into] = False
        else:
            buffer = self._buffer(row.length, col.length)
            some_valid, varied = state == SOME_VALID, constant < 0
            self._decode(file.view(offset, size), buffer, varied, some_valid)
            cut.image[:, row.into, col.into] = buffer.image[:, row.out, col.out]
            if varied:
                cut.mask[..., row.into, col.into] = buffer.mask[..., row.out, col.out]
            if some_valid:
                valid = buffer.valid if varied else buffer.valid_first
                cut.valid[row.into, col.into] = valid[row.out, col.out]
        if constant >= 0:
            cut.mask[..., row.into, col.into] = constant

    def _decode(self, frame: NDArray[np.uint8], buffer: _ChunkBuffer, varied: bool, some_valid: bool) -> None:
        itemsize = buffer.image.itemsize
        length = buffer.image.nbytes + varied * buffer.mask.nbytes + some_valid * buffer.valid.nbytes
        length += -length % itemsize
        # The decoder believes what a frame says of its own length.
        if len(frame) < 16 or _LENGTHS.unpack_from(frame.data) != (length, len(frame)):
            raise SceneError(f"a shard in {self._uri} is damaged", VERIFY_HINT)
        try:
            layout.decompress()(frame, buffer.content)
        except (RuntimeError, ValueError) as error:
            raise SceneError(f"a shard in {self._uri} is damaged ({error})", VERIFY_HINT) from error

    def _buffer(self, tall: int, wide: int) -> _ChunkBuffer:
        """Memory of this thread for a chunk, overwritten by the next one."""
        buffers: dict[Any, _ChunkBuffer] = self._local.__dict__
        buffer = buffers.get((tall, wide))
        if buffer is None:
            buffer = buffers[tall, wide] = _ChunkBuffer.of(self._layout, tall, wide)
        return buffer

    def _file(self, number: int) -> File:
        file = self._files.get(number)
        if file is None:
            uri = store.join(self._uri, self._layout.files[number])
            file = self._files.setdefault(number, File.open(uri, self._layout.sizes[number]))
        return file

    def _table(self, scene: str, placed: PlacedScene) -> NDArray[Any]:
        """The rows of a scene [slices, rows, cols]."""
        table = self._tables.get(scene)
        if table is None:
            rows = self._file(placed.shard).rows(placed.first, placed.num_chunks)
            table = self._tables.setdefault(scene, rows.reshape(placed.slices, *placed.grid))
        return table


class _Overlap(NamedTuple):
    """Overlap of a chunk and a window along one axis: pixels of the window, of the chunk, and the chunk's side."""

    into: slice
    out: slice
    length: int

    @classmethod
    def of(cls, begin: int, first: int, size: int, total: int) -> _Overlap:
        length = min(CHUNK, total - begin)
        low, high = max(begin, first), min(begin + length, first + size)
        return cls(slice(low - first, high - first), slice(low - begin, high - begin), length)


@dataclass(frozen=True)
class _ChunkBuffer:
    """Memory for a decoded chunk, and the arrays that can lie in it, one after the other."""

    content: NDArray[np.uint8]
    image: NDArray[Any]
    mask: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    valid_first: NDArray[np.bool_]
    """Where the mask is constant, and so left out."""

    @classmethod
    def of(cls, layout: Layout, tall: int, wide: int) -> _ChunkBuffer:
        planes = (layout.num_planes,) if layout.num_planes else ()
        pixels = tall * wide
        masks = pixels * (layout.num_planes or 1)
        images = pixels * layout.num_bands * np.dtype(layout.dtype).itemsize
        content = np.zeros(images + masks + pixels + 16, np.uint8)
        return cls(
            content,
            content[:images].view(layout.dtype).reshape(layout.num_bands, tall, wide),
            content[images : images + masks].reshape(*planes, tall, wide),
            content[images + masks : images + masks + pixels].view(np.bool_).reshape(tall, wide),
            content[images : images + pixels].view(np.bool_).reshape(tall, wide),
        )


class File:
    """One shard, open for reading."""

    def __init__(self, uri: str, content: memoryview) -> None:
        self.uri = uri
        self._bytes: NDArray[np.uint8] = np.frombuffer(content, np.uint8)
        footer = np.frombuffer(content[-FOOTER.itemsize :], FOOTER)[0] if len(content) > FOOTER.itemsize else None
        if footer is None or footer["magic"] != MAGIC:
            raise SceneError(f"{uri} is no shard, or was cut off", HINT)
        start, num_rows = int(footer["offset"]), int(footer["rows"])
        if start + num_rows * ROW.itemsize + FOOTER.itemsize != len(content):
            raise SceneError(f"{uri} was cut off", HINT)
        self.job: bytes = footer["job"]
        self._table = content[start : start + num_rows * ROW.itemsize]
        if zlib.crc32(self._table) != footer["crc"]:
            raise SceneError(f"{uri}: its table is damaged", HINT)

    @classmethod
    def open(cls, uri: str, size: int | None = None) -> File:
        """A shard, whose size must be `size` bytes.

        Raises:
            SceneError: it is missing or damaged.
        """
        try:
            with store.local_file(uri).open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise SceneError(f"{uri}: no such file; it is a part of the prepared shards", HINT) from None
        except (OSError, ValueError) as error:
            raise SceneError(f"{uri}: cannot be read ({error})", HINT) from error
        if size is not None and len(content) != size:
            raise SceneError(f"{uri} has {len(content)} bytes, not {size}", HINT)
        return cls(uri, content)

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Some bytes."""
        return self._bytes[offset : offset + length]

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """A part of the table."""
        return np.frombuffer(self._table, ROW, count, first * ROW.itemsize)

    def damaged(self, first: int = 0, count: int = -1) -> int | None:
        """The first of some chunks whose bytes are not those that were written, or None; reads them all."""
        rows = self.rows(first, count).tolist()
        for number, (offset, size, crc, _, _) in enumerate(rows, first):
            if zlib.crc32(self.view(offset, size).data) != crc:
                return number
        return None
