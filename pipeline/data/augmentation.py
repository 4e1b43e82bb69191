"""Augmentation by albumentations, named in the recipe by class name; a pure function of (seed, epoch, index).

The only file that imports albumentations. Its own `seed` argument is not used: it hands the same seed to every
transform, so that two flips with p 0.5 would always happen together; and seeding costs more than a flip. Instead all
transforms share two generators that are made anew for each chip.
"""

# ruff: noqa: E402  (two things must be said before albumentations is imported)
from __future__ import annotations

import inspect
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for its newest version when imported
# Its converters to tensors load torch, which would take half a gigabyte in each process that only reads chips.
sys.modules.setdefault("albumentations.pytorch", None)  # type: ignore[arg-type]

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.data.classes import IGNORE
from pipeline.data.moments import representable
from pipeline.data.order import words
from pipeline.errors import RecipeError
from pipeline.recipe import Augment

# Added to the mask of pixels that a transform brought in from outside the chip; masks are uint16 while they are
# augmented. Several transforms cannot fill more than four bands with different values, or read a list as a choice:
# so they only mark the place, and the fill is put there afterwards.
_OUTSIDE: Final = 256
_NEAREST: Final = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)


class Augmentation:
    """The recipe's transforms, applied in their order.

    Args:
        augments: the recipe's `data.augment`.
        seed: the recipe's seed.
        fill: value per band to put where a geometric transform shows what lies outside the chip; the mask is IGNORE
            there. Arguments `fill` and `fill_mask` in the recipe have precedence.

    Raises:
        RecipeError: as `check`.
    """

    def __init__(self, augments: Sequence[Augment], seed: int, fill: Sequence[float]) -> None:
        self._arguments = (tuple(augments), seed, tuple(fill))
        self._local = threading.local()
        self._transforms()

    def __reduce__(self) -> tuple[Any, ...]:
        return Augmentation, self._arguments

    def __call__(
        self, image: NDArray[Any], mask: NDArray[np.uint8], epoch: int, index: int
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Augment chip `index` of `epoch`; safe to call from several threads.

        Args:
            image: [C, H, W] of any dtype.
            mask: [H, W].
            epoch: of the chip.
            index: of the chip in its epoch.

        Returns:
            Image and mask of the same shapes and dtypes, contiguous.

        Raises:
            RecipeError: a transform failed or changed shape or dtype.
        """
        augments, seed, fill = self._arguments
        if not augments:
            return image, mask
        (key,) = words("augment", seed, epoch, index, count=1)
        pixels: NDArray[Any] = np.atleast_3d(cv2.merge(list(image)))  # many times faster than a transposed copy
        marks: NDArray[Any] = mask.astype(np.uint16)
        numbers, choices = np.random.Generator(np.random.PCG64(key)), random.Random(key)
        cv2.setRNGSeed(key & 0x7FFFFFFF)  # a few transforms draw from OpenCV's generator, which is one per thread
        for transform in self._transforms():
            transform.set_random_state(numbers, choices)
            pixels, marks = _apply(transform, pixels, marks)
        result = np.stack(cv2.split(pixels))
        outside = marks >= _OUTSIDE
        if outside.any():
            for band, value in zip(result, representable(fill, result.dtype), strict=True):
                band[outside] = value
            marks = marks % _OUTSIDE
        return result, marks.astype(np.uint8)

    def _transforms(self) -> list[Any]:
        """One set per thread, because a transform keeps its generators and parameters in itself."""
        if not hasattr(self._local, "transforms"):
            cv2.setNumThreads(0)  # chips are made side by side already
            augments, _, fill = self._arguments
            background = float(np.mean(fill)) if fill else 0.0
            self._local.transforms = [_build(a.transform, a.arguments, background) for a in augments]
        transforms: list[Any] = self._local.transforms
        return transforms


def check(augments: Sequence[Augment], *, example: NDArray[Any] | None = None) -> None:
    """Find out before training whether the transforms can do what is asked of them.

    Args:
        augments: the recipe's `data.augment`.
        example: an image [C, H, W] with the shape, dtype and range of the chips; each transform is tried on it.

    Raises:
        RecipeError: a class name that albumentations does not have; arguments that the class does not have or refuses;
            a transform that needs more than image and mask, changes the size or the dtype, or does not work on such
            bands. All are named.
    """
    problems = []
    for position, augment in enumerate(augments):
        try:
            transform = _build(augment.transform, augment.arguments, 0.0)
            if example is not None:
                for leaf in _leaves(transform):
                    _try(leaf, example)
        except RecipeError as error:
            problems.append(f"data.augment[{position}]: {error.message}" + (f"; {error.hint}" if error.hint else ""))
    if problems:
        raise RecipeError("\n".join(problems), "see the documentation of albumentations 2.0 for names and arguments")


def _build(name: str, arguments: Mapping[str, Any], background: float) -> Any:
    kinds = _kinds()
    if name not in kinds:
        nearest = get_close_matches(name, kinds, n=1)
        raise RecipeError(f"albumentations has no transform {name!r}", f"did you mean {nearest[0]}?" if nearest else "")
    kind = kinds[name]
    if issubclass(kind, albumentations.BaseCompose):
        arguments = {**arguments, "transforms": _children(name, arguments.get("transforms"), background)}
        return _construct(kind, arguments, set(inspect.signature(kind).parameters))
    _refuse_arguments(kind, arguments)
    transform = _construct(kind, _filled(kind, arguments, background), {*kind.InitSchema.model_fields, "p"})
    needed, ours = set(transform.targets_as_params), {"image", "mask"}
    if needed - ours or not transform.available_keys & ours or "BBox" in name:
        raise RecipeError(f"{name} needs more than one image and its mask")
    return transform


def _children(name: str, items: Any, background: float) -> list[Any]:
    """The transforms inside OneOf, SomeOf, Sequential and the like, written as in `data.augment`."""
    if not isinstance(items, list) or not items:
        raise RecipeError(f"{name} needs `transforms`: a list like data.augment")
    augments = [Augment.model_validate({"transform": item} if isinstance(item, str) else item) for item in items]
    return [_build(a.transform, a.arguments, background) for a in augments]


def _construct(kind: Any, arguments: Mapping[str, Any], known: set[str]) -> Any:
    for name in arguments:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(sorted(known))}"
            raise RecipeError(f"{kind.__name__} has no argument {name!r}", hint)
    try:
        return kind(**arguments)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{kind.__name__} refuses its arguments: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What pydantic found, in one line; albumentations hides it behind a ValueError."""
    source = error if isinstance(error, ValidationError) else error.__context__
    if isinstance(source, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'together'}: {e['msg']}" for e in source.errors())
    return " ".join(str(error).split())[:300]


def _refuse_arguments(kind: Any, arguments: Mapping[str, Any]) -> None:
    if arguments.get("mask_interpolation", cv2.INTER_NEAREST) not in _NEAREST:
        raise RecipeError(
            f"{kind.__name__}: mask_interpolation {arguments['mask_interpolation']} would mix class ids",
            "leave it out: the nearest pixel is taken",
        )


def _filled(kind: Any, arguments: Mapping[str, Any], background: float) -> dict[str, Any]:
    """The arguments, completed by fills where the transform shows what lies outside.

    Dropouts have None as default, because what they hide is to be guessed: they are left alone.
    """
    parameters = inspect.signature(kind).parameters
    if "fill_mask" not in parameters or parameters["fill_mask"].default is None:
        return dict(arguments)
    mask = arguments.get("fill_mask", IGNORE)
    if not isinstance(mask, int) or not 0 <= mask <= IGNORE:
        raise RecipeError(
            f"{kind.__name__}: fill_mask {mask!r} is no class", f"give its position, or {IGNORE}: ignored"
        )
    if "fill" in arguments:
        return {**arguments, "fill_mask": mask}
    return {**arguments, "fill": background, "fill_mask": _OUTSIDE + mask}


def _apply(transform: Any, image: NDArray[Any], mask: NDArray[Any], force: bool = False) -> tuple[Any, Any]:
    """One transform on image [H, W, C] and mask [H, W]."""
    name = type(transform).__name__
    try:
        result = transform(force_apply=force, image=image, mask=mask)
    except Exception as error:  # whatever a third party's code raises, the recipe asked for it
        kind = f"{image.shape[2]} bands of {image.dtype}"
        raise RecipeError(f"{name} does not work on {kind}: {' '.join(str(error).split())[:200]}") from error
    if result["image"].shape != image.shape or result["mask"].shape != mask.shape:
        height, width = result["image"].shape[:2]
        raise RecipeError(
            f"{name} makes {height}×{width} of a chip of {image.shape[0]}×{image.shape[1]}",
            "all chips must have the size of data.sampling.size",
        )
    if result["image"].dtype != image.dtype:
        raise RecipeError(f"{name} makes {result['image'].dtype} of {image.dtype}", "use it on uint8, or leave it out")
    return result["image"], result["mask"]


def _try(transform: Any, example: NDArray[Any]) -> None:
    """Apply a transform once, whatever its p."""
    image = np.ascontiguousarray(example.transpose(1, 2, 0))
    mask = np.zeros(image.shape[:2], np.uint16)
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    result, _ = _apply(transform, image, mask, force=True)
    name, low, high = type(transform).__name__, result.min(), result.max()
    if not np.isfinite([low, high]).all():
        raise RecipeError(f"{name} makes NaN or infinity of values from {image.min():g} to {image.max():g}")
    if isinstance(transform, albumentations.ImageOnlyTransform) and (
        (image.min() < 0 <= low) or (image.dtype.kind == "f" and image.max() > 1 >= high)
    ):
        raise RecipeError(
            f"{name} cuts values off: the data have {image.min():g} to {image.max():g}, "
            f"what is left is {low:g} to {high:g}",
            "albumentations expects uint8, uint16, or float32 in 0 to 1",
        )


def _leaves(transform: Any) -> Iterator[Any]:
    if isinstance(transform, albumentations.BaseCompose):
        for child in transform.transforms:
            yield from _leaves(child)
    else:
        yield transform


def _kinds() -> dict[str, Any]:
    bases = (albumentations.BasicTransform, albumentations.BaseCompose)
    return {n: k for n, k in vars(albumentations).items() if inspect.isclass(k) and issubclass(k, bases)}
