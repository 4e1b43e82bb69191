"""Undeclared nodata values and constant borders of images. Pure numpy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.valid_pixels import Pixels

KNOWN: Final = (-9999, -99999, -999, -99, -32768, -32767, -2147483648, 9999, 65535, 32767, 2147483647, 99999)
"""Values that are often written where nothing was measured; besides these, all beyond ±1e19 of floats."""

_BEYOND: Final = 1e19
_MIN_PIXELS: Final = 8
_MIN_SHARE: Final = 0.005
_ROUNDS: Final = 3
_GAP_KNOWN: Final = 0.5
_GAP_OTHER: Final = 3.0
_FEW: Final = 32
_RIM_SHARE: Final = 0.02
_RIM_MOST: Final = 0.5
_RIM_TOLERANCE: Final = 0.01
_RIM_SOLID: Final = 0.95
_RIM_LEAST: Final = 3  # odd: an even kernel moves what it opens by a pixel
_RIM_EXACT: Final = 0.98


@dataclass(frozen=True)
class Extreme:
    """The least or greatest valid value of a band in one scene: how many pixels hold it, of how many.

    `low` and `high` are the 1st and 99th percentile of the other valid pixels, `nearest` is the nearest other value;
    `num_others` says how many other values there are, NaN and 0 where there are none.
    """

    band: int
    value: float
    pixels: int
    of: int
    nearest: float
    low: float
    high: float
    num_others: int


@dataclass(frozen=True)
class Sentinel:
    """A value that probably stands for not measured: in which scenes, with the share of the read pixels, per band."""

    value: float
    known: bool
    shares: dict[str, dict[int, float]]
    """By scene, by band."""


@dataclass(frozen=True)
class Rim:
    """A flat border of valid pixels around what an image shows: its share of the pixels, and its value per band.

    `exact` is False where values vary a little, as after lossy compression.
    """

    share: float
    values: tuple[float, ...]
    exact: bool


def extremes(patches: Sequence[Pixels]) -> tuple[Extreme, ...]:
    """Values at the ends of each band's range that several pixels hold.

    Args:
        patches: windows of one scene: pixels [C,h,w] and valid [h,w].
    """
    if not patches:
        return ()
    found = []
    for band in range(len(patches[0][0])):
        values = np.concatenate([pixels[band][valid] for pixels, valid in patches])
        total = values.size
        for _ in range(_ROUNDS):
            if values.size == 0:
                break
            ends = [_extreme(band, values, end, total) for end in {values.min(), values.max()}]
            isolated = [e for e in ends if e.pixels >= _MIN_PIXELS and _may_be(e)]
            found += isolated
            if not isolated:
                break
            values = values[~np.isin(values, np.array([e.value for e in isolated], values.dtype))]
    return tuple(found)


def sentinels(extremes_of: Mapping[str, Sequence[Extreme]], ranges: Sequence[tuple[float, float]]) -> list[Sentinel]:
    """The values that stand for not measured, those of most pixels first.

    A known value must lie beyond the band's other values by half of their range, any other value by three times of it
    and in half a percent of a scene's pixels; a value that is one of few in its band is none.

    Args:
        extremes_of: of each scene.
        ranges: 1st and 99th percentile of each band over scenes whose values are usual.
    """
    shares: defaultdict[float, defaultdict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for scene, of in extremes_of.items():
        for e in of:
            low, high = (e.low, e.high) if e.num_others else ranges[e.band]
            if _is_sentinel(e, low, high, e.nearest if e.num_others else _nearer(e.value, low, high)):
                shares[e.value][scene][e.band] = e.pixels / e.of
    out = [Sentinel(v, _known(v), {s: dict(bands) for s, bands in of.items()}) for v, of in shares.items()]
    return sorted(out, key=lambda s: -sum(max(bands.values()) for bands in s.shares.values()))


def rim(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Rim | None:
    """The flat border around the picture: a frame, or the corners around a round or rotated field of view.

    It is one only if what it leaves is nearly convex, so that dark ground between bright things is none.

    Args:
        pixels: [C,h,w] of a whole scene.
        valid: [h,w].
    """
    height, width = valid.shape
    if min(height, width) < 16 or not valid.any():
        return None
    values = np.array([_corner_value(band, valid) for band in pixels])
    spread = np.array([float(np.ptp(np.percentile(band[valid], (1, 99)))) for band in pixels])
    off = np.abs(pixels.astype(np.float64) - values[:, None, None])
    flat = ((off <= _RIM_TOLERANCE * spread[:, None, None]).all(axis=0) & valid).astype(np.uint8)
    kernel = np.ones((_RIM_LEAST, _RIM_LEAST), np.uint8)
    flat = cv2.morphologyEx(flat, cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE)
    _, parts = cv2.connectedComponents(flat, connectivity=4)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    outer = np.isin(parts, np.unique(border[border > 0]))
    share = float(outer.sum() / valid.sum())
    if not _RIM_SHARE <= share <= _RIM_MOST or not _all_around(outer) or not _convex(valid & ~outer):
        return None
    exact = (off[:, outer] == 0).all(axis=0).mean() > _RIM_EXACT  # dark pixels of the picture may touch it
    return Rim(share, tuple(values.tolist()), bool(exact))


def _corner_value(band: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    """The most frequent valid value at the four edges; 0 without any."""
    edges = np.concatenate([band[0][valid[0]], band[-1][valid[-1]], band[:, 0][valid[:, 0]], band[:, -1][valid[:, -1]]])
    if edges.size == 0:
        return 0.0
    distinct, counts = np.unique(edges, return_counts=True)
    return float(distinct[counts.argmax()])


def _all_around(outer: NDArray[np.bool_]) -> bool:
    """Whether it touches two opposite edges, or three corners and more: not the sky at the top of a photograph."""
    top, bottom, left, right = outer[0], outer[-1], outer[:, 0], outer[:, -1]
    corners = sum(map(bool, (top[0], top[-1], bottom[0], bottom[-1])))
    full = sum(bool(edge.mean() > 0.95) for edge in (top, bottom, left, right))
    return corners >= 3 or (full >= 1 and corners >= 2 and bool(outer[:, outer.shape[1] // 2].mean() < 0.5))


def _convex(rest: NDArray[np.bool_]) -> bool:
    """Whether a region is nearly its own convex hull, holes filled."""
    contours, _ = cv2.findContours(rest.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return False
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    largest = max(cv2.contourArea(c) for c in contours)
    return hull > 0 and largest / hull >= _RIM_SOLID


def _extreme(band: int, values: NDArray[Any], end: Any, total: int) -> Extreme:
    same = values == end
    others = values[~same]
    if others.size == 0:
        return Extreme(band, float(end), int(same.sum()), total, np.nan, np.nan, np.nan, 0)
    nearest = others.min() if end <= others.min() else others.max()
    usual = others[np.abs(others.astype(np.float64)) < _BEYOND]
    low, high = np.percentile(usual if usual.size else others, (1, 99)).tolist()
    distinct = len(np.unique(others[:: max(1, others.size // 4096)]))
    return Extreme(band, float(end), int(same.sum()), total, float(nearest), low, high, distinct)


def _may_be(e: Extreme) -> bool:
    """Whether a value is worth keeping until all scenes are known."""
    return _known(e.value) if e.num_others == 0 else _is_sentinel(e, e.low, e.high, e.nearest)


def _is_sentinel(e: Extreme, low: float, high: float, nearest: float) -> bool:
    if not np.isfinite((low, high)).all():
        return _known(e.value) and abs(e.value) >= _BEYOND
    gap, span = abs(e.value - nearest), max(high - low, 1e-12)
    if _known(e.value):
        return gap >= _GAP_KNOWN * span
    return e.num_others > _FEW and gap >= _GAP_OTHER * span and e.pixels >= _MIN_SHARE * e.of


def _nearer(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


def _known(value: float) -> bool:
    return abs(value) >= _BEYOND or value in KNOWN


def as_written(value: float) -> str:
    """The value as a recipe writes it: float32's lowest with all the digits it needs to be the same number."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < _BEYOND else repr(value)
