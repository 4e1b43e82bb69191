"""Attributes of NetCDF and HDF5 variables: scale, offset, units, nodata.

What attributes mean is said by the CF conventions, chapters 2 and 8: https://cfconventions.org.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.dtypes import is_unusable

# What NetCDF writes where nothing was written; none for bytes.
_NEVER_WRITTEN: Final = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.9692099683868690e36,
    "f8": 9.9692099683868690e36,
}


@dataclass(frozen=True)
class Variable:
    """An array in a file.

    Attributes:
        name: with its groups, `group/name`.
        shape, dtype: as stored.
        dims: name of each dimension; "" where it has none.
        attributes: text, numbers, arrays of numbers.
        block: shape of what is stored together.
        values: reads a part, given integers and slices for all dimensions.
        netcdf: values that were never written are marked as NetCDF does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    block: tuple[int, ...]
    values: Callable[[tuple[Any, ...]], NDArray[Any]]
    netcdf: bool = False

    def text(self, key: str) -> str:
        """An attribute as text; empty if it is not there."""
        value = self.attributes.get(key, "")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def number(self, key: str, default: float) -> float:
        """An attribute as a number."""
        value = np.asarray(self.attributes.get(key, default)).ravel()
        return float(value[0]) if value.size and value.dtype.kind in "iuf" else default


@dataclass(frozen=True)
class Meaning:
    """Conversion of stored values: measured = slope * stored + intercept, except where nothing was measured."""

    unsigned: bool
    slope: float
    intercept: float
    missing: tuple[float, ...]
    low: float
    high: float

    @property
    def scaled(self) -> bool:
        """Whether measured values differ from stored ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    def __call__(self, stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
        """Measured values [C, h, w], float32 where they are scaled.

        Also where all bands are finite and within the valid range [h, w], and which values [C, h, w] mean that nothing
        was measured.
        """
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        if self.unsigned and stored.dtype.kind == "i":
            stored = stored.view(f"u{stored.dtype.itemsize}")
        valid = raster_reader.finite(stored)
        missing = np.zeros(stored.shape, np.bool_)
        for value in self.missing:
            # As the type holds it: a float32 is not the float64 that was written.
            with np.errstate(over="ignore", invalid="ignore"):
                here = stored == np.asarray(value).astype(stored.dtype)
            if is_unusable(value):
                valid &= ~here.any(axis=0)
            else:
                missing |= here
        if (self.low, self.high) != (-math.inf, math.inf):
            # A fill value lies outside the valid range, and is judged by the rule for those.
            valid &= (missing | (stored >= self.low) & (stored <= self.high)).all(axis=0)
        return self.measured(stored), valid, missing

    def measured(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Measured values for stored ones."""
        if not self.scaled:
            return stored
        return (stored * np.float64(self.slope) + self.intercept).astype(np.float32)

    def nodata(self, dtype: np.dtype[Any]) -> float | None:
        """A value as delivered, for stored ones of a type, that means that nothing was measured; None without."""
        if not self.missing:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.measured(np.asarray(self.missing[:1]).astype(dtype))[0])


def meaning(variable: Variable) -> Meaning:
    """The conversion that a variable's attributes describe.

    Raises:
        ValueError: its scale is no number.
    """
    unsigned = variable.dtype.kind == "i" and variable.text("_Unsigned").lower() == "true"
    kind = f"{'u' if unsigned else variable.dtype.kind}{variable.dtype.itemsize}"
    missing = {v for key in ("_FillValue", "missing_value") for v in _numbers(variable, key)}
    if "_FillValue" not in variable.attributes and variable.netcdf and kind in _NEVER_WRITTEN:
        missing.add(_NEVER_WRITTEN[kind])
    if unsigned:
        missing = {v + 2.0 ** (8 * variable.dtype.itemsize) if v < 0 else v for v in missing}
    limits = _numbers(variable, "valid_range")
    low, high = limits if len(limits) == 2 else (-math.inf, math.inf)
    low, high = variable.number("valid_min", low), variable.number("valid_max", high)
    if unsigned and high < low:
        high += 2.0 ** (8 * variable.dtype.itemsize)
    slope, intercept = variable.number("scale_factor", 1.0), variable.number("add_offset", 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"scale_factor {slope} and add_offset {intercept}")
    return Meaning(unsigned, slope, intercept, tuple(sorted(missing)), low, high)


def _numbers(variable: Variable, key: str) -> list[float]:
    """An attribute's finite numbers, if it is of the stored kind: of another kind it means measured values."""
    values = np.asarray(variable.attributes.get(key, [])).ravel()
    alike = values.dtype.kind in ("iu" if variable.dtype.kind in "iu" else "iuf")
    return [v.item() for v in values if math.isfinite(v)] if alike else []
