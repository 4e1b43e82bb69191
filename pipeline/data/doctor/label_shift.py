"""Estimate whether labels are misaligned: correlate label edges with image edges at small shifts.

Where a label is well placed, its edges meet most of the image's change without a shift. A better shift is
suspected only if two disjoint halves of what was read agree on it. That is not enough: labels that are drawn too wide,
next to things with a shadow or a verge on one side, meet stronger edges a few pixels away, too. So a shift is believed
only if most of many scenes show the same one, each by itself, and if classes differ more in the image there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels.classes import IGNORE

REACH: Final = 12
"""Shifts of up to so many pixels are tried, in both directions."""

_MIN_EDGE_PIXELS: Final = 200
_MIN_SHIFT: Final = 2.0
_MIN_GAIN: Final = 1.1
_MIN_PROMINENCE: Final = 3.0
_AGREEMENT_PIXELS: Final = 1.5
_RIDGE_PIXELS: Final = 3.0
_RIDGE: Final = 0.75
_MIN_SCENES: Final = 5
_MIN_AGREEING: Final = 0.7
_EXPLAINED: Final = 1.05
_MOST_BANDS: Final = 3
_MOST_CLASSES: Final = 4
_STRONG: Final = 2.0
"""Gradients above so many times their 90th percentile count alike: one bright edge must not outvote the rest."""

Surface = tuple[NDArray[np.float64], float]
"""Sum of image change under the label's edges, for each shift [2 REACH + 1, 2 REACH + 1]; number of edge pixels."""


@dataclass(frozen=True)
class Shift:
    """Misalignment of a label: move it down by `rows` and right by `cols` pixels to align it.

    `gain` is the image change under the label's edges there, in units of that where they are now.
    """

    rows: int
    cols: int
    gain: float

    @property
    def pixels(self) -> float:
        """Length."""
        return math.hypot(self.rows, self.cols)


def surface(pixels: NDArray[Any], valid: NDArray[np.bool_], mask: NDArray[np.uint8]) -> Surface | None:
    """Correlation of a mask's edges with the image's gradient, for all small shifts.

    Args:
        pixels: [C,h,w].
        valid: [h,w].
        mask: [h,w] class ids and IGNORE.

    Returns:
        None where the window is too small or holds too few edges between classes.
    """
    if min(mask.shape) <= 4 * REACH or not valid.any():
        return None
    edges = label_edges(mask)
    inside = np.zeros_like(edges)
    inside[REACH:-REACH, REACH:-REACH] = edges[REACH:-REACH, REACH:-REACH]
    count = int(inside.sum())
    if count < _MIN_EDGE_PIXELS:
        return None
    spectrum = np.fft.rfft2(change(pixels, valid)) * np.conj(np.fft.rfft2(inside))
    return _near(np.fft.irfft2(spectrum, s=mask.shape)), float(count)


def explained(pixels: NDArray[Any], valid: NDArray[np.bool_], mask: NDArray[np.uint8]) -> Surface | None:
    """Share of the image's variance that the classes explain (correlation ratio), for all small shifts of the mask.

    The arguments are those of `surface`. At most three bands and four classes are looked at; the weight is the number
    of labelled pixels, and values are multiplied by it, so that surfaces can be added.
    """
    if min(mask.shape) <= 4 * REACH or not valid.any():
        return None
    centre = np.full(mask.shape, IGNORE, np.uint8)
    centre[REACH:-REACH, REACH:-REACH] = mask[REACH:-REACH, REACH:-REACH]
    counts = np.bincount(centre.ravel(), minlength=IGNORE + 1)[:IGNORE]
    classes = [k for k in np.argsort(-counts, kind="stable")[:_MOST_CLASSES] if counts[k]]
    if len(classes) < 2:
        return None
    spectra = [np.conj(np.fft.rfft2((centre == k).astype(np.float32))) for k in classes]
    number = counts[classes].sum()
    total = np.zeros((2 * REACH + 1, 2 * REACH + 1))
    bands = pixels[np.unique(np.linspace(0, len(pixels) - 1, _MOST_BANDS).astype(int))]
    for band in bands:
        values = np.where(valid, band, 0).astype(np.float32)
        spread = float(values[valid].std())
        if not (np.isfinite(spread) and spread > 0):
            continue
        spectrum = np.fft.rfft2(np.where(valid, (values - values[valid].mean()) / spread, 0).astype(np.float32))
        sums = [_near(np.fft.irfft2(spectrum * of, s=mask.shape)) for of in spectra]
        between = sum(of**2 / counts[k] for of, k in zip(sums, classes, strict=True)) - sum(sums) ** 2 / number
        total += between / len(bands)
    return total, float(number)


