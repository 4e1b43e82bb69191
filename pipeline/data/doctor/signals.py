"""Do labels lie where the image changes? The edges of labels are laid over those of the image, shifted a little.

Where a label is well placed, its edges meet most of the image's change without a shift. A better place elsewhere is
believed only if two disjoint halves of what was read agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.classes import IGNORE

REACH: Final = 12
"""Shifts of up to so many pixels are tried, in both directions."""

_MIN_EDGE_PIXELS: Final = 200
_MIN_SHIFT: Final = 2.0
_MIN_GAIN: Final = 1.1
_MIN_PROMINENCE: Final = 3.0
_AGREEMENT_PIXELS: Final = 1.5
_STRONG: Final = 2.0
"""Gradients above so many times their 90th percentile count alike: one bright edge must not outvote the rest."""

Surface = tuple[NDArray[np.float64], float]
"""Sum of image change under the label's edges, for each shift [2 REACH + 1, 2 REACH + 1]; number of edge pixels."""


@dataclass(frozen=True)
class Shift:
    """How far the label lies from the image: to bring it there, move it down by `rows` and right by `cols` pixels.

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
    correlation = np.roll(np.fft.irfft2(spectrum, s=mask.shape), (REACH, REACH), (0, 1))
    return correlation[: 2 * REACH + 1, : 2 * REACH + 1], float(count)


def add(surfaces: Iterable[Surface | None]) -> Surface:
    """The sum of several."""
    total, weight = np.zeros((2 * REACH + 1, 2 * REACH + 1)), 0.0
    for one in surfaces:
        if one is not None:
            total, weight = total + one[0], weight + one[1]
    return total, weight


def suspect(halves: Sequence[Surface]) -> Shift | None:
    """The shift that two halves of the evidence agree on; None if labels may well lie right, or nobody can tell."""
    if len(halves) != 2 or any(weight < _MIN_EDGE_PIXELS for _, weight in halves):
        return None
    total, weight = add(halves)
    here, best = total[REACH, REACH] / weight, total.max() / weight
    row, col = _peak(total)
    if math.hypot(row, col) < _MIN_SHIFT or max(abs(row), abs(col)) >= REACH or best < _MIN_GAIN * here:
        return None
    if (total.max() - np.median(total)) < _MIN_PROMINENCE * total.std():
        return None
    if any(math.dist((row, col), _peak(half)) > _AGREEMENT_PIXELS for half, _ in halves):
        return None
    return Shift(row, col, best / here if here > 0 else math.inf)


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
    """How much the image changes at each pixel [h,w]: gradients of the smoothed bands, all bands with equal say.

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
