"""The transforms that a recipe names: how they are built, checked and called; some are replaced by our own.

The only file that imports albumentations.
"""

# ruff: noqa: E402  (two things must be said before albumentations is imported)
from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping
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

from pipeline.data.chips.augmentation import fast_transforms
from pipeline.data.chips.augmentation.transform_advice import ADVICE, REFUSED
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.recipe import Augment

# Added to the mask of pixels that a transform brought in from outside the chip; masks are uint16 while they are
# augmented. Several transforms cannot fill more than four bands with different values, or read a list as a choice:
# so they only mark the place, and the fill is put there afterwards.
OUTSIDE: Final = 256
_NEAREST: Final = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
_REACH: Final = {cv2.INTER_LINEAR: 1, cv2.INTER_CUBIC: 2, cv2.INTER_AREA: 2, cv2.INTER_LANCZOS4: 4}
"""How many pixels from the nearest one an interpolation looks."""
_QUARTERS: Final = ("e", "r90", "r180", "r270")


class RandomBrightnessContrast(albumentations.RandomBrightnessContrast):  # type: ignore[misc]
    """RandomBrightnessContrast for any dtype, in one pass."""

    span: fast_transforms.Span | None = None

    def apply(self, img: NDArray[Any], alpha: float, beta: float, **params: Any) -> NDArray[Any]:
        """img * alpha + beta."""
        return fast_transforms.linear(img, alpha, beta, self.span)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw alpha and beta, in theirs' order."""
        image = data["image"]
        if self.ensure_safe_range and image.dtype != np.int16:
            return dict(super().get_params_dependent_on_data(params, data))
        alpha = 1.0 + self.py_random.uniform(*self.contrast_limit)
        beta = self.py_random.uniform(*self.brightness_limit)
        limit = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1.0
        # OpenCV's mean is many times faster than numpy's.
        return {"alpha": alpha, "beta": beta * (limit if self.brightness_by_max else cv2.mean(image.reshape(-1))[0])}


class RandomGamma(albumentations.RandomGamma):  # type: ignore[misc]
    """RandomGamma for any dtype; that of albumentations is for uint8 and for floats in 0..1."""

    span: fast_transforms.Span | None = None

    def apply(self, img: NDArray[Any], gamma: float, **params: Any) -> NDArray[Any]:
        """top * (img / top) ** gamma."""
        return img if img.dtype.kind in "iu" and gamma == 1 else fast_transforms.gamma(img, gamma, self.span)


class MultiplicativeNoise(albumentations.MultiplicativeNoise):  # type: ignore[misc]
    """MultiplicativeNoise for any dtype; that of albumentations is for uint8 and for floats in 0..1."""

    span: fast_transforms.Span | None = None

    def apply(self, img: NDArray[Any], multiplier: float | NDArray[Any], **kwargs: Any) -> NDArray[Any]:
        """img * multiplier."""
        return fast_transforms.multiplied(img, multiplier, self.span)


ANY_LAYOUT: Final = (RandomBrightnessContrast, RandomGamma)
"""Those of ours that take planes as well as pixels."""
_BASES: Final = ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D", "BaseCompose")
_OURS: Final = (*ANY_LAYOUT, MultiplicativeNoise)
# Transforms that only exchange and turn pixels, and which element of the square's symmetry group they draw.
ELEMENTS: Final[dict[str, Any]] = {
    "NoOp": lambda _: "e",
    "HorizontalFlip": lambda _: "h",
    "VerticalFlip": lambda _: "v",
    "Transpose": lambda _: "t",
    "RandomRotate90": lambda transform: _QUARTERS[transform.get_params()["factor"]],
    "D4": lambda transform: transform.get_params()["group_element"],
    "SquareSymmetry": lambda transform: transform.get_params()["group_element"],
}


def build(name: str, arguments: Mapping[str, Any], background: float, span: fast_transforms.Span | None) -> Any:
    """A transform.

    Args:
        name: of its class.
        arguments: its own.
        background: what geometric transforms put where they show what lies outside, until the fill is put there.
        span: of the data, as in `Augmentation`.

    Raises:
        RecipeError: it does not exist, refuses its arguments, or cannot work on image and mask.
    """
    known = kinds()
    if name in REFUSED:
        raise RecipeError(f"{name} has no place here", REFUSED[name])
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        raise RecipeError(f"albumentations has no transform {name!r}", f"did you mean {nearest[0]}?" if nearest else "")
    kind = known[name]
    if issubclass(kind, albumentations.BaseCompose):
        arguments = {**arguments, "transforms": _children(name, arguments.get("transforms"), background, span)}
        return _construct(kind, arguments, set(inspect.signature(kind).parameters))
    _refuse_arguments(kind, arguments)
    transform = _construct(kind, _filled(kind, arguments, background), {*kind.InitSchema.model_fields, "p"})
    needed, ours = set(transform.targets_as_params), {"image", "mask"}
    if needed - ours or not transform.available_keys & ours or "BBox" in name:
        raise RecipeError(f"{name} needs more than one image and its mask")
    if isinstance(transform, _OURS):
        transform.span = span
    return transform


