"""Margins around a chip that geometric transforms need, so that rotating and shrinking bring in pixels and not fill.

A chip is cut larger by this margin on every side, transformed, and cropped to its centre. Transforms are known by
their attributes as albumentations 2.0 has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from pipeline.data.chips.augmentation.transforms import composed, leaves

_SPARE: Final = 2
"""Pixels in addition to what geometry needs: interpolation reads neighbours."""
_ELASTIC: Final = 1.9
"""Displacements of ElasticTransform are alpha times noise of deviation 0.28 / sigma, cut off at alpha: so many times
alpha / sigma is more than six deviations."""
_RESIZES: Final = ("Resize", "RandomScale", "LongestMaxSize", "SmallestMaxSize", "Pad", "PadIfNeeded")


def margins(transforms: Sequence[Any], size: int) -> tuple[int, ...]:
    """Pixels on each side that are wanted before each of the transforms, in their order.

    At most `size`: what a transform needs beyond is filled, and ignored. 0 for all if a transform crops or resizes by
    itself: it would see another share of the scene than its parameters say.
    """
    if any(_sizes(leaf) for transform in transforms for leaf in leaves(transform)):
        return (0,) * len(transforms)
    half = size / 2
    found = []
    for transform in reversed(transforms):
        half = min(_before(transform, half), 1.5 * size)
        found.append(math.ceil(half - size / 2))
    return tuple(reversed(found))


def _before(transform: Any, half: float) -> float:
    """Half of the side of the square that a transform must see to fill one of `half` all around its centre."""
    if composed(transform):
        if type(transform).__name__ in ("OneOf", "OneOrOther"):
            return max(_before(child, half) for child in transform.transforms)
        for child in reversed(transform.transforms):
            half = _before(child, half)
        return half
    name = type(transform).__name__
    wanted = half
    if transform.p <= 0:
        return half
    if name in ("Affine", "ShiftScaleRotate") and not transform.fit_output:
        wanted = _affine(transform, half)
    elif name == "Rotate":
        wanted = half * _turned(transform.limit) + _SPARE
    elif name == "ElasticTransform":
        wanted = half + abs(transform.alpha) * min(1.0, _ELASTIC / transform.sigma) + _SPARE
    elif name == "GridElasticDeform":
        wanted = half + abs(transform.magnitude) + _SPARE
    return wanted


def _affine(transform: Any, half: float) -> float:
    """Output = translate · shear · rotate · scale about the centre, all of it undone from the outside in."""
    least = min(transform.scale["x"][0], transform.scale["y"][0])
    skew_x, skew_y = (math.tan(math.radians(max(map(abs, transform.shear[axis])))) for axis in "xy")
    skew = (1 + max(skew_x, skew_y)) / max(1 - skew_x * skew_y, 0.1)
    factor = skew * _turned(transform.rotate) / max(least, 0.1)
    pixels, share = (
        0.0 if given is None else max(abs(v) for axis in "xy" for v in given[axis])
        for given in (transform.translate_px, transform.translate_percent)
    )
    if factor == 1 and pixels == share == 0:
        return half
    # A share is one of the whole square that is seen: h = factor · (half + pixels + share · 2 h).
    return float(factor * (half + pixels) / max(1 - 2 * factor * share, 0.1) + _SPARE)


def _turned(limits: Sequence[float]) -> float:
    """By how much the square around a square grows that is turned by any of these degrees."""
    low, high = limits
    worst = math.ceil((low - 45) / 90) * 90 + 45
    angles = [low, high] + ([worst] if worst <= high else [])
    return max(abs(math.cos(math.radians(a))) + abs(math.sin(math.radians(a))) for a in angles)


def _sizes(leaf: Any) -> bool:
    name = type(leaf).__name__
    return "Crop" in name or name in _RESIZES or getattr(leaf, "crop_border", False)
