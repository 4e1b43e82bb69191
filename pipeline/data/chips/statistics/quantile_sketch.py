"""The distribution of a band's values in a few kilobytes: a mergeable t-digest.

Dunning & Ertl, "Computing extremely accurate quantiles using t-digests" (2019), by Apache DataSketches.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

_SIZE: Final = 500
"""The t-digest's `k`: 11 kB. After merging a thousand parts the rank of a percentile is right within 1 %, within 0.1 %
below the 2nd and above the 98th; merging in another order moves it by no more. The same order gives the same bytes."""


@dataclass(frozen=True)
class QuantileSketch:
    """A distribution; `data` is the t-digest's own form, b"" of no value at all."""

    data: bytes = b""

    @classmethod
    def of(cls, values: NDArray[Any]) -> QuantileSketch:
        """Make a sketch of finite values [N] of any number type."""
        if values.size == 0:
            return cls()
        digest = _digest()
        digest.update(np.ascontiguousarray(values, np.float64))
        return cls(digest.serialize())

    def merge(self, other: QuantileSketch) -> QuantileSketch:
        """The sketch of the values of both."""
        if not self.data or not other.data:
            return self if self.data else other
        digest = self._opened()
        digest.merge(other._opened())
        return QuantileSketch(digest.serialize())

    def percentiles(self, percents: Sequence[float]) -> tuple[float, ...]:
        """The values that so many percent (0 to 100) of all are below.

        Raises:
            ValueError: there is no value.
        """
        if not self.data:
            raise ValueError("percentiles of no value")
        digest = self._opened()
        return tuple(float(digest.get_quantile(percent / 100)) for percent in percents)

    def histogram(self, edges: Sequence[float]) -> tuple[float, ...]:
        """Share of the values below the first of the ascending edges, between each two, and from the last one on."""
        if not self.data:
            return (0.0,) * (len(edges) + 1)
        return tuple(float(share) for share in self._opened().get_pmf(list(edges)))

    def to_json(self) -> str:
        """As text."""
        return base64.b64encode(self.data).decode("ascii")

    @classmethod
    def from_json(cls, text: str) -> QuantileSketch:
        """The opposite of `to_json`."""
        return cls(base64.b64decode(text))

    def _opened(self) -> Any:
        from datasketches import tdigest_double  # a compiled library, which predicting does not need

        return tdigest_double.deserialize(self.data)


def _digest() -> Any:
    from datasketches import tdigest_double

    return cast(Any, tdigest_double)(_SIZE)
