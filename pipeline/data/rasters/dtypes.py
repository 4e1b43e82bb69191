"""Data types of images, lossless conversion to them, and tests for nodata values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SceneError

DTYPES: Final = ("uint8", "uint16", "int16", "float32")
"""Data types of images; labels may have any integer type."""

Rule = Literal["all", "any"]
"""Whether nodata values make a pixel invalid where all bands hold one, or where any band does."""

_UNUSABLE: Final = 1e30
_DTYPES: Final = frozenset(np.dtype(name) for name in DTYPES)  # their names are slow to ask for
_WIDENED: Final = {
    "bool": "uint8",
    "int8": "int16",
    "float16": "float32",
    "uint32": "float32",
    "int32": "float32",
    "uint64": "float32",
    "int64": "float32",
    "float64": "float32",
}


def image_dtype(uri: str, dtype: str) -> str:
    """The data type that an image of this type is read as.

    Raises:
        SceneError: the type has no meaning as an image.
    """
    if dtype in DTYPES:
        return dtype
    if dtype.startswith("complex"):
        raise SceneError(f"{uri}: pixels are complex numbers", "convert it to amplitudes")
    if dtype not in _WIDENED:
        raise SceneError(
            f"{uri}: bands of type {dtype}; images are {', '.join(DTYPES)}",
            "convert it, for instance with `gdal_translate -ot Float32`",
        )
    return _WIDENED[dtype]


def as_image(uri: str, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Values [C, h, w] as one of DTYPES.

    Integers stay exact; float64 is rounded to float32, which `RasterInfo.format` says.

    Raises:
        SceneError: a valid value does not fit: an integer that float32 would round, a float64 beyond its range.
    """
    if pixels.dtype in _DTYPES:
        return pixels
    given = str(pixels.dtype)
    target = np.dtype(image_dtype(uri, given))
    with np.errstate(over="ignore", invalid="ignore"):
        converted: NDArray[Any] = pixels.astype(target)
    if target.kind != "f" or given == "float16":
        return converted
    if pixels.dtype.kind == "f":
        wrong = ~np.isfinite(converted)
    else:
        # Beyond 2^53 the comparison itself would round.
        wrong = (converted.astype(np.float64) != pixels) | (np.abs(converted) > 2.0**53)
    wrong &= valid
    if wrong.any():
        raise SceneError(
            f"{uri}: a {given} value of {pixels[wrong].flat[0]} cannot be held by float32",
            "scale the values down, or convert the file to one of " + ", ".join(DTYPES),
        )
    return converted


def not_nodata(pixels: NDArray[Any], values: Sequence[float | None], rule: Rule) -> NDArray[np.bool_] | None:
    """Validity [h, w] of values [C, h, w] under the nodata value of each band; None if these hide nothing.

    A nodata value that no network can take (`is_unusable`) hides a pixel from any band.
    """
    stored = [None if value is None else stored_as(float(value), pixels.dtype) for value in values]
    in_all: NDArray[np.bool_] | None = None
    found: NDArray[np.bool_] | None = None
    together = rule == "all" and all(value is not None for value in stored)
    for band, value in zip(pixels, stored, strict=True):
        if value is None or (rule == "all" and not together and not is_unusable(value)):
            continue
        measured: NDArray[np.bool_] = np.asarray(band != value)
        if rule == "any" or is_unusable(value):
            found = measured if found is None else found & measured
        elif measured.all():
            together = False
        else:
            in_all = measured if in_all is None else in_all | measured
    if not together or in_all is None:
        return found
    return in_all if found is None else found & in_all


def is_unusable(value: float) -> bool:
    """Whether a nodata value is so large that a network cannot take it, whatever the rule for nodata: -3.4e38."""
    return abs(float(value)) >= _UNUSABLE


def is_measured(missing: NDArray[np.bool_], rule: Rule) -> NDArray[np.bool_]:
    """Validity [h, w], given for every band [C, h, w] whether it holds a nodata value."""
    missing_in = missing.all(axis=0) if rule == "all" else missing.any(axis=0)
    return np.asarray(~missing_in)


def stored_as(value: float, dtype: np.dtype[Any]) -> Any:
    """A nodata value as a raster of this type holds it, or None if the type cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value) if math.isfinite(value) else None
    if dtype.kind not in "iu" or not value.is_integer():
        return None
    limits = np.iinfo(dtype)
    return dtype.type(int(value)) if limits.min <= value <= limits.max else None
