"""Display of pixels and masks: choice of RGB bands, contrast stretch, class overlay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels.classes import IGNORE, Classes

_TRIPLES: Final = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("b4", "b3", "b2"),  # Sentinel-2 and Landsat 8 and 9; of older Landsats it is the usual false colour
)
_WORD: Final = re.compile(r"[a-z]+(?:\d+[a-z]?)?|\d+")
_EDGES: Final = {"edge", "rededge"}
_HATCH: Final = 8
"""Pixels from one line of the hatching to the next."""
_OPACITY: Final = 0.4


def rgb_bands(bands: Sequence[str]) -> tuple[int, int, int]:
    """Choose the three bands that every picture of this package shows.

    Args:
        bands: their names. Case, leading zeros of numbers and other words of a name (`SR_B4`, `Band 4 - Red`) do not
            matter.

    Returns:
        Positions of red, green and blue: the bands named so, or R, G, B, or B04, B03, B02 as of Sentinel-2 and
        Landsat. Without such names the first three; of fewer than three bands the first, three times (grey).
    """
    words = [_words(name) for name in bands]
    for wanted in _TRIPLES:
        found = [_place_of(word, words) for word in wanted]
        chosen = [position for position in found if position is not None]
        if len(set(chosen)) == 3:
            return chosen[0], chosen[1], chosen[2]
    return (0, 1, 2) if len(bands) >= 3 else (0, 0, 0)


def _words(name: str) -> list[str]:
    return [re.sub(r"(?<=[a-z])0+(?=\d)", "", word) for word in _WORD.findall(name.lower())]


def _place_of(word: str, names: Sequence[Sequence[str]]) -> int | None:
    """The band of this name, else the only band with this word in its name; red edge is not red."""
    exact = [i for i, words in enumerate(names) if words == [word]]
    near = exact or [i for i, words in enumerate(names) if word in words and not _EDGES & set(words)]
    return near[0] if exact or len(near) == 1 else None


def limits(image: NDArray[np.generic], valid: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """2nd and 98th percentile of each band [C,h,w] over valid pixels; 0 and 1 where there are none."""
    if not valid.any():
        return [(0.0, 1.0)] * len(image)
    return [tuple(np.percentile(band[valid].astype(np.float64), (2, 98)).tolist()) for band in image]


def stretch(
    image: NDArray[np.generic], valid: NDArray[np.bool_], between: Sequence[tuple[float, float]] | None = None
) -> NDArray[np.uint8]:
    """[3,h,w] of any range to uint8 [h,w,3], black where not valid.

    Args:
        image: the bands to show.
        valid: [h,w].
        between: for each band the values that become black and full light; by default `limits`.
    """
    out = np.zeros((*image.shape[1:], 3), np.uint8)
    for position, (band, (low, high)) in enumerate(zip(image, between or limits(image, valid), strict=True)):
        scaled = (np.where(valid, band, low).astype(np.float64) - low) / max(high - low, 1e-12)
        out[..., position] = np.where(valid, np.round(255 * scaled.clip(0, 1)), 0)
    return out


def flat(mask: NDArray[np.uint8], none: int) -> NDArray[np.uint8]:
    """A plane of 0, 1 and IGNORE for each class [K,h,w] as one picture [h,w]; a mask [h,w] is given back.

    The last class that is there counts; `none` stands where there is none, IGNORE where nothing is known of any.
    """
    if mask.ndim == 2:
        return mask
    out = np.where((mask == IGNORE).all(0), IGNORE, none).astype(np.uint8)
    for k, plane in enumerate(mask):
        out[plane == 1] = k
    return out


def overlaid(shown: NDArray[np.uint8], mask: NDArray[np.uint8], classes: Classes) -> NDArray[np.uint8]:
    """A picture [h,w,3] with the classes' colours over it and outlines between them; IGNORE is hatched.

    Args:
        shown: the picture, uint8.
        mask: [h,w] class ids and IGNORE; other values are left as they are.
        classes: their colours.
    """
    out = shown.astype(np.float64)
    colors = np.asarray(classes.colors, np.float64)
    known = mask < len(classes)
    # Black hides what is below it: the first class is most often the background, and stays as it is.
    tinted = known & (colors[np.where(known, mask, 0)].sum(-1) > 0)
    out[tinted] = (1 - _OPACITY) * out[tinted] + _OPACITY * colors[mask[tinted]]
    edge = np.zeros(mask.shape, np.bool_)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    lined = edge & tinted
    out[lined] = colors[mask[lined]]
    rows, cols = np.indices(mask.shape)
    hatched = (mask == IGNORE) & ((rows + cols) % _HATCH < 1)
    out[hatched] = 0.4 * out[hatched] + 0.6 * 128
    return out.round().astype(np.uint8)
