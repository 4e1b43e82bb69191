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
    stride = max(1, round(size * (1 - overlap)))
    return [*range(0, length - size, stride), length - size]
