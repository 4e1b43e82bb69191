"""Resample windows to another scale: average to fewer pixels, interpolate to more.

A pixel is valid only if everything that it was made of is.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window

CHUNK_PIXELS: Final = 1 << 22
_EXACT: Final = 1e-6
# Half of an odd size is rounded, so that a level is a little more or less than twice as coarse.
_ROUNDED: Final = 1.01


class Axis(NamedTuple):
    """Pixels of the result along one axis: number i covers [start + i * step, start + (i + 1) * step)."""

    start: float
    step: float
    num: int

    @property
    def first(self) -> int:
        """The first pixel that is needed to make them; it may lie outside."""
        return int(np.floor(self.start + _EXACT)) - (self.step < 1)

    @property
    def stop(self) -> int:
        """One after the last."""
        return int(np.ceil(self.start + self.step * self.num - _EXACT)) + (self.step < 1)

    def part(self, begin: int, end: int) -> Axis:
        """Pixels [begin, end) of the result."""
        return Axis(self.start + begin * self.step, self.step, end - begin)

    def moved(self, by: float) -> Axis:
        """The axis counted from another pixel."""
        return Axis(self.start - by, self.step, self.num)


def padded(reader: Reader, window: Window, bands: list[int] | None = None, level: int = 0) -> Pixels:
    """Read a window that may reach outside: there values are 0 and invalid."""
    size = reader.info.levels[level] if level else (reader.height, reader.width)
    inside = _part_inside(window, size)
    there = 0 <= window.slice < reader.slices
    if inside == window and there:
        return reader.read(window, bands, level)
    count = reader.num_bands if bands is None else len(bands)
    pixels = np.zeros((count, window.height, window.width), reader.dtype)
    valid = np.zeros((window.height, window.width), np.bool_)
    if inside.height > 0 and inside.width > 0 and there:
        rows, cols = raster_reader.cut(inside._replace(row=inside.row - window.row, col=inside.col - window.col))
        pixels[:, rows, cols], valid[rows, cols] = reader.read(inside, bands, level)
    return Pixels(pixels, valid)


def padded_present(reader: Reader, window: Window) -> NDArray[np.bool_]:
    """`raster_reader.present` for a window that may reach outside, where nothing is: [h, w]."""
    inside = _part_inside(window, (reader.height, reader.width))
    out = np.zeros((window.height, window.width), np.bool_)
    if inside.height > 0 and inside.width > 0 and 0 <= window.slice < reader.slices:
        rows, cols = raster_reader.cut(inside._replace(row=inside.row - window.row, col=inside.col - window.col))
        out[rows, cols] = raster_reader.present(reader, inside)
    return out


def _part_inside(window: Window, size: tuple[int, int]) -> Window:
    """The part of a window inside a raster of this height and width; empty or negative where there is none."""
    row, col = max(window.row, 0), max(window.col, 0)
    height, width = min(window.row + window.height, size[0]) - row, min(window.col + window.width, size[1]) - col
    return Window(row, col, height, width, window.slice)


def axes(window: Window, shape: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)) -> tuple[Axis, Axis]:
    """Rows and columns of a result of `shape` for a window, in pixels of a level that is `scale` times coarser."""
    return (
        Axis(window.row / scale[0], window.height / scale[0] / shape[0], shape[0]),
        Axis(window.col / scale[1], window.width / scale[1] / shape[1], shape[1]),
    )


def sampled(
    read: Callable[[Window], Pixels], size: tuple[int, int], rows: Axis, cols: Axis, window_slice: int = 0
) -> Pixels:
    """Values [C, h, w] and validity at any positions, exact to a part of a pixel.

    The result at a position does not depend on what else is read. Little is in memory at once.

    Args:
        read: gives windows inside a raster.
        size: height and width of that raster.
        rows: positions along it.
        cols: positions across.
        window_slice: of a volume.
    """
    left, right = max(cols.first, 0), min(cols.stop, size[1])
    step = max(1, int(CHUNK_PIXELS / max(1, right - left) / rows.step))
    parts = []
    for begin in range(0, rows.num, step):
        part = rows.part(begin, min(begin + step, rows.num))
        top, bottom = max(part.first, 0), min(part.stop, size[0])
        if top < bottom and left < right:
            pixels, valid = read(Window(top, left, bottom - top, right - left, window_slice))
            parts.append(resampled(pixels, valid, part.moved(top), cols.moved(left)))
        else:
            pixels, valid = read(Window(0, 0, 1, 1, window_slice))
            shape = part.num, cols.num
            parts.append(Pixels(np.zeros((len(pixels), *shape), pixels.dtype), np.zeros(shape, np.bool_)))
    pixels, valid = np.concatenate([p for p, _ in parts], axis=1), np.concatenate([v for _, v in parts])
    valid &= _inside(rows, size[0])[:, None] & _inside(cols, size[1])
    return Pixels(pixels, valid)


def sampled_nearest(
    read: Callable[[Window], Pixels], size: tuple[int, int], rows: Axis, cols: Axis, window_slice: int = 0
) -> Pixels:
    """As `sampled`, but every pixel of the result is one that is there: the one that its centre lies in."""
    down, across = _nearest(rows), _nearest(cols)
    there = ((down >= 0) & (down < size[0]))[:, None] & ((across >= 0) & (across < size[1]))
    down, across = np.clip(down, 0, size[0] - 1), np.clip(across, 0, size[1] - 1)
    left, width = int(across[0]), int(across[-1] - across[0]) + 1
    step = max(1, int(CHUNK_PIXELS / width / max(1.0, rows.step)))
    parts = []
    for begin in range(0, rows.num, step):
        lines = down[begin : begin + step]
        top, height = int(lines[0]), int(lines[-1] - lines[0]) + 1
        pixels, valid = read(Window(top, left, height, width, window_slice))
        down_here, across_here = (lines - top)[:, None], across - left
        parts.append((pixels[:, down_here, across_here], valid[down_here, across_here]))
    pixels, valid = np.concatenate([p for p, _ in parts], axis=1), np.concatenate([v for _, v in parts])
    return Pixels(np.where(there, pixels, pixels.dtype.type(0)), valid & there)


def _inside(line: Axis, length: int) -> NDArray[np.bool_]:
    """Whether pixels of the result lie inside: wholly where they are averages, with their centres otherwise."""
    begin = line.start + np.arange(line.num) * line.step
    half = line.step / 2 if line.step < 1 else 0.0
    return (begin + half > -_EXACT) & (begin + line.step - half < length + _EXACT)


def best_level(sizes: tuple[tuple[int, int], ...], window: Window, shape: tuple[int, int]) -> int:
    """Position of the coarsest level that is not coarser than what is asked for."""
    asked = window.height / shape[0], window.width / shape[1]
    height, width = sizes[0]
    fitting = [
        number
        for number, (rows, cols) in enumerate(sizes)
        if height / rows <= asked[0] * _ROUNDED and width / cols <= asked[1] * _ROUNDED
    ]
    return max(fitting, key=lambda number: -sizes[number][1], default=0)


def of_finest(sizes: tuple[tuple[int, int], ...], window: Window, shape: tuple[int, int]) -> bool:
    """Whether a window at another shape is `resized` from all that lies at it in the finest level."""
    return window.height * window.width <= CHUNK_PIXELS and best_level(sizes, window, shape) == 0


def resized(pixels: NDArray[Any], valid: NDArray[np.bool_], shape: tuple[int, int]) -> Pixels:
    """Values [C, h, w] and validity at another shape, by OpenCV: areas are averaged, enlarging is bilinear."""
    height, width = shape
    # Averaging only works where both axes shrink.
    smaller = min(height, pixels.shape[1]), min(width, pixels.shape[2])
    steps = [(smaller, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)]
    keep = bool(valid.all())
    hidden = None if keep else (~valid).astype(np.float32)
    if hidden is not None:
        pixels = np.where(valid, pixels, 0)  # NaN would spread
    for size, how in steps:
        if pixels.shape[1:] != size:
            out = np.empty((len(pixels), *size), pixels.dtype)
            for band, target in zip(pixels, out, strict=True):
                cv2.resize(np.ascontiguousarray(band), size[::-1], dst=target, interpolation=how)
            pixels = out
        if hidden is not None and hidden.shape != size:
            hidden = cv2.resize(hidden, size[::-1], interpolation=how)
    return Pixels(pixels, np.ones(shape, np.bool_) if hidden is None else hidden <= _EXACT)


def resampled(pixels: NDArray[Any], valid: NDArray[np.bool_], rows: Axis, cols: Axis) -> Pixels:
    """Values [C, h, w] and validity at any positions of an array; beyond its edge they see the outermost pixel."""
    hidden = None if valid.all() else ~valid
    if hidden is not None:
        pixels = np.where(valid, pixels, 0)
    kind = pixels.dtype
    work: NDArray[Any] = pixels.astype(np.float32 if kind.itemsize <= 2 else np.float64, copy=False)
    for axis, line in ((1, rows), (2, cols)):
        index, weights = _taps(line, pixels.shape[axis])
        column = (slice(None), None) if axis == 1 else (slice(None),)
        parts = (np.take(work, i, axis=axis) * w[column] for i, w in zip(index, weights, strict=True))
        work = functools.reduce(lambda a, b: np.add(a, b, out=a), parts)
        if hidden is not None:
            touched = (np.take(hidden, i, axis=axis - 1) & (w > 0)[column] for i, w in zip(index, weights, strict=True))
            hidden = functools.reduce(np.logical_or, touched)
    if kind.kind in "iu":
        np.rint(work, out=work)
    shape = (rows.num, cols.num)
    return Pixels(work.astype(kind), np.ones(shape, np.bool_) if hidden is None else ~hidden)


def _nearest(line: Axis) -> NDArray[np.int64]:
    """Positions of the pixels that the centres of the result's pixels lie in."""
    centers = line.start + (np.arange(line.num) + 0.5) * line.step
    return np.asarray(np.floor(centers + _EXACT), np.int64)


def _taps(line: Axis, length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Input pixels of each pixel of the result, and their weights: both [taps, count]."""
    begin = line.start + np.arange(line.num) * line.step
    if line.step < 1:  # bilinear between the centres
        center = begin + line.step / 2 - 0.5
        first = np.floor(center).astype(np.int64)
        share = center - first
        index, weights = np.stack([first, first + 1]), np.stack([1 - share, share])
    else:
        end = begin + line.step
        first = np.floor(begin + _EXACT).astype(np.int64)
        index = first + np.arange(int(np.ceil(line.step - _EXACT)) + 1)[:, None]
        weights = np.clip(np.minimum(end, index + 1) - np.maximum(begin, index), 0, 1)
    weights[weights < _EXACT] = 0
    weights /= weights.sum(axis=0)
    return np.clip(index, 0, length - 1), weights.astype(np.float32)


def merged(parts: list[Pixels]) -> Pixels:
    """Bands of several readers as one array; valid where all are."""
    valid = parts[0][1].copy()
    for _, more in itertools.islice(parts, 1, None):
        valid &= more
    return Pixels(np.concatenate([pixels for pixels, _ in parts]), valid)
