"""Try a transform on an example chip, and refuse results that lose the data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.augmentation import transforms
from pipeline.data.chips.augmentation.transform_advice import ADVICE
from pipeline.errors import RecipeError


def attempt(transform: Any, example: NDArray[Any], planes: int | None = None) -> None:
    """Apply a transform to an image [C, H, W], whatever its p, with a mask [H, W], or [planes, H, W].

    Raises:
        RecipeError: it does not work on such an image, or loses what is in it.
    """
    image = np.ascontiguousarray(example.transpose(1, 2, 0))
    mask = np.zeros(image.shape[:2] if planes is None else (planes, *image.shape[:2]), np.uint16)
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    _refuse_saturation(transform, image)
    result, _ = transforms.apply(transform, image, mask, force=True)
    if transforms.photometric(transform):
        _refuse_loss(type(transform).__name__, image, result)
    if not np.isfinite([result.min(), result.max()]).all():
        name = type(transform).__name__
        raise RecipeError(f"{name} makes NaN or infinity of values from {image.min():g} to {image.max():g}")


def _refuse_saturation(transform: Any, image: NDArray[Any]) -> None:
    """Brightness in shares of what 16 bits can hold, for data that use a small part of that."""
    if not isinstance(transform, transforms.RandomBrightnessContrast) or not transform.brightness_by_max:
        return
    most = max(map(abs, transform.brightness_limit)) * (np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1.0)
    low, high = float(image.min()), float(image.max())
    if most > high - low > 0:
        raise RecipeError(
            f"{type(transform).__name__} would shift values by up to {most:g}, the data only span {low:g} to {high:g}",
            ADVICE["RandomBrightnessContrast"],
        )


def _refuse_loss(name: str, image: NDArray[Any], result: NDArray[Any]) -> None:
    low, high = result.min(), result.max()
    if (image.min() < 0 == low) or (image.dtype.kind == "f" and image.max() > 1 == high):
        raise RecipeError(
            f"{name} cuts values off: the data have {image.min():g} to {image.max():g}, "
            f"what is left is {low:g} to {high:g}",
            ADVICE.get(name, "albumentations expects uint8, uint16, or float32 in 0 to 1"),
        )
    if image.dtype != np.uint8 and len(np.unique(result)) <= 256 < len(np.unique(image)) // 4:
        raise RecipeError(
            f"{name} works in uint8: of {len(np.unique(image))} values {len(np.unique(result))} are left",
            ADVICE.get(name, "leave it out"),
        )
