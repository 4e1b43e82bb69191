"""Labels on another grid than the image: resample by the nearest label pixel under each pixel centre.

Nearest neighbour by index, not by a warper: exact for shifts and whole-number scales, the same whatever the window, and
for every format that can be read in windows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.grids import Grid, project, to_pixels
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window

_Positions = tuple[NDArray[np.float64], NDArray[np.float64]]

# A centre on the border of two pixels belongs to the lower and right one, although transforms are rounded.
_TIE_PIXELS: Final = 1e-3
_STEPS: Final = (64, 16, 4, 1)
_MAX_ERROR_PIXELS: Final = 0.02
_PROBES: Final = 5
# What is read at once where the label's pixels are much smaller than the image's.
_MAX_READ_PIXELS: Final = 1 << 22
_OUTSIDE: Final = -1


def read_aligned(read: Read, ours: Grid, theirs: Grid, window: Window) -> Pixels:
    """Read a label at a window of another grid.

    Args:
        read: reads windows of the label.
        ours: grid of the scene.
        theirs: grid of the label.
        window: in pixels of the scene.

    Returns:
        Values [..., h, w] and validity [h, w], False where the label has no pixel.
    """
    rows, cols = positions(ours, theirs, window)
    return _gather(read, *_indices(rows, cols, theirs), window.slice)


def positions(ours: Grid, theirs: Grid, window: Window) -> _Positions:
    """Rows and columns, in pixels of `theirs`, of the centres of the pixels [h, w] of a window of `ours`.

    Where a row depends on the row alone and a column on the column, they are [h, 1] and [1, w]. In the same CRS they
    are exact. Otherwise they are interpolated between points of a lattice that does not depend on the window, dense
    enough for an error below 0.02 pixels.
    """
    row, col = np.arange(window.row, window.row + window.height), np.arange(window.col, window.col + window.width)
    same = ours.crs is None or theirs.crs is None or gdal_env.same_crs(ours.crs, theirs.crs)
    if same:
        rows, cols = _linear(to_pixels(theirs.transform, ours.transform), row + 0.5, col + 0.5)
    else:
        step = _step(ours, theirs)
        rows, cols = _interpolated(ours, theirs, row, col, step)
    if theirs.geographic and theirs.transform[1] == theirs.transform[3] == 0:
        turn = 360 / abs(theirs.transform[0])  # longitudes of -180..180 against those of 0..360
        outside = (cols < -_TIE_PIXELS) | (cols >= theirs.width)
        cols = np.where(outside, np.mod(cols, turn), cols)
    return rows, cols


def _linear(transform: tuple[float, ...], row: NDArray[Any], col: NDArray[Any]) -> _Positions:
    a, b, c, d, e, f = transform
    if b == d == 0:
        return (e * row + f)[:, None], (a * col + c)[None, :]
    return (d * col + f)[None, :] + e * row[:, None], (a * col + c)[None, :] + b * row[:, None]


def _exact(ours: Grid, theirs: Grid, row: NDArray[Any], col: NDArray[Any]) -> _Positions:
    """Positions of the points of a lattice of rows [h] and columns [w]."""
    y, x = np.broadcast_arrays(*_linear(ours.transform, row, col))
    shape = x.shape
    x, y = project(x.ravel(), y.ravel(), str(ours.crs), str(theirs.crs))
    if theirs.geographic:
        middle = _middle(ours, theirs)  # no jump of 360 degrees between neighbours
        with np.errstate(invalid="ignore"):
            x = middle + np.mod(x - middle + 180, 360) - 180
    a, b, c, d, e, f = to_pixels(theirs.transform, (1, 0, 0, 0, 1, 0))
    with np.errstate(invalid="ignore"):
        return (d * x + e * y + f).reshape(shape), (a * x + b * y + c).reshape(shape)


def _interpolated(ours: Grid, theirs: Grid, row: NDArray[np.int64], col: NDArray[np.int64], step: int) -> _Positions:
    if step == 1:
        return _exact(ours, theirs, row + 0.5, col + 0.5)
    knots = [np.arange(v[0] // step, v[-1] // step + 2) for v in (row, col)]
    there = _exact(ours, theirs, *(k * step + 0.5 for k in knots))
    parts = []
    for v, k in zip((row, col), knots, strict=True):
        whole = v // step
        parts.append((whole - k[0], (v - whole * step) / step))
    (top, down), (left, right) = parts
    out = []
    with np.errstate(invalid="ignore"):
        for grid in there:
            lines = grid[:, left] * (1 - right) + grid[:, left + 1] * right
            out.append(lines[top] * (1 - down)[:, None] + lines[top + 1] * down[:, None])
    return out[0], out[1]


@lru_cache(maxsize=4096)
def _middle(ours: Grid, theirs: Grid) -> float:
    """Longitude of the scene's centre."""
    x, y = ours.position(ours.height / 2, ours.width / 2)
    return float(project(np.array([x]), np.array([y]), str(ours.crs), str(theirs.crs))[0][0])


