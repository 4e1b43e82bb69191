"""Statistics of bands and classes as a mergeable record. Pure numpy, so that a bundle can hold it anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    """

    count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    class_counts: tuple[int, ...]

    @classmethod
    def of(cls, pixels: NDArray[Any], class_counts: tuple[int, ...] = ()) -> Statistics:
        """Statistics of valid pixels [C, N] of any integer or float dtype."""
        if pixels.shape[1] == 0:
            zeros = (0.0,) * pixels.shape[0]
            return cls(0, zeros, zeros, zeros, zeros, class_counts)
        values = pixels.astype(np.float64)
        mean = values.mean(axis=1)
        # Two passes: a single one loses the variance of small differences on a large offset.
        std = np.sqrt(np.square(values - mean[:, None]).mean(axis=1))
        low, high = values.min(axis=1), values.max(axis=1)
        return cls(pixels.shape[1], _floats(mean), _floats(std), _floats(low), _floats(high), class_counts)

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of the pixels of both."""
        counts = tuple(a + b for a, b in zip(self.class_counts, other.class_counts, strict=True))
        if self.count == 0 or other.count == 0:
            some = other if self.count == 0 else self
            return Statistics(some.count, some.mean, some.std, some.min, some.max, counts)
        total = self.count + other.count
        share = other.count / total
        mean, std = [], []
        for ours, theirs, s, t in zip(self.mean, other.mean, self.std, other.std, strict=True):
            delta = theirs - ours
            mean.append(ours + delta * share)
            std.append(math.sqrt((1 - share) * s * s + share * t * t + delta * delta * share * (1 - share)))
        low = tuple(map(min, self.min, other.min))
        high = tuple(map(max, self.max, other.max))
        return Statistics(total, tuple(mean), tuple(std), low, high, counts)

    @property
    def fill(self) -> tuple[float, ...]:
        """Value per band to put under invalid pixels: the mean, which normalises to zero."""
        return self.mean

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Statistics:
        """The opposite of `to_json`."""
        return cls(
            count=int(tree["count"]),
            mean=_floats(tree["mean"]),
            std=_floats(tree["std"]),
            min=_floats(tree["min"]),
            max=_floats(tree["max"]),
            class_counts=tuple(int(v) for v in tree["class_counts"]),
        )


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
