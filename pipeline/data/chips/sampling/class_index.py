"""The index of classes: for each cell of a coarse grid over each scene, the classes it holds and its valid share.

Made once by reading all masks, stored next to the manifest. Cells are numbered through all scenes, slices and rows, and
what holds a class is kept as runs of them: labels come in patches, so runs are few, and a binary search finds the n-th
cell of a class in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.windows import Window
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import Balanced, Foreground, Sampling

FULL: Final = 255
"""The share of a cell in which all pixels are valid; shares are stored in 255ths, rounded down."""
_LARGEST_CELL: Final = 128
_LEAST_CELL: Final = 16

Ints = NDArray[np.int64]


def cell_for(sampling: Sampling) -> int:
    """Side of a cell in pixels: a quarter of the smallest window, so that windows drawn around cells lie anywhere about
    what they hold; never more than a window, which could not contain it."""
    quarter, whole = (1 << (max(1, n).bit_length() - 1) for n in (sampling.smallest // 4, sampling.smallest))
    return min(_LARGEST_CELL, max(quarter, min(_LEAST_CELL, whole)))


def needed(sampling: Sampling) -> bool:
    """Whether windows are drawn by what masks hold."""
    return sampling.min_valid > 0 or isinstance(sampling, Balanced | Foreground)


def checked(presence: Presence | None, shapes: Ints, sampling: Sampling) -> Presence:
    """An index that can serve this sampling.

    Args:
        presence: the index, if there is one.
        shapes: height, width, slices (and more) of each scene, [S, 3 or more].
        sampling: says how small windows are.

    Raises:
        ManifestError: there is none, it is of other scenes, or its cells are larger than windows.
    """
    if presence is None:
        raise ManifestError("data.sampling needs an index of the classes, and there is none", "run `segpipe index`")
    if not np.array_equal(presence.shapes, shapes[:, [2, 0, 1]]):
        raise ManifestError("the index of the classes is of other scenes", "remove it; it will be made again")
    if presence.cell > sampling.smallest:
        raise ManifestError(
            f"the index of the classes has cells of {presence.cell} pixels, larger than the smallest windows",
            "remove it; it will be made again",
        )
    return presence


@dataclass(frozen=True)
class Runs:
    """Cells that hold something: [start, start + length) of each run, ascending, int64."""

    starts: Ints
    lengths: Ints

    @cached_property
    def ends(self) -> Ints:
        """Cumulative number of cells up to the end of each run."""
        return self.lengths.cumsum()

    @property
    def total(self) -> int:
        """Number of cells."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def cell(self, rank: int) -> int:
        """Number of the cell that has `rank` others before it."""
        run = int(self.ends.searchsorted(rank, side="right"))
        return int(self.starts[run]) + rank - int(self.ends[run]) + int(self.lengths[run])

    def ranks(self, cells: Ints) -> Ints:
        """Number of these cells before each of the given cells."""
        if not len(self.starts):
            return np.zeros(len(cells), np.int64)
        run = self.starts.searchsorted(cells, side="right") - 1
        inside = np.minimum(cells - self.starts[run], self.lengths[run])
        before = self.ends[run] - self.lengths[run]
        return np.where(run < 0, 0, before + inside)

    @classmethod
    def of(cls, held: NDArray[np.bool_], first: int = 0) -> Runs:
        """Make runs from one value per cell, of which the first has the number `first`."""
        edges = np.flatnonzero(np.diff(held, prepend=False, append=False))
        return cls(edges[::2] + first, edges[1::2] - edges[::2])

    @classmethod
    def joined(cls, parts: Sequence[Runs]) -> Runs:
        """Several, in ascending order."""
        empty = [np.empty(0, np.int64)]
        return cls(*(np.concatenate(empty + [getattr(p, name) for p in parts]) for name in ("starts", "lengths")))

    def moved(self, cells: int) -> Runs:
        """The runs with shifted numbers."""
        return Runs(self.starts + cells, self.lengths)


