"""Chips: image and mask at a window, cut from a scene and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import augmentation, rasters
from pipeline.data.augmentation import Augmentation
from pipeline.data.classes import IGNORE, Classes
from pipeline.data.moments import Statistics, representable
from pipeline.data.order import Order
from pipeline.data.scenes import Scene
from pipeline.data.windows import Window
from pipeline.recipe import Data

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest  # its Parquet library is not needed where chips are cut


def cut(
    scene: Scene, window: Window, classes: Classes, *, nodata: float | None, fill: Sequence[float]
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read image and mask at a window.

    Args:
        scene: where from; without a label the mask is all IGNORE.
        window: may reach outside the scene.
        classes: what the label's values mean.
        nodata: pixels of this value are invalid, in addition to what the file says.
        fill: value per band to put under invalid pixels, so that what lies there cannot change anything.

    Returns:
        Image [C, h, w] in the file's dtype and mask [h, w]; IGNORE where invalid, not labelled, or padding.

    Raises:
        SceneError: a file cannot be read.
        LabelError: the label holds a value without a class.
    """
    image, valid = rasters.read(scene.image, window, nodata=nodata)
    if scene.label is None:
        mask = np.full(valid.shape, IGNORE, np.uint8)
    else:
        label, labelled = rasters.read_label(scene.label, window)
        mask = classes.encode(label, scene.id, labelled)
    if not valid.all():
        invalid = ~valid
        mask[invalid] = IGNORE
        for band, value in zip(image, representable(fill, image.dtype), strict=True):
            band[invalid] = value
    return image, mask


@dataclass(frozen=True)
class Plan:
    """Everything needed to make chip `number` anywhere: picklable, of a size in O(scenes).

    `fill` is the value per band under invalid pixels, `dtype` the images', `digest` the manifest's.
    """

    scenes: tuple[Scene, ...]
    classes: Classes
    data: Data
    fill: tuple[float, ...]
    dtype: str
    num_bands: int
    digest: str
    seed: int

    @classmethod
    def of(cls, manifest: Manifest, statistics: Statistics, data: Data, seed: int, split: str = "train") -> Plan:
        """The plan for a split of a manifest.

        Raises:
            ManifestError: the split is empty.
            RecipeError: an augmentation does not exist or cannot be applied to such chips; all are named.
        """
        shape = (len(manifest.bands), data.sampling.size, data.sampling.size)
        augmentation.check(data.augment, example=_example(statistics, shape, manifest.dtype))
        return cls(
            scenes=manifest.split(split),
            classes=manifest.classes,
            data=data,
            fill=statistics.fill,
            dtype=manifest.dtype,
            num_bands=len(manifest.bands),
            digest=manifest.digest,
            seed=seed,
        )

    @cached_property
    def order(self) -> Order:
        """Which chip comes when."""
        return Order([(s.height, s.width) for s in self.scenes], self.data.sampling, self.digest, self.seed)

    @cached_property
    def _augmentation(self) -> Augmentation:
        return Augmentation(self.data.augment, self.seed, self.fill)

    @property
    def chip_bytes(self) -> int:
        """Bytes of one chip's image and mask."""
        return self.data.sampling.size**2 * (self.num_bands * np.dtype(self.dtype).itemsize + 1)

    def chip(self, number: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image [C, H, W] in the files' dtype and mask [H, W] of chip `number`, augmented.

        Raises:
            DataError: a scene or label cannot be read or does not hold what the manifest says.
            RecipeError: an augmentation failed.
        """
        ref = self.order.chip(number)
        scene = self.scenes[ref.scene]
        image, mask = cut(scene, ref.window, self.classes, nodata=self.data.nodata, fill=self.fill)
        return self._augmentation(image, mask, ref.epoch, ref.index)

    def empty(self, length: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Room for `length` chips: images [N, C, H, W] and masks [N, H, W]."""
        size = self.data.sampling.size
        return (
            np.empty((length, self.num_bands, size, size), self.dtype),
            np.empty((length, size, size), np.uint8),
        )

    def stack(self, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Images [N, C, H, W] and masks [N, H, W] of several chips."""
        images, masks = self.empty(len(numbers))
        for position, number in enumerate(numbers):
            images[position], masks[position] = self.chip(number)
        return images, masks


def _example(statistics: Statistics, shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    """Noise in the range of each band."""
    low, high = (np.reshape(v, (-1, 1, 1)) for v in (statistics.min, statistics.max))
    values: NDArray[Any] = np.random.default_rng(0).uniform(low, high, shape).astype(dtype)
    return values
