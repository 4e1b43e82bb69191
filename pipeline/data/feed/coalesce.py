"""Decide which windows of a scene are cheaper to read at once, from the storage tiles that they touch."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.rasters.windows import Window

MAX_PIXELS = 1 << 24
"""What is read together has at most so many pixels, which for four bands of uint16 is 128 MiB."""


def union(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all; they are of one slice."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    height = max(w.row + w.height for w in windows) - row
    width = max(w.col + w.width for w in windows) - col
    return Window(row, col, height, width, windows[0].slice)


def cost(window: Window, tile: tuple[int, int], bounds: tuple[int, int]) -> int:
    """Pixels of the storage tiles that a window touches in a scene of (height, width) = `bounds`."""
    (tall, wide), (height, width) = tile, bounds
    rows = _tiles(window.row, window.height, tall, height)
    cols = _tiles(window.col, window.width, wide, width)
    return rows * tall * cols * wide


def clusters(windows: Sequence[Window], tile: tuple[int, int], bounds: tuple[int, int]) -> list[list[int]]:
    """Positions of windows to be read as one, each in exactly one list; alone where that touches as few tiles.

    Greedy: the windows by position, each added to what it shares most with.
    """
    found: list[tuple[Window, int, list[int]]] = []
    for position in sorted(range(len(windows)), key=lambda p: windows[p]):
        window = windows[position]
        alone, best, most = cost(window, tile, bounds), -1, 0
        for index, (held, price, _) in enumerate(found):
            if held.slice != window.slice:
                continue
            both = union((held, window))
            saved = price + alone - cost(both, tile, bounds)
            if saved > most and both.height * both.width <= MAX_PIXELS:
                best, most = index, saved
        if best < 0:
            found.append((window, alone, [position]))
        else:
            both = union((found[best][0], window))
            found[best] = (both, cost(both, tile, bounds), [*found[best][2], position])
    return [sorted(members) for _, _, members in found]


def _tiles(begin: int, length: int, tile: int, total: int) -> int:
    """Tiles of a side that [begin, begin + length) touches within [0, total)."""
    first, end = max(begin, 0), min(begin + length, total)
    return -(-end // tile) - first // tile if end > first else 0
