"""The file format of shards: compressed chunks with an index, so that any window is read fast.

A scene is divided into chunks of 128 × 128 pixels. A chunk holds image (zero where invalid), mask (class ids and
IGNORE) and validity, compressed by LZ4 after the bytes (of uint8: the bits) of its values were sorted by place. Small
chunks, because a window at random pays for all that it touches: one of 512² pixels for 1.6 times as many, and for 2.3
times as many with chunks of 256. Still smaller ones cost more calls than they save.

    <folder>/00000.shard ...   chunks one after the other; their table; how long that is
    <folder>/shards.json       what lies where; written last, so that its presence says that the rest is whole
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips.raw_chip import RawChip
from pipeline.errors import ManifestError

VERSION: Final = 1
CHUNK: Final = 128
INDEX: Final = "shards.json"
HINT: Final = "run `segpipe prepare` again"
# Shards of the right length count as done, whatever is in them.
REMOVE_HINT: Final = "remove these files, and run `segpipe prepare` again"
VERIFY_HINT: Final = "`segpipe prepare --verify` with this recipe says which file; remove it, and prepare again"

ROW: Final = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("constant", "<i2"), ("state", "u1")])
"""A chunk: where its frame begins, its bytes and their CRC-32, the value of the mask (-1: not constant), and state.

A frame is one run of bytes, compressed: the image, and mask and validity where they are not constant."""
ALL_VALID, SOME_VALID, NONE_VALID, UNREADABLE = range(4)
"""States. Where nothing is valid no frame is stored. An unreadable chunk lies in a part of the file that is damaged;
windows that touch it are read there."""

FOOTER: Final = np.dtype([("rows", "<u8"), ("offset", "<u8"), ("crc", "<u4"), ("job", "S16"), ("magic", "S8")])
MAGIC: Final = b"SEGSHRD1"


@dataclass(frozen=True)
class PlacedScene:
    """A scene in the shards: which file, its first row in that file's table, and its size."""

    shard: int
    first: int
    height: int
    width: int
    slices: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of chunks in a slice."""
        return -(-self.height // CHUNK), -(-self.width // CHUNK)

    @property
    def num_chunks(self) -> int:
        """In all slices."""
        rows, cols = self.grid
        return rows * cols * self.slices


@dataclass(frozen=True)
class Layout:
    """Contents of `shards.json`: the data, shapes and dtypes of arrays, and places of scenes."""

    digest: str
    dtype: str
    num_bands: int
    num_planes: int
    """Of a mask: classes of multilabel data, 0 where masks are [H, W]."""
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    scenes: Mapping[str, PlacedScene]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps({"version": VERSION, "chunk": CHUNK} | asdict(self)).encode()

    @classmethod
    def read(cls, uri: str) -> Layout:
        """Read the layout of a folder of shards.

        Raises:
            ManifestError: there is none, or it is of another version.
            DamagedError: it is damaged.
        """
        place = store.join(uri, INDEX)
        try:
            return store.read_record(place, partial(cls._of_json, place), HINT)
        except FileNotFoundError:
            raise ManifestError(f"there are no prepared shards at {uri}", "run `segpipe prepare`") from None

    @classmethod
    def _of_json(cls, place: str, tree: dict[str, Any]) -> Layout:
        if (tree.pop("version"), tree.pop("chunk")) != (VERSION, CHUNK):
            raise ManifestError(f"{place} is of another version of this program", HINT)
        scenes = {name: PlacedScene(**placed) for name, placed in tree.pop("scenes").items()}
        files, sizes = tuple(map(str, tree.pop("files"))), tuple(map(int, tree.pop("sizes")))
        return cls(**tree, files=files, sizes=sizes, scenes=scenes)


def encode(cut: RawChip) -> Iterator[tuple[tuple[int, int], bytes, tuple[Any, ...]]]:
    """The chunks of a window that begins at a chunk's corner: place in it, content, and row without the offset."""
    height, width = cut.valid.shape
    for row in range(0, height, CHUNK):
        for col in range(0, width, CHUNK):
            part = cut.crop(row, col, min(CHUNK, height - row), min(CHUNK, width - col)).copy()
            yield (row // CHUNK, col // CHUNK), *_encoded(part)


def _encoded(part: RawChip) -> tuple[bytes, tuple[Any, ...]]:
    state = ALL_VALID if part.valid.all() else SOME_VALID if part.valid.any() else NONE_VALID
    image, mask = part.finished((0.0,) * len(part.image))
    constant = int(mask.flat[0]) if (mask == mask.flat[0]).all() else -1
    if state == NONE_VALID:
        return b"", (0, 0, constant, state)
    arrays = [image, *([mask] if constant < 0 else []), *([part.valid] if state == SOME_VALID else [])]
    content = _compress(b"".join(array.tobytes() for array in arrays), image.itemsize)
    return content, (len(content), zlib.crc32(content), constant, state)


def unreadable(height: int, width: int) -> Iterator[tuple[tuple[int, int], bytes, tuple[Any, ...]]]:
    """As `encode`, of a part of a scene that cannot be read."""
    for row in range(-(-height // CHUNK)):
        for col in range(-(-width // CHUNK)):
            yield (row, col), b"", (0, 0, -1, UNREADABLE)


def end(table: NDArray[Any], offset: int, job: bytes) -> bytes:
    """Bytes at the end of a shard: the table, which begins at `offset`, and the footer."""
    rows = table.tobytes()
    footer = np.array([(len(table), offset, zlib.crc32(rows), job, MAGIC)], FOOTER)
    return rows + footer.tobytes()


def _compress(content: bytes, itemsize: int) -> bytes:
    """One frame of Blosc, of content that is mostly values of `itemsize` bytes."""
    blosc = _blosc()
    # Bits sorted by place make bytes a third smaller; of wider types they gain 7 % and cost a third more to read.
    shuffle = blosc.BITSHUFFLE if itemsize == 1 else blosc.SHUFFLE
    whole = content + bytes(-len(content) % itemsize)
    values: NDArray[Any] = np.frombuffer(whole, f"u{itemsize}")
    return bytes(blosc.Blosc("lz4", 5, shuffle).encode(values))


@cache
def decompress() -> Any:
    """Decoder of a frame into a buffer."""
    return _blosc().decompress


@cache
def _blosc() -> Any:
    from numcodecs import blosc

    blosc.use_threads = False  # chunks are small, and the feeds have threads of their own
    return blosc
