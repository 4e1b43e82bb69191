"""Conversion of stored to measured values of scans: slope and intercept, Hounsfield limits, padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.errors import SceneError


@dataclass(frozen=True)
class Rescale:
    """Conversion of stored to measured values.

    Attributes:
        uri: for messages.
        slope, intercept: measured = slope * stored + intercept.
        dtype: of the result.
        limits: results beyond are set to these; None: they stay.
        padding: lowest and highest stored value that means: nothing was measured; None: there is none.
    """

    uri: str
    slope: float
    intercept: float
    dtype: str
    limits: tuple[float, float] | None = None
    padding: tuple[float, float] | None = None

    def __call__(self, stored: NDArray[Any]) -> Pixels:
        """Measured values [C, h, w] and validity [h, w].

        Raises:
            SceneError: a value does not fit the type.
        """
        valid = np.ones(stored.shape[1:], np.bool_)
        if self.padding is not None:
            valid &= ~((stored >= self.padding[0]) & (stored <= self.padding[1])).any(axis=0)
        if stored.dtype.kind == "f":
            valid &= np.isfinite(stored).all(axis=0)
        if (self.slope, self.intercept, self.limits) == (1.0, 0.0, None):
            return Pixels(stored.astype(self.dtype, copy=False), valid)
        values = stored.astype(np.float64) * self.slope + self.intercept
        if self.limits is not None:
            values = np.clip(values, *self.limits)
        target = np.dtype(self.dtype)
        if target.kind != "f":
            bounds = np.iinfo(target)
            wrong = ((values < bounds.min) | (values > bounds.max)) & valid
            if wrong.any():
                raise SceneError(
                    f"{self.uri}: a value of {values[wrong].flat[0]:g} cannot be held by {self.dtype}",
                    "set data.reading.hounsfield to the range that matters, such as [-1024, 3071]",
                )
            values = np.clip(values, bounds.min, bounds.max)
        return Pixels(values.astype(target), valid)


def result_dtype(
    stored: np.dtype[Any],
    scales: list[tuple[float, float]],
    *,
    limits: tuple[float, float] | None,
    stored_range: tuple[int, int] | None = None,
    hounsfield: bool = False,
) -> str:
    """The data type of measured values: an integer where slope and intercept are whole, else float32.

    Args:
        stored: type of the stored values.
        scales: slope and intercept of each slice.
        limits: results are set to these.
        stored_range: lowest and highest possible stored value, where that is less than the type's range.
        hounsfield: the values are Hounsfield units, which int16 holds whatever the header says is possible.
    """
    if stored.kind == "f" or any(not float(v).is_integer() for scale in scales for v in scale):
        return str(stored) if set(scales) == {(1.0, 0.0)} and limits is None else "float32"
    if limits is None and set(scales) == {(1.0, 0.0)}:
        return str(stored)
    if hounsfield and limits is None:
        return "int16"
    low, high = stored_range or (int(np.iinfo(stored).min), int(np.iinfo(stored).max))
    ends = [slope * value + intercept for slope, intercept in scales for value in (low, high)]
    if limits is not None:
        if not all(float(v).is_integer() for v in limits):
            return "float32"
        ends = list(limits)
    for name in ("int16", "uint16"):
        if np.iinfo(name).min <= min(ends) and max(ends) <= np.iinfo(name).max:
            return name
    return "float32"
