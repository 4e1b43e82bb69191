"""Distributions of pixel values by band, class and scene. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.doctor.findings import BandRow
from pipeline.data.labels.classes import IGNORE

BINS: Final = 64
PERCENTILES: Final = {"p1": 1.0, "p2": 2.0, "p50": 50.0, "p98": 98.0, "p99": 99.0}
FEW: Final = 32
"""A band with so few values may be a map of classes."""

_LEVELS: Final = 256
_USUAL: Final = 0.95
_CODES: Final = 4
_GAPS: Final = 0.5
_MIN_PIXELS: Final = 500
_MIN_OF_CLASS: Final = 20
_NORMAL: Final = 0.6745  # a normal distribution's median absolute deviation, in standard deviations
_LEAST_SPREAD: Final = 0.05
_LEAST_WITHIN: Final = 0.25


def band_rows(values_of: Mapping[str, Sequence[NDArray[Any]]], names: Sequence[str]) -> tuple[BandRow, ...]:
    """Percentiles and histograms of each band.

    Args:
        values_of: by split, sampled pixels [C, n] of its scenes.
        names: of the C bands.
    """
    pooled = {split: np.concatenate(list(arrays), axis=1) for split, arrays in values_of.items() if arrays}
    pooled = {split: values for split, values in pooled.items() if values.shape[1]}
    if not pooled:
        return ()
    everything = np.concatenate(list(pooled.values()), axis=1)
    rows = []
    for position, name in enumerate(names):
        values = everything[position].astype(np.float64)
        low, high = _range(values)
        histogram = {}
        for split, of_split in pooled.items():
            counts, _ = np.histogram(of_split[position].clip(low, high), BINS, (low, high))
            histogram[split] = tuple((counts / counts.sum()).round(5).tolist())
        points = np.percentile(values, list(PERCENTILES.values())).tolist()
        percentiles = dict(zip(PERCENTILES, points, strict=True))
        percentiles |= {"min": float(values.min()), "max": float(values.max())}
        rows.append(BandRow(name, low, high, percentiles, float(values.mean()), float(values.std()), histogram))
    return tuple(rows)


@dataclass(frozen=True)
class BandRule:
    """Accuracy of one band alone as a predictor of the classes: a rule from value to class, on held-out pixels.

    Attributes:
        band: position of the band, from 0.
        accuracy: share of the pixels that get their class.
        majority: share of the most frequent class: what a rule that ignores the band reaches.
        iou: mean intersection over union of the classes.
        num_values: values that 95 % of the pixels hold.
        num_classes: classes that were judged.
        stepped: whether the values are codes and not grades of intensity: they are at most four, or have gaps, or the
            class changes often from one to the next.
    """

    band: int
    accuracy: float
    majority: float
    iou: float
    num_values: int
    num_classes: int
    stepped: bool = False

    @property
    def gain(self) -> float:
        """Gain of the mean IoU over that of the most frequent class everywhere, from 0 to 1 (the largest possible).

        IoU and not accuracy, which is high for any rule where one class is nearly everywhere.
        """
        usual = self.majority / self.num_classes
        return (self.iou - usual) / (1 - usual)


def predicted_by_one_band(values: Sequence[NDArray[Any]], ids: Sequence[NDArray[np.uint8]]) -> list[BandRule]:
    """Fit a rule value -> class for each band on half of the scenes, and test it on the other half.

    The rule is the class that is most frequent at the value.

    Args:
        values: sampled pixels [C, n] of each scene.
        ids: their classes [n] and IGNORE.

    Returns:
        One per band; none where fewer than two classes are annotated in both halves.
    """
    learnt, tried = _halves(
        [v[:, k != IGNORE] for v, k in zip(values, ids, strict=True)], [k[k != IGNORE] for k in ids]
    )
    if min(learnt[1].size, tried[1].size) < _MIN_PIXELS:
        return []
    counts = [np.bincount(k, minlength=IGNORE) for _, k in (learnt, tried)]
    classes = np.flatnonzero((counts[0] >= _MIN_OF_CLASS) & (counts[1] >= _MIN_OF_CLASS))
    if len(classes) < 2:
        return []
    out = []
    for band in range(learnt[0].shape[0]):
        edges = _levels(learnt[0][band])
        table = np.stack([_counts(learnt[0][band][learnt[1] == k], edges) for k in classes])
        rule = table.argmax(axis=0)
        rule[table.sum(axis=0) == 0] = table.sum(axis=1).argmax()
        level = np.searchsorted(edges, tried[0][band], side="right")
        confusion = np.stack([np.bincount(rule[level[tried[1] == k]], minlength=len(classes)) for k in classes])
        right = confusion.diagonal()
        usual = _usual_values(learnt[0][band])
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
        out.append(
            BandRule(
                band,
                accuracy=float(right.sum() / confusion.sum()),
                majority=float(confusion.sum(axis=1).max() / confusion.sum()),
                iou=float((right / np.maximum(union, 1)).mean()),
                num_values=len(usual),
                num_classes=len(classes),
                stepped=_stepped(usual, rule[np.searchsorted(edges, usual, side="right")]),
            )
        )
    return out


def _levels(values: NDArray[Any]) -> NDArray[Any]:
    """Edges between levels of a band's values: each value is a level where there are few."""
    distinct = np.unique(values)
    if len(distinct) <= _LEVELS:
        return distinct[1:]
    return np.unique(np.quantile(values, np.linspace(0, 1, _LEVELS + 1)[1:-1], method="nearest"))


