"""Augmentation by albumentations, named in the recipe by class name; a pure function of (seed, epoch, index).

albumentations' own `seed` argument is not used: it hands the same seed to every
transform, so that two flips with p 0.5 would always happen together; and seeding costs more than a flip. Instead all
transforms share two generators that are made again for each chip.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.augmentation import attempts, fast_transforms, halo, transforms
from pipeline.data.chips.augmentation.transforms import ELEMENTS, OUTSIDE
from pipeline.data.chips.sampling.order import words
from pipeline.data.chips.statistics.moments import representable
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.recipe import Augment, Data

_INVALID: Final = 512 + IGNORE
"""The mask, while it is augmented, of pixels that are invalid, or were interpolated from invalid ones."""


class Augmentation:
    """The recipe's transforms, applied in their order.

    Args:
        augments: the recipe's `data.augment`.
        seed: the recipe's seed.
        fill: value per band of invalid pixels, also put where a geometric transform shows what lies outside; the mask
            is IGNORE there. Arguments `fill` and `fill_mask` in the recipe have precedence.
        size: height and width of the chips that come out, from chips with `margin` more on every side; by default they
            keep the size they have.
        span: smallest and largest value of the data in all bands; by default each chip's own where it matters.

    Raises:
        RecipeError: as `check`.
    """

    def __init__(
        self,
        augments: Sequence[Augment],
        seed: int,
        fill: Sequence[float],
        *,
        size: int | None = None,
        span: fast_transforms.Span | None = None,
    ) -> None:
        self._arguments = (tuple(augments), seed, tuple(fill), size, span)
        self._local = threading.local()
        self._margins = halo.margins(self._transforms(), size) if size is not None else None

    def __reduce__(self) -> tuple[Any, ...]:
        augments, seed, fill, size, span = self._arguments
        return _again, (augments, seed, fill, size, span)

    def __call__(
        self,
        image: NDArray[Any],
        mask: NDArray[np.uint8],
        epoch: int,
        index: int,
        *,
        fill: Sequence[float] | None = None,
        out: tuple[NDArray[Any], NDArray[np.uint8]] | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Augment chip `index` of `epoch`; safe to call from several threads.

        Pixels that are IGNORE in the mask and hold the fill in every band are invalid. Those that a geometric
        transform mixes with invalid ones become invalid as well, and hold the fill in the end.

        Args:
            image: [C, H, W] of any dtype.
            mask: [H, W], or [K, H, W] of several masks.
            epoch: of the chip.
            index: of the chip in its epoch.
            fill: of this chip, where it differs (normalisation `per_scene`).
            out: where image and mask are put, contiguous and of their shapes and dtypes; by default in new arrays, or,
                if nothing is done, left where they are.

        Returns:
            Image and mask of the same dtypes, contiguous; height and width are `size`, or as they were.

        Raises:
            RecipeError: a transform failed or changed shape or dtype.
        """
        augments, seed, usual, size, _ = self._arguments
        if not augments and out is None:
            return image, mask
        values = representable(usual if fill is None else fill, image.dtype)
        (key,) = words("augment", seed, epoch, index, count=1)
        generators = np.random.Generator(np.random.PCG64(key)), random.Random(key)
        cv2.setRNGSeed(key & 0x7FFFFFFF)  # a few transforms draw from OpenCV's generator, which is one per thread
        chip = _Chip(image, _marked(image, mask, values))
        for position, transform in enumerate(self._transforms()):
            if size is not None and self._margins is not None:
                chip.crop(size + 2 * self._margins[position])
            transform.set_random_state(*generators)
            chip.apply(transform)
        if size is not None:
            chip.crop(size)
        return chip.finished(values, out)

    def _transforms(self) -> list[Any]:
        """One set per thread, because a transform keeps its generators and parameters in itself."""
        if not hasattr(self._local, "transforms"):
            cv2.setNumThreads(0)  # chips are made side by side already
            augments, _, fill, _, span = self._arguments
            background = float(np.mean(fill)) if fill else 0.0
            self._local.transforms = [transforms.build(a.transform, a.arguments, background, span) for a in augments]
        built: list[Any] = self._local.transforms
        return built


def margin(augments: Sequence[Augment], size: int) -> int:
    """Pixels that a chip must be cut larger on every side, so that geometric transforms bring in what lies there.

    Args:
        augments: the recipe's `data.augment`.
        size: height and width of the chips in the end.

    Raises:
        RecipeError: as `check`.
    """
    wanted = halo.margins([transforms.build(a.transform, a.arguments, 0.0, None) for a in augments], size)
    return wanted[0] if wanted else 0


def check(augments: Sequence[Augment], *, example: NDArray[Any] | None = None, planes: int | None = None) -> None:
    """Find out before training whether the transforms can do what is asked of them.

    Args:
        augments: the recipe's `data.augment`.
        example: an image [C, H, W] with the shape, dtype and range of the chips; each transform is tried on it.
        planes: of the masks of a multilabel task, one for each class; None of one mask of class ids.

    Raises:
        RecipeError: a class name that albumentations does not have; arguments that the class does not have or refuses;
            a transform that needs more than image and mask, changes the size or the dtype, or does not work on such
            bands, with what works instead. All are named.
    """
    span = None if example is None else (float(example.min()), float(example.max()))
    problems = []
    for position, augment in enumerate(augments):
        try:
            transform = transforms.build(augment.transform, augment.arguments, 0.0, span)
            if example is not None:
                for leaf in transforms.leaves(transform):
                    attempts.attempt(leaf, example, planes)
        except RecipeError as error:
            problems.append(f"data.augment[{position}]: {error.message}" + (f"; {error.hint}" if error.hint else ""))
    if problems:
        raise RecipeError("\n".join(problems), "see the documentation of albumentations 2.0 for names and arguments")


