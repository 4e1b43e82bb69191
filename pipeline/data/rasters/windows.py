"""Windows: half-open rectangles in pixels of a scene, and how to divide or cover a scene by them. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Rows [row, row + height) and columns [col, col + width) of a scene, in pixels; of a volume, in one of its slices.

    It may reach outside the scene; what lies there is padding.
    """

    row: int
    col: int
    height: int
    width: int
    slice: int = 0


def cover(height: int, width: int, size: int, overlap: float = 0.0) -> Iterator[Window]:
    """Windows of size × size pixels, row by row, such that every pixel of the scene is in at least one.

    The last window of a row or column is flush with the edge. Where the scene is smaller than `size`, the window
    begins at 0 and reaches outside.

    Args:
        height: rows of the scene.
        width: columns of the scene.
        size: height and width of a window in pixels.
        overlap: share [0, 1) of a window that it shares with the next one.
    """
    cols = starts(width, size, overlap)
    for row in starts(height, size, overlap):
        for col in cols:
            yield Window(row, col, size, size)


def divide(height: int, width: int, rows: int, cols: int, slices: int = 1) -> Iterator[Window]:
    """Disjoint windows of rows × cols pixels, row by row and slice by slice, that make up a scene.

    The last ones of a row or column are smaller where the scene ends.

    Args:
        height: rows of the scene.
        width: columns of the scene.
        rows: height of a window in pixels.
        cols: width of a window in pixels.
        slices: number of slices of the scene.
    """
    for number in range(num_windows(height, width, rows, cols, slices)):
        yield window_at(number, height, width, rows, cols)


def num_windows(height: int, width: int, rows: int, cols: int, slices: int = 1) -> int:
    """Number of windows that `divide` gives, without making them."""
    return -(-height // rows) * -(-width // cols) * slices


def window_at(number: int, height: int, width: int, rows: int, cols: int) -> Window:
    """The window of `divide` at a position, without making the others."""
    rest, col = divmod(number, -(-width // cols))
    depth, row = divmod(rest, -(-height // rows))
    top, left = row * rows, col * cols
    return Window(top, left, min(rows, height - top), min(cols, width - left), depth)


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, ascending, by stratified sampling: one at random of each equal run of them.

    A plain stride could fall in step with the columns of windows and see one side of the scenes only. Equal arguments
    give equal numbers; with a count of `total` or more these are all. Where runs do not end at whole numbers, the last
    of one and the first of the next can be the same.
    """
    count = min(total, count)
    jitter = np.random.default_rng(0).random(count) if count < total else np.zeros(count)
    numbers: list[int] = ((np.arange(count) + jitter) * (total / count)).astype(np.int64).tolist()
    return numbers


def starts(length: int, size: int, overlap: float = 0.0) -> list[int]:
    """First pixels of the intervals of `size` that cover [0, length), ascending, in pixels."""
    if length <= size:
        return [0]
    return [*range(0, length - size, _stride(size, overlap)), length - size]


def num_starts(length: int, size: int, overlap: float = 0.0) -> int:
    """Number of `starts`, without making them."""
    return 1 if length <= size else -(-(length - size) // _stride(size, overlap)) + 1


def start(position: int, length: int, size: int, overlap: float = 0.0) -> int:
    """The one of `starts` at a position, without making the others."""
    return max(0, min(position * _stride(size, overlap), length - size))


def nearest(first: int, size: int, length: int) -> int:
    """The first pixel of the interval of `size` in [0, length) that is nearest to the one at `first`.

    0 where it does not fit.
    """
    return max(0, min(first, length - size))


def _stride(size: int, overlap: float) -> int:
    return max(1, round(size * (1 - overlap)))
