"""Detect the same content in two scenes, by content alone, so that no coordinates are needed.

Two ways. Marks: exact blocks of pixels, chosen by what they hold and not by where they are, so that crops of one
larger image are known by what they share (content-defined fingerprints: Schleimer, Wilkerson & Aiken, "Winnowing",
2003, in two dimensions). Looks: small grey pictures, compared by a perceptual hash (signs of the lowest frequencies of
a cosine transform) and then by correlation, so that copies in another compression or size are known.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

BLOCK: Final = 8
THUMBNAIL: Final = 32
"""Side of the small grey pictures."""

_ONE_IN: Final = 64
_MAX_MARKS: Final = 2048
_MIN_SHARED: Final = 6
_MAX_OWNERS: Final = 8
_FREQUENCIES: Final = 8
_MAX_DISTANCE: Final = 6
_MIN_CORRELATION: Final = 0.95
_MIN_SET: Final = 6
_OUTLIER: Final = 6.0
_MIN_REST: Final = 0.8
_MIN_WHOLE: Final = 0.9
_LEAST_UNIT: Final = 0.1
_NORMAL: Final = 0.6745  # a normal distribution's median absolute deviation, in standard deviations
_COMMON: Final = 0.1
_WORTH: Final = 3.0
_MAX_DETAILS: Final = 2000
_MIN_DETAIL: Final = 0.6
_BLUR: Final = 3.0
_MIN_SIDE: Final = 16
_SCALES: Final = (1.0, 0.985, 0.97, 0.95, 0.92, 0.89, 1.015)


@dataclass(frozen=True)
class Pair:
    """Two scenes that share content: ids, and how it was seen."""

    first: str
    second: str
    how: str


@dataclass(frozen=True)
class Marks:
    """Content that can be recognised: hashes [n] uint64, no two alike, and (row, col) of each [n,2]."""

    codes: NDArray[np.uint64]
    places: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def none(cls) -> Marks:
        """Marks of an image without recognisable content."""
        return cls(np.zeros(0, np.uint64), np.zeros((0, 2), np.int32))


def marks(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Marks:
    """Hashes of blocks of BLOCK × BLOCK pixels with their places; about one block in 64, chosen by its content.

    Blocks that hold few values, are seen twice, or touch invalid pixels are left out: they are no evidence.

    Args:
        pixels: [C,h,w] of any dtype.
        valid: [h,w].

    Returns:
        At most 2048, those with the smallest hashes: the same ones wherever the content is.
    """
    if min(valid.shape) < 2 * BLOCK:
        return Marks.none()
    hashes = _blocks(_codes(pixels))
    rows, cols = np.nonzero((hashes >> np.uint64(40)) % np.uint64(_ONE_IN) == 0)
    _, first, counts = np.unique(hashes[rows, cols], return_index=True, return_counts=True)
    once = first[counts == 1][: 2 * _MAX_MARKS]
    rows, cols = rows[once], cols[once]
    blocks = sliding_window_view(pixels[0], (BLOCK, BLOCK))[rows, cols].reshape(len(rows), BLOCK * BLOCK)
    varied = (np.diff(np.sort(blocks, axis=1), axis=1) != 0).sum(axis=1) >= BLOCK
    usable = np.flatnonzero(varied & sliding_window_view(valid, (BLOCK, BLOCK))[rows, cols].all(axis=(1, 2)))
    rows, cols = rows[usable[:_MAX_MARKS]], cols[usable[:_MAX_MARKS]]
    return Marks(hashes[rows, cols], np.stack([rows, cols], axis=1).astype(np.int32))


def sharing(marks_of: Mapping[str, Marks]) -> list[Pair]:
    """Pairs of scenes that hold several equal blocks at one and the same displacement."""
    ids = sorted(marks_of)
    if not ids:
        return []
    codes = np.concatenate([marks_of[i].codes for i in ids])
    places = np.concatenate([marks_of[i].places for i in ids])
    owners = np.repeat(np.arange(len(ids)), [len(marks_of[i]) for i in ids])
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.diff(codes[order], prepend=np.uint64(0)) != 0) if len(codes) else np.zeros(0, np.int64)
    lengths = np.diff(begins, append=len(codes))
    moves: defaultdict[tuple[int, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
        if 1 < length <= _MAX_OWNERS:
            for one, other in itertools.combinations(order[begin : begin + length].tolist(), 2):
                row, col = (places[one] - places[other]).tolist()
                moves[(int(owners[one]), int(owners[other]))][(row, col)] += 1
    pairs = []
    for (a, b), seen in sorted(moves.items()):
        (row, col), count = seen.most_common(1)[0]
        if count >= _MIN_SHARED:
            moved = (
                f"displaced by {abs(row)} rows and {abs(col)} columns" if (row, col) != (0, 0) else "at the same place"
            )
            pairs.append(Pair(ids[a], ids[b], f"equal pixels, {moved}"))
    return pairs


def thumbnail_of(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """A grey picture [LOOK, LOOK] of a small view [C,h,w], with mean 0 and deviation 1; None if flat or invalid."""
    if valid.mean() < 0.5 or min(valid.shape) < 2:
        return None
    grey = np.where(valid, pixels.astype(np.float64).mean(axis=0), np.nan)
    grey = np.where(valid, grey, np.nanmean(grey))
    rows, cols = (np.linspace(0, n, THUMBNAIL + 1) for n in valid.shape)
    sums = np.zeros((valid.shape[0] + 1, valid.shape[1] + 1))
    sums[1:, 1:] = grey.cumsum(0).cumsum(1)
    integral = _between(_between(sums, rows).T, cols).T  # the integral image, also between pixels
    small = np.diff(np.diff(integral, axis=0), axis=1)
    spread = float(small.std())
    if spread <= 1e-9 * (abs(float(small.mean())) + 1e-12):
        return None
    scaled: NDArray[np.float32] = ((small - small.mean()) / spread).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class Similar:
    """Scenes that look nearly the same.

    Attributes:
        pairs: those that look much more alike than scenes of this set do.
        matching: share of all pairs whose pictures correlate by 0.9, what is common to the whole set included.
        num_pairs: all pairs.
    """

    pairs: tuple[Pair, ...] = ()
    matching: float = 0.0
    num_pairs: int = 0

    @property
    def telling(self) -> bool:
        """False where so many pairs match that a match means nothing in this set: all scenes show the same view."""
        return self.matching <= _COMMON


def similar(
    thumbnails: Mapping[str, NDArray[np.float32]], details: Mapping[str, NDArray[np.float32]] | None = None
) -> Similar:
    """Pairs of scenes whose small pictures are nearly the same, measured by what is usual in this set.

    What all pictures have in common (their mean) is taken off first, as the bright disc of a retina. A pair counts if
    the correlation of the rest is high and an outlier among the correlations of all pairs. Pairs that stand out less,
    as an image and a crop of it, count if the fine detail of one is found in the other.

    Args:
        thumbnails: of the scenes, see `thumbnail_of`.
        details: larger ones, see `detail`; by default none, and crops are not found.
    """
    ids = sorted(thumbnails)
    if len(ids) < 2:
        return Similar()
    pictures = np.stack([thumbnails[i] for i in ids])
    whole, rest = _correlations(pictures), _correlations(_own(pictures))
    first, second = np.triu_indices(len(ids), 1)
    bits = _hashes(pictures)
    close = (np.bitwise_count(bits[first] ^ bits[second]) <= _MAX_DISTANCE) & (whole[first, second] >= _MIN_CORRELATION)
    alone = rest[first, second]
    chosen = close & (alone >= _MIN_CORRELATION)
    if len(ids) >= _MIN_SET:
        scores = np.arctanh(alone.clip(-0.9999, 0.9999))
        centre = float(np.median(scores))
        unit = max(float(np.median(np.abs(scores - centre))) / _NORMAL, _LEAST_UNIT)
        similar_all = whole[first, second] >= _MIN_WHOLE
        chosen = (scores - centre >= _OUTLIER * unit) & (alone >= _MIN_REST) & similar_all
        if details is not None:
            doubtful = np.flatnonzero(similar_all & ~chosen & (scores - centre >= _WORTH * unit))
            for k in doubtful[np.argsort(-scores[doubtful])][:_MAX_DETAILS].tolist():
                one, other = details[ids[first[k]]], details[ids[second[k]]]
                chosen[k] = max(_found_in(one, other), _found_in(other, one)) >= _MIN_DETAIL
    pairs = [
        Pair(ids[a], ids[b], f"nearly the same picture, correlation {rest[a, b]:.2f}")
        for a, b in zip(first[chosen].tolist(), second[chosen].tolist(), strict=True)
    ]
    return Similar(tuple(pairs), float((whole[first, second] >= _MIN_WHOLE).mean()), len(first))


def detail(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The fine detail [h,w] of a view [C,h,w]: what a blur takes away, 0 near invalid pixels."""
    grey = pixels.astype(np.float64).mean(axis=0)
    grey = np.where(valid, grey, grey[valid].mean() if valid.any() else 0).astype(np.float32)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), _BLUR)
    near = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.where(near > 0, fine, 0), np.float32)