def planes_of(data: Data) -> int | None:
    """Number of planes of masks for `check`; None for one mask of class ids."""
    return len(data.classes) if data.task == "multilabel" else None


def example(
    low: Sequence[float] | NDArray[Any], high: Sequence[float] | NDArray[Any], size: int, dtype: Any
) -> NDArray[Any]:
    """Noise [C, size, size] in the range of each band, for `check`."""
    least, most = (np.reshape(bound, (-1, 1, 1)) for bound in (low, high))
    values: NDArray[Any] = np.random.default_rng(0).uniform(least, most, (len(low), size, size)).astype(dtype)
    return values


class _Chip:
    """A chip on its way: bands in planes [C, H, W] until a transform wants them in pixels [H, W, C].

    `marks` are the mask [H, W] or [K, H, W]; uint16 with `OUTSIDE` and `_INVALID` in it where there can be any.
    `turn` is how planes and marks are still to be turned: once for all flips and quarter turns, and as late as can be.
    """

    def __init__(self, planes: NDArray[Any], marks: NDArray[Any]) -> None:
        self.planes: NDArray[Any] | None = planes
        self.pixels: NDArray[Any] = planes
        self.marks = marks
        self.turn = "e"

    def crop(self, size: int) -> None:
        """Keep the centre of size × size pixels."""
        height, width = self.marks.shape[-2:]
        if (height, width) == (size, size):
            return
        self._turn()
        rows, cols = (slice((length - size) // 2, (length - size) // 2 + size) for length in (height, width))
        self.marks = self.marks[..., rows, cols]
        if self.planes is not None:
            self.planes = self.planes[:, rows, cols]
        else:
            self.pixels = self.pixels[rows, cols]

    def apply(self, transform: Any) -> None:
        """Do what a transform does, if it happens to."""
        composed = transforms.composed(transform)
        if not composed and not transform.should_apply():
            return
        element = ELEMENTS.get(type(transform).__name__)
        if self.planes is not None and element is not None:
            self.turn = fast_transforms.composed(self.turn, element(transform))
            return
        self._turn()
        if self.planes is not None and isinstance(transform, transforms.ANY_LAYOUT):
            self.planes = transforms.on_planes(transform, self.planes)
        else:
            self._apply_to_pixels(transform, force=not composed)

    def _apply_to_pixels(self, transform: Any, *, force: bool) -> None:
        if self.planes is not None:
            # Many times faster than a transposed copy.
            self.pixels, self.planes = np.atleast_3d(cv2.merge(list(self.planes))), None
        leaves = list(transforms.leaves(transform))
        if not all(map(transforms.photometric, leaves)):
            self.marks = self.marks.astype(np.uint16)
        reach = sum(map(transforms.reach, leaves))
        if reach:
            self.marks = _widened(self.marks, reach, frame=any(map(transforms.shows_outside, leaves)))
        self.pixels, self.marks = transforms.apply(transform, self.pixels, self.marks, force=force)

    def _turn(self) -> None:
        if self.planes is not None:
            self.planes, self.marks = (fast_transforms.turned(array, self.turn) for array in (self.planes, self.marks))
        self.turn = "e"

    def finished(
        self, fill: NDArray[Any], out: tuple[NDArray[Any], NDArray[np.uint8]] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image and mask, with the fill where pixels are invalid or come from outside."""
        image, mask = (None, None) if out is None else out
        ours = out is not None or self.planes is None
        marks = self.marks
        if self.planes is not None:
            image = np.ascontiguousarray(fast_transforms.turned(self.planes, self.turn, image))
            marks = fast_transforms.turned(marks, self.turn, mask if marks.dtype == np.uint8 else None)
        else:
            height, width, bands = self.pixels.shape
            image = np.empty((bands, height, width), self.pixels.dtype) if image is None else image
            cv2.split(self.pixels, list(image))
        if marks.dtype != np.uint8:
            outside = (marks if marks.ndim == 2 else marks[0]) >= OUTSIDE
            if outside.any():
                image = image if ours else image.copy()
                for band, value in zip(image, fill, strict=True):
                    band[outside] = value
            marks = marks.astype(np.uint8)  # modulo 256
        if mask is None:
            return image, np.ascontiguousarray(marks)
        if marks is not mask:
            mask[...] = marks
        return image, mask


def _again(
    augments: Sequence[Augment], seed: int, fill: Sequence[float], size: int | None, span: fast_transforms.Span | None
) -> Augmentation:
    return Augmentation(augments, seed, fill, size=size, span=span)


def _marked(image: NDArray[Any], mask: NDArray[np.uint8], fill: NDArray[Any]) -> NDArray[Any]:
    """The mask, as uint16 with `_INVALID` at the pixels that the reader filled because they have no value, if any.

    A missing label is no reason: the annotation may be of a few points, whose neighbours are good pixels.
    """
    found: NDArray[np.bool_] = (mask if mask.ndim == 2 else mask[0]) == IGNORE
    if found.any():
        for band, value in zip(image, fill, strict=True):
            found &= band == value
    return np.where(found, np.uint16(_INVALID), mask) if found.any() else mask


def _widened(marks: NDArray[Any], reach: int, *, frame: bool) -> NDArray[Any]:
    """Marks where invalid pixels have spread to all that are at most `reach` away; `frame`: from the edge, too."""
    first = marks if marks.ndim == 2 else marks[0]
    near = (first >= OUTSIDE + IGNORE).astype(np.uint8)
    if near.any():
        near = cv2.dilate(near, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    if frame:
        for edge in (near[:reach], near[-reach:], near[:, :reach], near[:, -reach:]):
            edge[...] = 1
    return np.where(near, np.uint16(_INVALID), marks) if near.any() else marks