@dataclass(frozen=True)
class Presence:
    """Contents of the cells of some scenes.

    Attributes:
        ids: of the scenes, in order.
        shapes: slices, height and width of each, int64 [S, 3].
        cell: side of a cell in pixels; the last ones of a row or column may be smaller.
        classes: cells that hold each class.
        foreground: cells that hold any class but the first; of multilabel data any class.
        valid_pixels: valid and annotated pixels of each scene, int64 [S].
        valid_starts, valid_shares: valid and annotated share of the cells from each of these on, in 255ths, uint8.
    """

    ids: tuple[str, ...]
    shapes: Ints
    cell: int
    classes: tuple[Runs, ...]
    foreground: Runs
    valid_pixels: Ints
    valid_starts: Ints
    valid_shares: NDArray[np.uint8]

    @cached_property
    def grids(self) -> Ints:
        """Slices, rows and columns of cells of each scene, [S, 3]."""
        return np.concatenate([self.shapes[:, :1], -(-self.shapes[:, 1:] // self.cell)], axis=1)

    @cached_property
    def offsets(self) -> Ints:
        """Number of each scene's first cell, and how many there are, [S + 1]."""
        return np.concatenate([[0], self.grids.prod(axis=1).cumsum()])

    @cached_property
    def valid(self) -> Runs:
        """Cells with any valid pixel."""
        lengths = np.diff(self.valid_starts, append=self.offsets[-1])
        kept = self.valid_shares > 0
        return Runs(self.valid_starts[kept], lengths[kept])

    @cached_property
    def least_shares(self) -> NDArray[np.uint8]:
        """The least valid share of a cell of each scene, in 255ths, [S]."""
        # Each scene begins a new run of shares.
        least: NDArray[np.uint8] = np.minimum.reduceat(
            self.valid_shares, self.valid_starts.searchsorted(self.offsets[:-1])
        )
        return least

    def valid_cell(self, scene: int, word: int) -> Window:
        """A random cell of a scene with any valid pixel; the word is uniform of 64 bits."""
        first, end = self.valid.ranks(self.offsets[scene : scene + 2]).tolist()
        rank = first + (word * (end - first) >> 64)
        return self.rectangle(self.valid.cell(rank))[1]

    def rectangle(self, cell: int) -> tuple[int, Window]:
        """The scene of a cell, by position, and where it lies."""
        scene = int(self.offsets.searchsorted(cell, side="right")) - 1
        _, rows, cols = self.grids[scene].tolist()
        _, height, width = self.shapes[scene].tolist()
        level, rest = divmod(cell - int(self.offsets[scene]), rows * cols)
        row, col = (i * self.cell for i in divmod(rest, cols))
        return scene, Window(row, col, min(self.cell, height - row), min(self.cell, width - col), level)

    def valid_share(self, scene: int, window: Window) -> float:
        """Valid share of those pixels of a window that are in its scene, 0..1, to the resolution of the cells."""
        _, rows, cols = self.grids[scene].tolist()
        _, height, width = self.shapes[scene].tolist()
        rows_from, down = _parts(window.row, window.row + window.height, height, self.cell)
        cols_from, across = _parts(window.col, window.col + window.width, width, self.cell)
        if not (down and across):
            return 0.0
        if self.least_shares[scene] == FULL:
            return 1.0
        first = int(self.offsets[scene]) + (window.slice * rows + rows_from) * cols + cols_from
        cells = np.arange(first, first + len(down) * cols, cols)[:, None] + np.arange(len(across))
        shares = self.valid_shares[self.valid_starts.searchsorted(cells, side="right") - 1]
        return int(np.array(down) @ shares @ np.array(across)) / (FULL * sum(down) * sum(across))

    def valid_shares_of(self, scenes: NDArray[np.intp], rows: Ints, cols: Ints, size: int) -> NDArray[np.float64]:
        """`valid_share` of windows of several scenes of one shape.

        Args:
            scenes: their positions.
            rows: first rows of the windows [row, row + size) × [col, col + size), [R].
            cols: their first columns, [C].
            size: their height and width.

        Returns:
            Shares over all slices [scenes, slices, R, C].
        """
        (_, height), (_, width) = self._sides(int(scenes[0]))
        down, across = (_overlaps(begins, size, n, self.cell) for begins, n in ((rows, height), (cols, width)))
        areas = np.outer(down.sum(axis=1), across.sum(axis=1))
        # Whole numbers throughout: no rounding before the division, in whatever order they are added.
        exact = np.float32 if FULL * size < 1 << 24 else np.float64
        sums = (self._shares(scenes).astype(exact) @ across.T.astype(exact)).astype(np.float64)
        shares: NDArray[np.float64] = down @ sums / (FULL * areas)
        return shares

    def _sides(self, scene: int) -> list[tuple[int, int]]:
        """Cells and pixels down and across."""
        return list(zip(self.grids[scene, 1:].tolist(), self.shapes[scene, 1:].tolist(), strict=True))

    def _shares(self, scenes: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Valid share of the cells of scenes of one shape, [scenes, slices, rows, cols]."""
        # Each scene begins a new run of shares.
        low, high = (self.valid_starts.searchsorted(self.offsets[scenes + end]) for end in (0, 1))
        counts = high - low
        runs = np.arange(counts.sum()) + np.repeat(low - (counts.cumsum() - counts), counts)
        begins = self.valid_starts[runs]
        ends = np.append(begins[1:], 0)
        ends[counts.cumsum() - 1] = self.offsets[scenes + 1]
        return np.repeat(self.valid_shares[runs], ends - begins).reshape(-1, *self.grids[scenes[0]].tolist())

    @classmethod
    def merged(cls, parts: Sequence[Presence]) -> Presence:
        """Concatenate the contents of several, which must have the same classes and cells of the same side."""
        moves = np.concatenate([[0], np.cumsum([p.offsets[-1] for p in parts])]).tolist()
        pairs = list(zip(parts, moves[:-1], strict=True))
        return cls(
            ids=tuple(i for p in parts for i in p.ids),
            shapes=np.concatenate([p.shapes for p in parts]),
            cell=parts[0].cell,
            classes=tuple(
                Runs.joined([p.classes[k].moved(move) for p, move in pairs]) for k in range(len(parts[0].classes))
            ),
            foreground=Runs.joined([p.foreground.moved(move) for p, move in pairs]),
            valid_pixels=np.concatenate([p.valid_pixels for p in parts]),
            valid_starts=np.concatenate([p.valid_starts + move for p, move in pairs]),
            valid_shares=np.concatenate([p.valid_shares for p in parts]),
        )


def _parts(begin: int, end: int, length: int, cell: int) -> tuple[int, list[int]]:
    """The first cell that an interval touches, and how many of its pixels lie in each; outside of the scene none."""
    begin, end = max(0, begin), min(end, length)
    if begin >= end:
        return 0, []
    first, last = begin // cell, (end - 1) // cell
    if first == last:
        return first, [end - begin]
    return first, [(first + 1) * cell - begin, *[cell] * (last - first - 1), end - last * cell]


def _overlaps(begins: Ints, size: int, length: int, cell: int) -> NDArray[np.float64]:
    """Pixels that each interval [begin, begin + size) has in each cell, [intervals, cells]."""
    edges = np.minimum(np.arange(-(-length // cell) + 1) * cell, length)
    ends = np.minimum(begins + size, length)[:, None]
    inside = np.minimum(ends, edges[1:]) - np.maximum(begins[:, None], edges[:-1])
    pixels: NDArray[np.float64] = np.maximum(inside, 0).astype(np.float64)
    return pixels
