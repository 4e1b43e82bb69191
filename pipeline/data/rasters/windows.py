"""Windows: half-open rectangles in pixels of a scene, and how to cover a scene with them. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


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


def starts(length: int, size: int, overlap: float = 0.0) -> list[int]:
    """First pixels of the intervals of `size` that cover [0, length), ascending, in pixels."""
    if length <= size:
        return [0]
    return [*range(0, length - size, _stride(size, overlap)), length - size]


def num_starts(length: int, size: int, overlap: float = 0.0) -> int:
    """How many `starts` there are, without making them."""
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