def _usual_values(values: NDArray[Any]) -> NDArray[Any]:
    """The fewest distinct values that 95 % of the pixels [n] hold, sorted."""
    distinct, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    number = int(np.searchsorted(counts[order].cumsum(), _USUAL * values.size)) + 1
    return np.sort(distinct[order[:number]])


def _stepped(values: NDArray[Any], classes: NDArray[np.int64]) -> bool:
    """Whether sorted values with these classes are codes: a dark band of few grades has neither gaps nor many steps."""
    if len(values) <= _CODES:
        return True
    steps = np.diff(values.astype(np.float64))
    gaps = values.dtype.kind in "iu" and bool((steps > 1).mean() > _GAPS)
    return gaps or int((np.diff(classes) != 0).sum()) >= len(values) / 3


def apart(medians: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each scene's median from that of all scenes, per band [S,C], in robust standard deviations.

    The unit is the median absolute deviation (Iglewicz & Hoaglin, "How to detect and handle outliers", 1993), but at
    least 5 % of the median and a quarter of the usual deviation within a scene: scenes that are much alike would stand
    apart by nothing. NaN stays NaN.

    Args:
        medians: of the scenes' pixels [S,C].
        deviations: standard deviations of the pixels within each scene [S,C].
    """
    if not np.isfinite(medians).any():
        return np.full_like(medians, math.nan)
    centre = np.nanmedian(medians, axis=0)
    unit = np.nanmedian(np.abs(medians - centre), axis=0) / _NORMAL
    least = np.maximum(_LEAST_SPREAD * np.abs(centre), _LEAST_WITHIN * np.nanmedian(deviations, axis=0))
    scores: NDArray[np.float64] = (medians - centre) / np.maximum(unit, least + 1e-12)
    return scores


def piled_up(values: NDArray[Any]) -> float:
    """Share of pixels [n] that hold the highest value; 0 for a band with few values, where that is normal."""
    if values.size == 0 or len(np.unique(values[:: max(1, values.size // 4096)])) <= FEW:
        return 0.0
    return float((values == values.max()).mean())


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 0.1st and the 99.9th percentile, so that outliers do not flatten the histogram."""
    low, high = np.percentile(values, (0.1, 99.9)).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _halves(
    values: Sequence[NDArray[Any]], ids: Sequence[NDArray[np.uint8]]
) -> tuple[tuple[NDArray[Any], NDArray[np.uint8]], tuple[NDArray[Any], NDArray[np.uint8]]]:
    """Every other scene; of a single one, its beginning and its end."""
    if len(values) == 1:
        middle = values[0].shape[1] // 2
        values, ids = [values[0][:, :middle], values[0][:, middle:]], [ids[0][:middle], ids[0][middle:]]
    if not values:
        nothing = (np.zeros((0, 0)), np.zeros(0, np.uint8))
        return nothing, nothing
    first, second = ((np.concatenate(values[k::2], axis=1), np.concatenate(ids[k::2])) for k in (0, 1))
    return first, second


def _counts(values: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