@lru_cache(maxsize=4096)
def _step(ours: Grid, theirs: Grid) -> int:
    """Distance between lattice points in pixels: the largest with a small enough error all over the scene."""
    for step in _STEPS:
        starts = [
            np.unique(np.linspace(0, max(0, size - step), _PROBES).astype(np.int64))
            for size in (ours.height, ours.width)
        ]
        corners = [np.unique(np.concatenate([s, s + step // 2, s + step])) for s in starts]
        error = 0.0
        exact = _exact(ours, theirs, *(c + 0.5 for c in corners))
        near = _interpolated(ours, theirs, corners[0], corners[1], step)
        for one, other in zip(exact, near, strict=True):
            # Where parts of the scene have no place in the other CRS, nothing can be interpolated at the rim.
            known = bool(np.isfinite(one).all() and np.isfinite(other).all())
            error = max(error, float(np.abs(one - other).max())) if known else np.inf
        if error <= _MAX_ERROR_PIXELS:
            return step
    return 1


def _indices(
    rows: NDArray[np.float64], cols: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions as whole rows and columns, in the shapes they came in; -1 where the raster has no pixel."""
    return _index(rows, grid.height), _index(cols, grid.width)


def _index(positions: NDArray[np.float64], length: int) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        whole = np.floor(positions + _TIE_PIXELS)
        inside = (whole >= 0) & (whole < length)
    return np.where(inside, whole, _OUTSIDE).astype(np.int64)


def _gather(read: Read, rows: NDArray[np.int64], cols: NDArray[np.int64], slice_: int) -> Pixels:
    """The pixels at these rows and columns, read in one piece if that is not far more than is needed."""
    inside = (rows != _OUTSIDE) & (cols != _OUTSIDE)
    if not inside.any():
        values, _ = read(Window(0, 0, 1, 1, slice_))  # gives the dtype and the bands
        return Pixels(np.zeros((*values.shape[:-2], *inside.shape), values.dtype), inside)
    (top, bottom), (left, right) = (_bounds(v, inside) for v in (rows, cols))
    longer = int(np.argmax(inside.shape))
    large = (bottom - top) * (right - left) > max(_MAX_READ_PIXELS, 4 * inside.size)
    if large and inside.shape[longer] > 1:
        halves = zip(_halves(rows, longer), _halves(cols, longer), strict=True)
        values, valid = zip(*(_gather(read, r, c, slice_) for r, c in halves), strict=True)
        return Pixels(np.concatenate(values, axis=longer - 2), np.concatenate(valid, axis=longer))
    pixels, known = read(Window(top, left, bottom - top, right - left, slice_))
    row, col = (rows - top).clip(0, bottom - top - 1), (cols - left).clip(0, right - left - 1)
    return Pixels(pixels[..., row, col], known[row, col] & inside)


def _bounds(indices: NDArray[np.int64], inside: NDArray[np.bool_]) -> tuple[int, int]:
    """First index that is needed, and one more than the last."""
    needed = indices[inside] if indices.shape == inside.shape else indices[indices != _OUTSIDE]
    return int(needed.min()), int(needed.max()) + 1


def _halves(indices: NDArray[np.int64], axis: int) -> list[NDArray[np.int64]]:
    return [indices, indices] if indices.shape[axis] == 1 else np.array_split(indices, 2, axis)
