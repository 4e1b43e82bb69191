"""Windows of a regular grid over each scene: their number, and which of them are valid enough.

Windows are numbered through all scenes, slices and rows. Those that are kept come in runs, since what is valid lies
together: finding them looks once at each partly valid scene, and the n-th is a binary search away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.sampling.class_index import FULL, Ints, Presence, Runs
from pipeline.data.rasters.windows import Window, num_starts, start, starts
from pipeline.recipe.sampling import GridSampling

_CELLS_AT_ONCE: Final = 1 << 18
"""Of scenes that are looked at together: few enough for the processor's cache."""


@dataclass(frozen=True)
class Kept:
    """The windows of a grid that are valid enough.

    `firsts` is the number of each scene's first window, `ranks` how many are kept of the scenes before it, both [S].
    """

    runs: Runs
    firsts: Ints
    ranks: Ints


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a grid over scenes.

    `counts` is how many are kept of each scene, [S]; without `kept`, all are.
    """

    sampling: GridSampling
    counts: Ints
    kept: Kept | None = None

    @classmethod
    def of(cls, shapes: Ints, sampling: GridSampling, presence: Presence | None) -> WindowGrid:
        """The windows that are valid enough.

        Args:
            shapes: height, width, slices (and more) of each scene, [S, 3 or more].
            sampling: says where windows are, and what share of them must be valid.
            presence: what is valid; None: all.
        """
        counts = _counts(shapes, sampling)
        partly = np.flatnonzero(presence.least_shares < FULL) if presence is not None else np.empty(0, np.intp)
        if presence is None or not len(partly):
            return cls(sampling, counts)
        firsts = counts.cumsum() - counts
        whole = np.delete(np.arange(len(shapes)), partly)
        runs = [Runs(firsts[whole], counts[whole])]
        for scenes, valid in _valid(presence, sampling, partly):
            counts[scenes] = valid.sum(axis=1)
            runs.append(_runs(valid, firsts[scenes]))
        return cls(sampling, counts, Kept(_joined(runs), firsts, counts.cumsum() - counts))

    def number(self, scene: int, position: int) -> int:
        """Number in a scene's grid of the window at a position among the kept ones."""
        if self.kept is None:
            return position
        return self.kept.runs.cell(int(self.kept.ranks[scene]) + position) - int(self.kept.firsts[scene])

    def window(self, height: int, width: int, number: int) -> Window:
        """A window of a scene's grid: slice by slice, row by row."""
        size, overlap = self.sampling.size, self.sampling.overlap
        rows, cols = num_starts(height, size, overlap), num_starts(width, size, overlap)
        level, rest = divmod(number, rows * cols)
        row, col = divmod(rest, cols)
        return Window(start(row, height, size, overlap), start(col, width, size, overlap), size, size, level)


def _counts(shapes: Ints, sampling: GridSampling) -> Ints:
    """Windows over all slices of each scene, [S]."""
    lengths, which = np.unique(shapes[:, :2], return_inverse=True)
    numbers = np.array([num_starts(n, sampling.size, sampling.overlap) for n in lengths.tolist()], np.int64)
    counts: Ints = numbers[which.reshape(-1, 2)].prod(axis=1) * shapes[:, 2]
    return counts


def _valid(
    presence: Presence, sampling: GridSampling, scenes: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Some of the scenes, and which windows of each are valid enough, [scenes, windows]; until all were there."""
    for alike in _alike(presence.shapes[scenes]):
        height, width = presence.shapes[scenes[alike[0]], 1:].tolist()
        rows, cols = (np.array(starts(length, sampling.size, sampling.overlap)) for length in (height, width))
        length = max(1, _CELLS_AT_ONCE // int(presence.grids[scenes[alike[0]]].prod()))
        for some in np.split(scenes[alike], range(length, len(alike), length)):
            shares = presence.valid_shares_of(some, rows, cols, sampling.size)
            yield some, (shares >= sampling.min_valid).reshape(len(some), -1)


def _alike(shapes: Ints) -> list[NDArray[np.intp]]:
    """Positions of those that have the same shape, for each shape, ascending."""
    _, which, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    return np.split(np.argsort(which.ravel(), kind="stable"), counts.cumsum()[:-1])


def _runs(valid: NDArray[np.bool_], firsts: Ints) -> Runs:
    """Numbers of the windows that are valid, [scenes, windows], of scenes whose first windows have these numbers."""
    padded = np.pad(valid, ((0, 0), (1, 1)))
    scene, at = np.nonzero(padded[:, 1:] != padded[:, :-1])
    return Runs(firsts[scene[::2]] + at[::2], at[1::2] - at[::2])


def _joined(parts: list[Runs]) -> Runs:
    """In ascending order, those that touch made one."""
    every = Runs.joined(parts)
    order = np.argsort(every.starts, kind="stable")
    begins, ends = every.starts[order], (every.starts + every.lengths)[order]
    apart = np.concatenate([[True], begins[1:] > ends[:-1]])
    return Runs(begins[apart], np.append(ends[:-1][apart[1:]], ends[-1]) - begins[apart])