def _found_in(part: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
    """Best correlation of the middle of a thumbnail with another one, at slightly different scales."""
    height, width = part.shape
    middle = part[height // 5 : height - height // 5, width // 5 : width - width // 5]
    best = 0.0
    for scale in _SCALES:
        template = cv2.resize(middle, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        fits = all(small <= large for small, large in zip(template.shape, whole.shape, strict=True))
        if fits and min(template.shape) >= _MIN_SIDE:
            best = max(best, float(cv2.matchTemplate(whole, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _own(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from thumbnails [n, THUMBNAIL, THUMBNAIL] what all have in common; few are left unchanged."""
    if len(pictures) < _MIN_SET:
        return pictures
    flat = pictures.reshape(len(pictures), -1)
    mean = flat.mean(axis=0)
    length = float(mean @ mean)
    if length == 0:
        return pictures
    own: NDArray[np.float32] = (flat - (flat @ mean / length)[:, None] * mean).astype(np.float32)
    return own.reshape(pictures.shape)


def _correlations(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlations of all pairs [n, n]; 0 with a constant thumbnail."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return np.asarray(flat @ flat.T, np.float32)


def _hashes(pictures: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64 bits each: which of the low frequencies are above their median."""
    waves = np.cos(np.pi / THUMBNAIL * np.outer(np.arange(_FREQUENCIES), np.arange(THUMBNAIL) + 0.5))
    low = (waves @ pictures @ waves.T).reshape(len(pictures), -1)
    above = low > np.median(low, axis=1, keepdims=True)
    weights = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return np.asarray((above * weights).sum(axis=1, dtype=np.uint64))


def _codes(pixels: NDArray[Any]) -> NDArray[np.uint64]:
    """One number per pixel [h,w] that stands for all its bands."""
    codes = np.zeros(pixels.shape[1:], np.uint64)
    for band in pixels:
        raw = np.ascontiguousarray(band).view(f"u{band.dtype.itemsize}").astype(np.uint64)
        codes = _mix(codes + raw + np.uint64(0x9E3779B97F4A7C15))
    return codes


def _blocks(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash of the block that begins at each pixel [h - BLOCK + 1, w - BLOCK + 1]: weighted sums, modulo 2^64."""
    rng = np.random.default_rng(0)
    across, down = (rng.integers(1, 1 << 62, BLOCK, dtype=np.uint64) * np.uint64(2) + np.uint64(1) for _ in range(2))
    height, width = codes.shape[0] - BLOCK + 1, codes.shape[1] - BLOCK + 1
    rows = np.zeros((codes.shape[0], width), np.uint64)
    for i, weight in enumerate(across):
        rows += codes[:, i : i + width] * weight
    rows = _mix(rows)
    total = np.zeros((height, width), np.uint64)
    for i, weight in enumerate(down):
        total += rows[i : i + height] * weight
    return _mix(total)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele et al. 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _between(table: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of a table at fractional positions, linearly."""
    low = np.minimum(places.astype(int), len(table) - 2)
    part = (places - low)[:, None]
    out: NDArray[np.float64] = table[low] * (1 - part) + table[low + 1] * part
    return out


def merged(groups: Sequence[Sequence[Pair]]) -> list[Pair]:
    """All pairs, each once; what comes first is kept."""
    out: dict[tuple[str, str], Pair] = {}
    for pair in (p for group in groups for p in group):
        out.setdefault((min(pair.first, pair.second), max(pair.first, pair.second)), pair)
    return list(out.values())
