"""Statistics of bands and classes as a mergeable record. It needs numpy only, so that bundles can hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.statistics.quantile_sketch import QuantileSketch
from pipeline.errors import ManifestError


def representable(fill: Sequence[float], dtype: Any) -> NDArray[Any]:
    """The fill per band [C] as values that a dtype can hold."""
    values: NDArray[Any] = np.asarray(fill, np.float64)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        values = values.round().clip(info.min, info.max)
    return values.astype(dtype)


@dataclass(frozen=True)
class Statistics:
    """Moments per band over `count` valid pixels, and labelled pixels per class.

    Merging follows Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
    (1979); `std` is the population's. With a count of 0 all moments are 0.

    `sketches`, one per band, give percentiles and histograms; () in statistics of older versions and of networks that
    were not trained by this program.
    """

    count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    class_counts: tuple[int, ...]
    sketches: tuple[QuantileSketch, ...] = ()

    @classmethod
    def of(cls, pixels: NDArray[Any], class_counts: tuple[int, ...] = (), *, sketch_every: int = 1) -> Statistics:
        """Statistics of valid pixels [C, N] of any integer or float dtype.

        The sketches are of one of every `sketch_every` pixels, spread evenly: they cost more than reading. 0: none.
        """
        if pixels.shape[1] == 0:
            zeros = (0.0,) * pixels.shape[0]
            return cls(0, zeros, zeros, zeros, zeros, class_counts, (QuantileSketch(),) * pixels.shape[0])
        values = pixels.astype(np.float64)
        mean = values.mean(axis=1)
        # Two passes: a single one loses the variance of small differences on a large offset.
        std = np.sqrt(np.square(values - mean[:, None]).mean(axis=1))
        low, high = values.min(axis=1), values.max(axis=1)
        sketched = values[:, _spread(values.shape[1], sketch_every)] if sketch_every else ()
        sketches = tuple(QuantileSketch.of(band) for band in sketched)
        return cls(pixels.shape[1], _floats(mean), _floats(std), _floats(low), _floats(high), class_counts, sketches)

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of the pixels of both."""
        counts = tuple(a + b for a, b in zip(self.class_counts, other.class_counts, strict=True))
        if self.count == 0 or other.count == 0:
            some = other if self.count == 0 else self
            return replace(some, class_counts=counts)
        total = self.count + other.count
        share = other.count / total
        mean, std = [], []
        for ours, theirs, s, t in zip(self.mean, other.mean, self.std, other.std, strict=True):
            delta = theirs - ours
            mean.append(ours + delta * share)
            std.append(math.sqrt((1 - share) * s * s + share * t * t + delta * delta * share * (1 - share)))
        low = tuple(map(min, self.min, other.min))
        high = tuple(map(max, self.max, other.max))
        both = bool(self.sketches and other.sketches)
        sketches = tuple(map(QuantileSketch.merge, self.sketches, other.sketches)) if both else ()
        return Statistics(total, tuple(mean), tuple(std), low, high, counts, sketches)

    @property
    def fill(self) -> tuple[float, ...]:
        """Value per band to put under invalid pixels: the mean, which normalises to zero."""
        return self.mean

    def percentiles(self, percents: Sequence[float]) -> tuple[tuple[float, ...], ...]:
        """Values of each band below which so many percent (0 to 100) of its valid pixels are; see `QuantileSketch`.

        Raises:
            ManifestError: the statistics are of an older version, or of no pixel.
        """
        if not self.sketches or self.count == 0:
            raise ManifestError("these statistics hold no percentiles", "remove their file: they are then made again")
        return tuple(sketch.percentiles(percents) for sketch in self.sketches)

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, text and lists."""
        lists = {name: list(getattr(self, name)) for name in ("mean", "std", "min", "max", "class_counts")}
        return {"count": self.count, **lists, "sketches": [sketch.to_json() for sketch in self.sketches]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Statistics:
        """The opposite of `to_json`, also of statistics without sketches."""
        return cls(
            count=int(tree["count"]),
            mean=_floats(tree["mean"]),
            std=_floats(tree["std"]),
            min=_floats(tree["min"]),
            max=_floats(tree["max"]),
            class_counts=tuple(int(v) for v in tree["class_counts"]),
            sketches=tuple(QuantileSketch.from_json(text) for text in tree.get("sketches", ())),
        )


def _spread(length: int, every: int) -> NDArray[np.int64] | slice:
    """Positions of one of every `every` pixels, at random within each stretch: a stride would fall in step with the
    columns of a window."""
    if every == 1:
        return slice(None)
    draw = np.random.default_rng(length)
    count = int(length / every + draw.random())
    return ((np.arange(count) + draw.random(count)) * (length / max(count, 1))).astype(np.int64)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
