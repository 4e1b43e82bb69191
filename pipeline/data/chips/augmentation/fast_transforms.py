"""Fast equivalents of slow albumentations transforms, for any dtype; equal within rounding.

Quarter turns and flips by OpenCV on whole bands; brightness and contrast in one pass in the image's own type; gamma by
a table of all values that occur. The definition, and every random draw, stays albumentations'.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Span = tuple[float, float]
"""Smallest and largest value of the data."""

_UNIT: Final = (0.0, 1.0)
_TURNS: Final = {
    "r90": cv2.ROTATE_90_COUNTERCLOCKWISE,
    "r180": cv2.ROTATE_180,
    "r270": cv2.ROTATE_90_CLOCKWISE,
}
_FLIPS: Final = {"v": 0, "h": 1}
_EXCHANGING: Final = ("r90", "r270", "t", "hvt")
GROUP: Final = ("e", "r180", *_FLIPS, *_EXCHANGING)
"""All elements of the square's symmetry group."""


def turned(planes: NDArray[Any], element: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """An element of the square's symmetry group, as albumentations names them, of each plane [..., H, W] (H = W for
    those that exchange the sides); in `out`, where that is given, contiguous and of the same type."""
    height, width = planes.shape[-2:]
    size = (width, height) if element in _EXCHANGING else (height, width)
    if out is None:
        if element == "e":
            return planes
        out = np.empty((*planes.shape[:-2], *size), planes.dtype)
    elif not out.flags.c_contiguous:
        raise ValueError("what is turned can only be put where it is contiguous")
    sources, targets = planes.reshape(-1, height, width), out.reshape(-1, *size)
    for source, target in zip(sources, targets, strict=True):
        if element == "e":
            target[...] = source  # plane by plane, which takes half the time of all at once
        elif element in _FLIPS:
            cv2.flip(source, _FLIPS[element], dst=target)
        elif element in _TURNS:
            cv2.rotate(source, _TURNS[element], dst=target)
        else:
            cv2.transpose(source if element == "t" else cv2.rotate(source, cv2.ROTATE_180), dst=target)
    return out


@cache
def composed(first: str, then: str) -> str:
    """The element that is one after the other."""
    corners = np.arange(4, dtype=np.uint8).reshape(2, 2)
    both = turned(turned(corners, first), then)
    return next(element for element in GROUP if np.array_equal(turned(corners, element), both))


def linear(image: NDArray[Any], alpha: float, beta: float, span: Span | None) -> NDArray[Any]:
    """image * alpha + beta in the image's dtype and any shape: integers rounded and saturated; floats clipped to 0..1
    if that is where the data lie."""
    flat = np.ascontiguousarray(image).reshape(1, -1)
    out = np.empty_like(flat)
    cv2.addWeighted(flat, alpha, flat, 0.0, beta, dst=out)
    if image.dtype.kind == "f" and unit(image, span):
        np.clip(out, *_UNIT, out=out)
    return out.reshape(image.shape)


def multiplied(image: NDArray[Any], factor: float | NDArray[Any], span: Span | None) -> NDArray[Any]:
    """image * factor (of a shape that broadcasts to the image's) in its dtype, rounded and clipped as `linear`."""
    out: NDArray[Any] = image.astype(np.float32)
    out *= factor
    if image.dtype.kind == "f":
        return np.clip(out, *_UNIT, out=out) if unit(image, span) else out
    limits = np.iinfo(image.dtype)
    return np.clip(np.rint(out, out=out), limits.min, limits.max, out=out).astype(image.dtype)


def gamma(image: NDArray[Any], exponent: float, span: Span | None) -> NDArray[Any]:
    """top * (image / top) ** exponent, where `top` is 1 for floats in 0..1, 255 for uint8, and otherwise the largest
    value of the data, or of the dtype where that is not known.

    Raises:
        ValueError: there are negative values, which have no such power.
    """
    lowest = float(image.min())
    if lowest < 0:
        raise ValueError(f"a power of negative values (down to {lowest:g})")
    limit = float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else 1.0
    theirs = image.dtype == np.uint8  # where albumentations has a definition, it holds
    top = limit if theirs or span is None or unit(image, span) else span[1]
    if image.dtype.kind == "f":
        # Three times faster than a power; log(0) is far enough below zero that its exponential is zero.
        logs = cv2.log(np.ascontiguousarray(image).reshape(1, -1))
        logs *= exponent
        logs += (1 - exponent) * math.log(top)
        out: NDArray[Any] = cv2.exp(logs).reshape(image.shape)
        return np.clip(out, *_UNIT, out=out) if unit(image, span) else out
    values = np.arange(int(image.max()) + 1, dtype=np.float32)
    table = np.float32(top) * (values / np.float32(top)) ** np.float32(exponent)
    return looked_up(image, (table + np.float32(0.5)).clip(0, limit).astype(image.dtype))


def looked_up(image: NDArray[Any], table: NDArray[Any]) -> NDArray[Any]:
    """table[image], for an image of 8 or 16 bits that has no negative values, and a table [V] of all its values."""
    size = 256 if image.dtype.itemsize == 1 else 65536
    if size > 256 and not _wide_tables():
        return np.take(table, image)
    whole = np.zeros((1, size), table.dtype)
    whole[0, : len(table)] = table
    numbers = np.ascontiguousarray(image).view("u1" if size == 256 else "u2").reshape(1, -1)
    out: NDArray[Any] = cv2.LUT(numbers, whole).reshape(image.shape)
    return out


def unit(image: NDArray[Any], span: Span | None) -> bool:
    """Whether floats lie in 0..1, by all the data if that is known, else by this image."""
    low, high = span if span is not None else (image.min(), image.max())
    return bool(low >= 0 and high <= 1)


@cache
def _wide_tables() -> bool:
    """Whether OpenCV looks up 16 bits, which it does from version 5 on: three times faster than numpy."""
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), np.zeros((1, 65536), np.uint16))
    except cv2.error:
        return False
    return True