def _near(correlation: NDArray[Any]) -> NDArray[np.float64]:
    """The part of a circular correlation that belongs to small shifts."""
    around = np.roll(correlation, (REACH, REACH), (0, 1))
    return np.asarray(around[: 2 * REACH + 1, : 2 * REACH + 1], np.float64)


def add(surfaces: Iterable[Surface | None]) -> Surface:
    """The sum of several."""
    total, weight = np.zeros((2 * REACH + 1, 2 * REACH + 1)), 0.0
    for one in surfaces:
        if one is not None:
            total, weight = total + one[0], weight + one[1]
    return total, weight


def suspect(halves: Sequence[Surface]) -> Shift | None:
    """The shift that two halves of the evidence agree on; None if labels may be right, or the evidence is too weak."""
    if len(halves) != 2 or any(weight < _MIN_EDGE_PIXELS for _, weight in halves):
        return None
    total, weight = add(halves)
    here, best = total[REACH, REACH] / weight, total.max() / weight
    row, col = _peak(total)
    if math.hypot(row, col) < _MIN_SHIFT or max(abs(row), abs(col)) >= REACH or best < _MIN_GAIN * here:
        return None
    if (total.max() - np.median(total)) < _MIN_PROMINENCE * total.std():
        return None
    if any(math.dist((row, col), _peak(half)) > _AGREEMENT_PIXELS for half, _ in halves) or _is_ridge(total):
        return None
    return Shift(row, col, best / here if here > 0 else math.inf)


def agreed(scenes: Sequence[tuple[Sequence[Surface], Surface]]) -> tuple[Shift, int] | None:
    """The shift that most of many scenes show, and how many do; None if labels may well lie right.

    Args:
        scenes: of each, the two halves of `surface`, and `explained`.
    """
    judged = [(add(halves), variance) for halves, variance in scenes if add(halves)[1] >= 2 * _MIN_EDGE_PIXELS]
    if len(judged) < _MIN_SCENES:
        return None
    shift = suspect([add(halves[k] for halves, _ in scenes) for k in (0, 1)])
    if shift is None:
        return None
    alike = sum(math.dist((shift.rows, shift.cols), _peak(edges[0])) <= _AGREEMENT_PIXELS for edges, _ in judged)
    better = sum(explains(variance, shift) for _, variance in judged)
    return (shift, alike) if min(alike, better) >= _MIN_AGREEING * len(judged) else None


def explains(variance: Surface, shift: Shift) -> bool:
    """Whether classes differ more in the image where the shift brings the mask."""
    here, there = variance[0][REACH, REACH], variance[0][REACH + shift.rows, REACH + shift.cols]
    return bool(there > _EXPLAINED * here)


def _is_ridge(total: NDArray[np.float64]) -> bool:
    """Whether shifts far from the best one are nearly as good: along a line the shift is not determined."""
    row, col = _peak(total)
    steps = np.arange(-REACH, REACH + 1)
    far = np.hypot(*np.meshgrid(steps - row, steps - col, indexing="ij")) > _RIDGE_PIXELS
    usual = float(np.median(total))
    return bool(total[far].max() - usual > _RIDGE * (total.max() - usual))


def label_edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[h,w], True on both sides of a border between two classes. The border to IGNORE is none."""
    edges = np.zeros(mask.shape, np.bool_)
    known = mask != IGNORE
    down = (mask[1:] != mask[:-1]) & known[1:] & known[:-1]
    right = (mask[:, 1:] != mask[:, :-1]) & known[:, 1:] & known[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def change(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Gradient magnitude of the image at each pixel [h,w]: of the smoothed bands, all bands with equal weight.

    It is 0 near invalid pixels, whose border is no edge of what is seen.
    """
    total = np.zeros(valid.shape)
    for band in pixels:
        values = np.where(valid, band, band[valid].mean()).astype(np.float32)
        smooth = cv2.GaussianBlur(values, (0, 0), 1.0)
        steep = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        usual = np.percentile(steep[valid], 90)
        if usual > 0:
            total += np.minimum(steep / usual, _STRONG)
    near = cv2.erode(valid.astype(np.uint8), np.ones((7, 7), np.uint8), borderType=cv2.BORDER_REPLICATE)
    total[near == 0] = 0
    return total


def _peak(total: NDArray[np.float64]) -> tuple[int, int]:
    row, col = np.unravel_index(int(total.argmax()), total.shape)
    return int(row) - REACH, int(col) - REACH
