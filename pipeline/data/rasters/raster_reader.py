"""The interface of a reader of rasters, and checks that all readers make before they allocate memory."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import PipelineError, SceneError
from pipeline.recipe.data import Reading

DAMAGED: Final = (
    "the file is damaged or is no GeoTIFF, PNG or JPEG nor of another known format; make or fetch it again, "
    "or convert it with `gdal_translate -of COG`"
)
MAX_BLOCK_BYTES: Final = 2 << 30
"""What must be in memory to read any one pixel."""
MAX_WHOLE_BYTES: Final = 1 << 30
"""The same of formats that are compressed as a whole, where a small file can hold gigabytes."""


class Reader(Protocol):
    """An open raster. Of one thread: it is not safe to share.

    All that `info` says is also there by itself, because all of it may cost more than is needed.
    """

    @property
    def height(self) -> int:
        """Rows of the finest level."""

    @property
    def width(self) -> int:
        """Columns of the finest level."""

    @property
    def slices(self) -> int:
        """Slices of a volume; 1 of everything else."""

    @property
    def num_bands(self) -> int:
        """Bands, alpha left out."""

    @property
    def dtype(self) -> str:
        """Data type of the values as delivered."""

    @property
    def grid(self) -> Grid:
        """Grid of the finest level."""

    @property
    def info(self) -> RasterInfo:
        """The header."""

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered [C, h, w] and validity [h, w].

        Args:
            window: inside the raster, in pixels of `level`.
            bands: their positions from 0; by default all.
            level: position in `info.levels`.
        """

    def close(self) -> None:
        """Release the file."""


@runtime_checkable
class DeclaresNodata(Protocol):
    """A reader that hides pixels because of their value or transparency."""

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Pixels [h, w] that the file holds, although their value may be declared nodata, or be transparent."""


def present(reader: Reader, window: Window) -> NDArray[np.bool_]:
    """Pixels [h, w] that the file holds, although their value may be declared nodata, or be transparent."""
    return reader.present(window) if isinstance(reader, DeclaresNodata) else reader.read(window)[1]


class ReaderBase:
    """Base of readers that know `info` when they are opened: its parts as properties."""

    info: RasterInfo

    @property
    def height(self) -> int:
        """Rows of the finest level."""
        return self.info.grid.height

    @property
    def width(self) -> int:
        """Columns of the finest level."""
        return self.info.grid.width

    @property
    def slices(self) -> int:
        """Slices of a volume; 1 of everything else."""
        return self.info.slices

    @property
    def num_bands(self) -> int:
        """Bands, alpha left out."""
        return len(self.info.bands)

    @property
    def dtype(self) -> str:
        """Data type of the values as delivered."""
        return self.info.dtype

    @property
    def grid(self) -> Grid:
        """Grid of the finest level."""
        return self.info.grid


def library(name: str, *, extra: str, uri: str) -> Any:
    """An optional library.

    Raises:
        SceneError: it is not installed; the hint names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SceneError(
            f"{uri}: reading it needs the library {name.partition('.')[0]}", f"pip install 'segpipe[{extra}]'"
        ) from error


@contextmanager
def parsing(uri: str) -> Iterator[None]:
    """Whatever a parser raises over a damaged file, as one SceneError.

    The libraries behind it were not made for hostile input: they raise struct.error, KeyError, zlib.error and more.
    """
    try:
        yield
    except (PipelineError, FileNotFoundError, NameError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise SceneError(f"{uri}: cannot be read ({type(error).__name__}: {text})", DAMAGED) from error


def check_size(uri: str, height: int, width: int, slices: int, reading: Reading) -> None:
    """Refuse a header that claims no pixels, or more than any legitimate file has."""
    if min(height, width, slices) < 1:
        raise SceneError(f"{uri}: it has no pixels ({width} × {height})", "make or fetch it again")
    if height * width * slices > reading.max_pixels:
        depth = f" × {slices}" if slices > 1 else ""
        raise SceneError(
            f"{uri}: its header claims {width} × {height}{depth} pixels",
            "the file is damaged; if it is not, raise data.reading.max_pixels",
        )


def check_block(uri: str, height: int, width: int, pixel_bytes: int) -> None:
    """Refuse blocks that would exhaust memory."""
    size = height * width * pixel_bytes
    if size > MAX_BLOCK_BYTES:
        raise SceneError(
            f"{uri}: stored in blocks of {width} × {height} pixels, so that any window needs {size >> 30} GiB",
            "rewrite it in tiles, for instance with `gdal_translate -of COG`",
        )


def check_whole(uri: str, num_bytes: int, kind: str, instead: str) -> None:
    """Refuse what is compressed as a whole and too large for that.

    Args:
        uri: for the message.
        num_bytes: size in memory.
        kind: what it is, such as "a PNG".
        instead: what to do.
    """
    if num_bytes > MAX_WHOLE_BYTES:
        raise SceneError(
            f"{uri}: {kind} can only be read as a whole, and this one takes {num_bytes / 2**30:.1f} GiB", instead
        )


def finite(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Validity [h, w] of values [C, h, w]: no band is NaN or infinite."""
    if pixels.dtype.kind == "f":
        return np.asarray(np.isfinite(pixels).all(axis=0))
    return np.ones(pixels.shape[1:], np.bool_)


def cut(window: Window) -> tuple[slice, slice]:
    """Rows and columns of a window."""
    return slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