def _children(name: str, items: Any, background: float, span: fast_transforms.Span | None) -> list[Any]:
    """The transforms inside OneOf, SomeOf, Sequential and the like, written as in `data.augment`."""
    if not isinstance(items, list) or not items:
        raise RecipeError(f"{name} needs `transforms`: a list like data.augment")
    augments = [Augment.model_validate({"transform": item} if isinstance(item, str) else item) for item in items]
    return [build(a.transform, a.arguments, background, span) for a in augments]


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
    """Summarise pydantic's errors in one line; albumentations hides them in a ValueError."""
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
    return {**arguments, "fill": background, "fill_mask": OUTSIDE + mask}


def apply(transform: Any, image: NDArray[Any], mask: NDArray[Any], force: bool = False) -> tuple[Any, Any]:
    """One transform on image [H, W, C] and mask [H, W] or [K, H, W]; `force`: whatever its p.

    Raises:
        RecipeError: it failed, or changed shape or dtype.
    """
    name = type(transform).__name__
    key = "mask" if mask.ndim == 2 else "masks"
    try:
        result = transform(force_apply=force, **{"image": image, key: mask})
    except Exception as error:  # whatever a third party's code raises, the recipe asked for it
        kind = f"{image.shape[2]} bands of {image.dtype}"
        said = f"{name} does not work on {kind}: {' '.join(str(error).split())[:200]}"
        raise RecipeError(said, ADVICE.get(name, "")) from error
    if result["image"].shape != image.shape or result[key].shape != mask.shape:
        height, width = result["image"].shape[:2]
        raise RecipeError(
            f"{name} makes {height}×{width} of a chip of {image.shape[0]}×{image.shape[1]}",
            "all chips must have the size of data.sampling.size",
        )
    if result["image"].dtype != image.dtype:
        advice = ADVICE.get(name, "use it on uint8, or leave it out")
        raise RecipeError(f"{name} makes {result['image'].dtype} of {image.dtype}", advice)
    return result["image"], result[key]


def on_planes(transform: Any, planes: NDArray[Any]) -> NDArray[Any]:
    """One of `ANY_LAYOUT` on planes [C, H, W].

    Raises:
        RecipeError: it failed.
    """
    try:
        drawn = transform.get_params() | transform.get_params_dependent_on_data(params={}, data={"image": planes})
        changed: NDArray[Any] = transform.apply(planes, **drawn)
    except ValueError as error:
        name, kind = type(transform).__name__, f"{len(planes)} bands of {planes.dtype}"
        raise RecipeError(f"{name} does not work on {kind}: {error}", ADVICE.get(name, "")) from error
    return changed


def reach(leaf: Any) -> int:
    """Distance in pixels that a transform's interpolation reads around a pixel; 0 if it does not interpolate."""
    if not isinstance(leaf, albumentations.DualTransform) or type(leaf).__name__ in ELEMENTS:
        return 0
    return _REACH.get(getattr(leaf, "interpolation", cv2.INTER_NEAREST), 0)


def shows_outside(leaf: Any) -> bool:
    """Whether the fill is interpolated into the pixels at the edge."""
    mask = getattr(leaf, "fill_mask", None)
    constant = getattr(leaf, "border_mode", cv2.BORDER_CONSTANT) == cv2.BORDER_CONSTANT
    return isinstance(mask, int | float) and mask >= OUTSIDE and constant


def composed(transform: Any) -> bool:
    """Whether it is made of other transforms."""
    return isinstance(transform, albumentations.BaseCompose)


def photometric(leaf: Any) -> bool:
    """Whether it leaves masks alone."""
    return isinstance(leaf, albumentations.ImageOnlyTransform)


def leaves(transform: Any) -> Iterator[Any]:
    """The transforms inside one that is made of others, or itself."""
    if isinstance(transform, albumentations.BaseCompose):
        for child in transform.transforms:
            yield from leaves(child)
    else:
        yield transform


def kinds() -> dict[str, Any]:
    """Every transform by the name of its class: albumentations', without the bases of others, and ours."""
    found = {
        name: kind
        for name, kind in vars(albumentations).items()
        if inspect.isclass(kind) and issubclass(kind, (albumentations.BasicTransform, albumentations.BaseCompose))
    }
    return {name: kind for name, kind in found.items() if name not in _BASES} | {kind.__name__: kind for kind in _OURS}
