"""Pages of a TIFF as levels of planes, and their tiles: the part that uses tifffile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import slide_metadata
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

_MAX_PLANES: Final = 1_000_000
_BAND_AXES: Final = "CSQ"
_SLICE_AXES: Final = "ZI"
_PALETTE: Final = 3
_ALPHA: Final = (1, 2)
_YCBCR_J2K: Final = 33003
_SAME_SHAPE: Final = 0.02


@dataclass(frozen=True)
class Level:
    """One resolution: pages of the same shape, one for each plane.

    Attributes:
        page: the first page, which knows how all are encoded.
        pages: of each plane; None where one is missing.
        axes, shape: of the planes: letters and lengths of what varies from page to page.
        height, width: in pixels.
        samples: values per pixel of a page, alpha included.
        alpha: which of them is alpha.
        tile: height and width of a tile or strip.
    """

    page: Any
    pages: tuple[Any, ...]
    axes: str
    shape: tuple[int, ...]
    height: int
    width: int
    samples: int
    alpha: int | None
    tile: tuple[int, int]

    @property
    def dtype(self) -> str:
        """Dtype of all values."""
        return str(np.dtype(self.page.dtype).newbyteorder("="))

    @property
    def colors(self) -> int:
        """Samples that are no alpha."""
        return self.samples - (self.alpha is not None)

    @property
    def num_bands(self) -> int:
        """Bands: channels on pages of their own, times samples."""
        return self.colors * self._length(_BAND_AXES)

    @property
    def slices(self) -> int:
        """Planes along the axis of a stack."""
        return self._length(_SLICE_AXES)

    def _length(self, letters: str) -> int:
        return int(np.prod([n for axis, n in zip(self.axes, self.shape, strict=True) if axis in letters], dtype=int))

    def plane(self, band: int, slice_number: int) -> int:
        """Number of the page that holds a band of a slice."""
        left = {True: band // self.colors, False: slice_number}
        index = []
        for axis, length in reversed(list(zip(self.axes, self.shape, strict=True))):
            left[axis in _BAND_AXES], at = divmod(left[axis in _BAND_AXES], length)
            index.append(at)
        return int(np.ravel_multi_index(tuple(reversed(index)), self.shape)) if self.shape else 0

    def sample(self, band: int) -> int:
        """Sample of a page that a band is."""
        return band % self.colors

    def channel(self, sample: int) -> int:
        """Index of a sample in a decoded tile."""
        return 0 if self.page.planarconfig == 2 else sample

    def tiles(self, window: Window) -> Iterator[tuple[int, int]]:
        """Rows and columns of the tiles that a window touches."""
        height, width = self.tile
        for row in range(window.row // height, (window.row + window.height - 1) // height + 1):
            for col in range(window.col // width, (window.col + window.width - 1) // width + 1):
                yield row, col

    def number(self, position: tuple[int, int], sample: int) -> int:
        """Number of a tile in its page; of separate planes each has its own."""
        down, across = -(-self.height // self.tile[0]), -(-self.width // self.tile[1])
        first = sample * down * across if self.page.planarconfig == 2 else 0
        return first + position[0] * across + position[1]


def levels(uri: str, file: Any, reading: Reading) -> list[Level]:
    """The levels of the first image, finest first.

    Raises:
        SceneError: its axes are no image's, or a header claims too much.
    """
    slide_metadata.check_planes(uri, file)
    found = [_level(uri, series, reading) for series in file.series[0].levels]
    first = found[0]
    same = [
        level
        for level in found
        if abs((first.width / level.width) / (first.height / level.height) - 1) < _SAME_SHAPE
        and (level.num_bands, level.slices, level.dtype) == (first.num_bands, first.slices, first.dtype)
    ]
    return sorted(same, key=lambda level: -level.width)


def _level(uri: str, series: Any, reading: Reading) -> Level:
    page = series.keyframe
    if page.dtype is None or page.imagedepth > 1:
        kind = "of an unknown type" if page.dtype is None else f"{page.imagedepth} deep"
        raise SceneError(f"{uri}: its pixels are {kind}", "save it as OME-TIFF")
    inner = set(page.axes)
    outer = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if axis not in inner]
    outer = [(axis, length) for axis, length in outer if length > 1]
    odd = [f"{axis}={length}" for axis, length in outer if axis not in _BAND_AXES + _SLICE_AXES]
    if odd or not {"Y", "X"} <= inner:
        raise SceneError(
            f"{uri}: axes {series.axes} of {series.shape}; {', '.join(odd) or 'an image has Y and X'}",
            "save one time and position as a file of its own",
        )
    raster_reader.check_size(uri, page.imagelength, page.imagewidth, 1, reading)
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    tile = (min(int(tile[0]), page.imagelength), int(tile[1])) if not page.is_tiled else (int(tile[0]), int(tile[1]))
    contiguous = page.samplesperpixel if page.planarconfig == 1 else 1
    raster_reader.check_block(uri, tile[0], tile[1], contiguous * np.dtype(page.dtype).itemsize)
    extra = tuple(page.extrasamples)
    has_alpha = extra and int(extra[-1]) in _ALPHA and reading.alpha == "mask"
    alpha = page.samplesperpixel - 1 if has_alpha else None
    return Level(
        page=page,
        pages=_planes(series, int(np.prod([length for _, length in outer], dtype=int))),
        axes="".join(axis for axis, _ in outer),
        shape=tuple(length for _, length in outer),
        height=int(page.imagelength),
        width=int(page.imagewidth),
        samples=int(page.samplesperpixel),
        alpha=alpha,
        tile=tile,
    )


class _Plane(NamedTuple):
    """A page that has no header of its own."""

    dataoffsets: tuple[int, ...]
    databytecounts: tuple[int, ...]
    jpegtables: None = None


def _planes(series: Any, count: int) -> tuple[Any, ...]:
    """All pages; those that ImageJ writes one after another behind a single header are found by their size."""
    if count > _MAX_PLANES:
        raise ValueError(f"it claims {count} planes")
    page = series.keyframe
    pages = tuple(series.pages)
    if len(pages) >= count and (count == 1 or pages[1] is not None):
        return pages
    if series.dataoffset is None or page.compression != 1 or page.is_tiled:
        return pages
    row = page.imagewidth * page.samplesperpixel * np.dtype(page.dtype).itemsize
    rows = [min(page.rowsperstrip, page.imagelength - r) for r in range(0, page.imagelength, page.rowsperstrip)]
    sizes = tuple(n * row for n in rows)
    starts = [series.dataoffset + sum(sizes[:n]) for n in range(len(sizes))]
    whole = sum(sizes)
    return tuple(_Plane(tuple(s + n * whole for s in starts), sizes) for n in range(count))


def decode(uri: str, file: Any, level: Level, plane: int, number: int) -> NDArray[Any] | None:
    """A tile [h, w, samples]; None if the file leaves it out.

    Raises:
        SceneError: it lies beyond the end of the file.
    """
    page = level.pages[plane] if plane < len(level.pages) else None
    if page is None:
        return None
    offset, count = page.dataoffsets[number], page.databytecounts[number]
    if count == 0:
        return None
    if offset + count > file.filehandle.size:
        raise SceneError(
            f"{uri}: cannot be read (tile {number} lies beyond the end of the file)", raster_reader.DAMAGED
        )
    file.filehandle.seek(offset)
    data = file.filehandle.read(count)
    segment, _, _ = level.page.decode(data, number, jpegtables=page.jpegtables, _fullsize=True)
    if segment is None:
        return None
    tile: NDArray[Any] = np.asarray(segment)[0]
    if level.page.compression == _YCBCR_J2K and tile.shape[2] == 3:  # Aperio's: the codec does not know
        tile = np.asarray(cv2.cvtColor(np.ascontiguousarray(tile[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB))
    return tile


def palette(level: Level) -> NDArray[np.uint8] | None:
    """Red, green and blue [3, values], where values are positions in a palette."""
    if level.page.photometric != _PALETTE or level.page.colormap is None:
        return None
    return np.asarray(np.asarray(level.page.colormap) >> 8, np.uint8)
