"""Choose the windows that a report shows: the best and the worst of a split, in one pass over its scenes.

Only the rows of the windows that are not finished yet, and the masks of the windows chosen so far, are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window, starts
from pipeline.data.scenes.scene import Scene
from pipeline.metrics import Tally, confusion

_LEAST_LABELLED = 0.5
_LEAST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Candidate:
    """One window with its score; `truth` and `prediction` are uint8 [h,w] or [K,h,w], clipped to the scene."""

    scene: Scene
    window: Window
    miou: float
    error_share: float
    mixed: bool
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def window_score(counts: NDArray[np.int64]) -> tuple[float, float, bool]:
    """Mean IoU, share of wrong pixels, and whether there is more than one class, from one window's confusion [K,K] or
    [K,2,2].

    The mean is over the classes that hold at least one percent of the window's labelled pixels: a handful of pixels
    of another class must not make a good window the worst one. Multilabel: where none does, it is 1 if none was
    predicted either.
    """
    if counts.ndim == 3:
        total, right, truth = counts.sum((1, 2)), counts[:, 1, 1], counts[:, 1].sum(1)
        union, wrong = total - counts[:, 0, 0], float((counts[:, 0, 1] + counts[:, 1, 0]).sum() / total.sum())
        present = truth >= _LEAST_SHARE * total
        if not present.any():
            return (0.0 if union.any() else 1.0), wrong, False
    else:
        total, right, truth = counts.sum(), counts.diagonal(), counts.sum(axis=1)
        union, wrong = truth + counts.sum(axis=0) - right, float(1 - right.sum() / total)
        present = truth >= min(_LEAST_SHARE, 0.5 / len(counts)) * total
    return float((right[present] / union[present]).mean()), wrong, bool(present.sum() > 1)


def confusion_of(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Counts [K,K] of two masks [h,w], or [K,2,2] of two with a plane for each class [K,h,w]."""
    if truth.ndim == 2:
        return confusion(torch.tensor(prediction), torch.tensor(truth), num_classes).numpy()
    tally = Tally(num_classes, task="multilabel")
    tally.update(torch.tensor(prediction)[None], torch.tensor(truth)[None])
    return tally.confusion.numpy()


def choose(best: Sequence[Candidate], worst: Sequence[Candidate], count: int) -> tuple[list[Candidate], ...]:
    """At most `count` best and `count` worst windows, none of them twice; a small split is divided in the middle."""
    known = {(c.scene.id, c.window): c for c in (*best, *worst)}
    if len(known) >= 2 * count:
        lowest = {(c.scene.id, c.window) for c in worst}
        return [c for c in best if (c.scene.id, c.window) not in lowest], list(worst)
    ranked = sorted(known.values(), key=lambda c: -c.miou)
    middle = math.ceil(len(ranked) / 2)
    return ranked[:middle], ranked[middle:][::-1]


class Gallery:
    """Keeps the best and the worst windows of all scenes that pass through it."""

    def __init__(self, count: int, size: int, num_classes: int) -> None:
        self._count, self._size, self._num_classes = count, size, num_classes
        self._best: list[Candidate] = []
        self._worst: list[Candidate] = []
        self._pending: list[int] = []
        self._first = 0

    def begin(self, scene: Scene, number: int = 0) -> None:
        """Forget what came before, and expect the strips of this scene's slice."""
        self._scene, self._slice = scene, number
        self._pending = starts(scene.height, self._size) if self._count else []
        self._first = 0
        self._truth = self._prediction = np.empty((0, scene.width), np.uint8)

    def add(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """The next strip of rows, both [h,W] or [K,h,W] uint8 with IGNORE."""
        if not self._pending:
            return
        if truth.ndim != self._truth.ndim:  # the first strip
            self._truth = self._prediction = np.empty((len(truth), 0, truth.shape[-1]), np.uint8)
        self._truth = np.concatenate([self._truth, truth], -2)
        self._prediction = np.concatenate([self._prediction, prediction], -2)
        end = self._first + self._truth.shape[-2]
        while self._pending and min(self._pending[0] + self._size, self._scene.height) <= end:
            self._finish(self._pending.pop(0))
        keep = (self._pending[0] if self._pending else end) - self._first
        self._truth, self._prediction = self._truth[..., keep:, :], self._prediction[..., keep:, :]
        self._first += keep

    def chosen(self) -> tuple[list[Candidate], ...]:
        """The best, best first, and the worst, worst first."""
        return choose(self._best, self._worst, self._count)

    def _finish(self, row: int) -> None:
        scene = self._scene
        height = min(self._size, scene.height - row)
        rows = slice(row - self._first, row - self._first + height)
        for col in starts(scene.width, self._size):
            window = Window(row, col, height, min(self._size, scene.width - col), self._slice)
            here = (..., rows, slice(col, col + window.width))
            self._consider(window, self._truth[here], self._prediction[here])

    def _consider(self, window: Window, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        if (truth != IGNORE).mean() < _LEAST_LABELLED:
            return
        counts = confusion_of(prediction, truth, self._num_classes)
        candidate = Candidate(self._scene, window, *window_score(counts), truth.copy(), prediction.copy())
        # A window of one class alone is easy to get right and shows little.
        self._best = sorted([*self._best, candidate], key=lambda c: (not c.mixed, -c.miou))[: self._count]
        self._worst = sorted([*self._worst, candidate], key=lambda c: c.miou)[: self._count]
