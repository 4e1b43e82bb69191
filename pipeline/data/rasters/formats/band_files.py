"""Scenes whose bands are in files of their own, read as one raster on the grid of the first.

Bands at another resolution are brought to that grid: bilinear (averaged where they are finer), labels to the nearest
pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import gdal_env, raster_reader, resampling
from pipeline.data.rasters.dtypes import Rule, image_dtype, is_measured, is_unusable, stored_as
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.resampling import Axis
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError

_TOLERANCE_PIXELS: Final = 1e-3
_SAME_SHAPE: Final = 0.01
_HINT: Final = (
    "bring the bands to one grid, for instance with `gdalwarp -r bilinear`, or leave out those at other places"
)
_SAME: Final = ((0.0, 1.0), (0.0, 1.0))
_MIXED: Final = 1e-4
_Marked = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]
"""Values [C, h, w], where they are allowed [h, w], and which of them are nodata [C, h, w]."""


@dataclass(frozen=True)
class BandsReader:
    """Open rasters as the bands of one; their owner closes them."""

    uris: tuple[str, ...]
    parts: tuple[Reader, ...]
    label: bool
    rule: Rule

    def __post_init__(self) -> None:
        for number, part in enumerate(self.parts[1:], 1):
            self._relation(number)
            if part.slices != self.slices:
                raise SceneError(
                    f"{self.uris[0]} and {self.uris[number]}: {self.slices} slices against {part.slices}",
                    "use files of one volume",
                )

    def close(self) -> None:
        """Do nothing: the caller that opened the parts closes them."""

    @property
    def height(self) -> int:
        """Of the first."""
        return self.parts[0].height

    @property
    def width(self) -> int:
        """Of the first."""
        return self.parts[0].width

    @property
    def slices(self) -> int:
        """Of the first; others must have as many."""
        return self.parts[0].slices

    @property
    def grid(self) -> Grid:
        """Of the first."""
        return self.parts[0].grid

    @cached_property
    def num_bands(self) -> int:
        """Of all together."""
        return sum(part.num_bands for part in self.parts)

    @cached_property
    def dtype(self) -> str:
        """One that holds the values of all."""
        kinds = {part.dtype for part in self.parts}
        if len(kinds) == 1:
            return kinds.pop()
        if not self.label:
            kinds = {image_dtype(uri, part.dtype) for uri, part in zip(self.uris, self.parts, strict=True)}
        return str(np.result_type(*kinds))

    @cached_property
    def info(self) -> RasterInfo:
        """The first one's grid with the bands of all; bands are numbered through where their names do not differ."""
        infos = [part.info for part in self.parts]
        names = [name for info in infos for name in info.bands]
        if len(set(names)) < len(names):
            names = [f"band_{i}" for i in range(1, len(names) + 1)]
        kinds = ", ".join(dict.fromkeys(info.format for info in infos))
        first = infos[0]
        same = all(self._relation(n) == _SAME and info.levels == first.levels for n, info in enumerate(infos))
        levels = first.levels if same else first.levels[:1]
        kind = f"{len(infos)} files: {kinds}"
        nodata = tuple(value for info in infos for value in info.nodata or (None,) * len(info.bands))
        begins = itertools.accumulate((len(info.bands) + len(info.alpha) for info in infos), initial=0)
        alpha = tuple(begin + position for begin, info in zip(begins, infos, strict=False) for position in info.alpha)
        return replace(
            first,
            bands=tuple(names),
            dtype=self.dtype,
            levels=levels,
            format=kind,
            nodata=nodata,
            alpha=alpha,
            hides=any(info.hides for info in infos),
        )

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values [C, h, w] of the common type, valid where all are, but for nodata values that `rule` lets pass."""
        wanted = list(range(self.num_bands)) if bands is None else list(bands)
        order: list[int] = []
        found: list[Pixels] = []
        missing: list[NDArray[np.bool_]] = []
        begin = 0
        for number, part in enumerate(self.parts):
            own = [band - begin for band in dict.fromkeys(wanted) if begin <= band < begin + part.num_bands]
            if own:
                pixels, allowed, absent = self._read(number, window, own, level)
                found.append(Pixels(pixels.astype(self.dtype, copy=False), allowed))
                missing.append(absent)
                order += [band + begin for band in own]
            begin += part.num_bands
        pixels, valid = resampling.merged(found)
        valid &= is_measured(np.concatenate(missing), self.rule)
        return Pixels(pixels if order == wanted else pixels[[order.index(band) for band in wanted]], valid)

    def _relation(self, number: int) -> tuple[tuple[float, float], tuple[float, float]]:
        if number == 0:
            return _SAME
        return relation(self.parts[0].grid, self.parts[number].grid, self.uris[0], self.uris[number])

    def _read(self, number: int, window: Window, bands: list[int], level: int) -> _Marked:
        try:
            return self._read_part(number, window, bands, level)
        except gdal_env.READ_ERRORS as error:
            reason = gdal_env.reason(error)
            raise SceneError(f"{self.uris[number]}: cannot be read ({reason})", raster_reader.DAMAGED) from error

    def _read_part(self, number: int, window: Window, bands: list[int], level: int) -> _Marked:
        """Values, where nothing but nodata hides them, and which are nodata: under the rule `all` other parts decide
        about these."""
        part = self.parts[number]
        rows, cols = self._relation(number)
        nodata: list[float | None] = [None] * len(bands)
        if self.rule == "all" and part.info.nodata:
            nodata = [part.info.nodata[band] for band in bands]
        if (rows, cols) == _SAME:
            return _marked(part.read(window, bands, level), nodata)
        down = Axis(rows[0] + window.row * rows[1], rows[1], window.height)
        across = Axis(cols[0] + window.col * cols[1], cols[1], window.width)
        size = part.height, part.width

        def with_marks(area: Window) -> Pixels:
            """Bands and, for each, the highest value of the type where it is nodata."""
            pixels, allowed, missing = _marked(part.read(area, bands), nodata)
            return Pixels(np.concatenate([pixels, missing * _mark(pixels.dtype)]), allowed)

        sampled = resampling.sampled_nearest if self.label else resampling.sampled
        both, allowed = sampled(with_marks, size, down, across, window.slice)
        pixels, marks = both[: len(bands)], both[len(bands) :] / _mark(both.dtype)
        missing = marks > 1 - _MIXED
        # A mixture of measured values and nodata is neither.
        allowed = allowed & ((marks < _MIXED) | missing).all(axis=0)
        for band, absent, value in zip(pixels, missing, nodata, strict=True):
            if value is not None:
                band[absent] = value
        return pixels, allowed, missing


def _marked(read: Pixels, nodata: Sequence[float | None]) -> _Marked:
    """What a part read, whose nodata pixels are not valid."""
    pixels, valid = read
    missing = np.zeros(pixels.shape, np.bool_)
    for band, absent, value in zip(pixels, missing, nodata, strict=True):
        stored = None if value is None else stored_as(float(value), band.dtype)
        if stored is not None and not is_unusable(stored):
            absent[:] = band == stored
    return pixels, valid | missing.all(axis=0), missing


def _mark(dtype: np.dtype[Any]) -> Any:
    return dtype.type(1 if dtype.kind in "bf" else np.iinfo(dtype).max)


@lru_cache(maxsize=4096)
def relation(ours: Grid, theirs: Grid, our_uri: str, their_uri: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """How pixels of one grid lie on another that covers the same area.

    Returns:
        For rows and for columns: position of our first pixel in theirs, and size of our pixels in theirs.

    Raises:
        SceneError: another CRS, or another area.
    """
    names = f"{our_uri} and {their_uri}: bands of one scene"
    rows, cols = theirs.height / ours.height, theirs.width / ours.width
    if not (ours.georeferenced and theirs.georeferenced):
        if abs(rows / cols - 1) > _SAME_SHAPE:
            raise SceneError(f"{names} are of different shape: {ours.difference(theirs)}", _HINT)
        return (0.0, rows), (0.0, cols)
    if ours.crs and theirs.crs and not gdal_env.same_crs(ours.crs, theirs.crs):
        what = f"{gdal_env.short_crs(ours.crs)} against {gdal_env.short_crs(theirs.crs)}"
        raise SceneError(f"{names} have different CRS: {what}", _HINT)
    top, left = theirs.pixel(*ours.position(0, 0))
    bottom, right = theirs.pixel(*ours.position(ours.height, ours.width))
    skew, _ = theirs.pixel(*ours.position(0, ours.width))
    if abs(skew - top) > _TOLERANCE_PIXELS or right <= left or bottom <= top:
        raise SceneError(f"{names} are turned or mirrored against each other", _HINT)
    off = max(abs(left), abs(top), abs(right - theirs.width), abs(bottom - theirs.height))
    if off > max(1.0, cols, rows):
        raise SceneError(f"{names} cover different areas: {_bounds(ours)} against {_bounds(theirs)}", _HINT)
    return _line(top, bottom, ours.height), _line(left, right, ours.width)


def _line(begin: float, end: float, count: int) -> tuple[float, float]:
    """Start and step, rid of rounding errors of the coordinates."""
    start, step = begin, (end - begin) / count
    if abs(step * count - round(step * count)) < _TOLERANCE_PIXELS:
        step = round(step * count) / count
    return (0.0 if abs(start) < _TOLERANCE_PIXELS else start), step


def _bounds(grid: Grid) -> str:
    (x1, y1), (x2, y2) = grid.position(0, 0), grid.position(grid.height, grid.width)
    return f"x {min(x1, x2):.10g} to {max(x1, x2):.10g}, y {min(y1, y2):.10g} to {max(y1, y2):.10g}"
