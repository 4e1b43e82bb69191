"""The plan: everything needed to make chip number i, in a size of O(scenes)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips import quarantine
from pipeline.data.chips.augmentation import augment
from pipeline.data.chips.augmentation.augment import Augmentation
from pipeline.data.chips.quarantine import Replaced
from pipeline.data.chips.raw_chip import RawChip
from pipeline.data.chips.sampling.class_index import Presence
from pipeline.data.chips.sampling.order import ChipRef, Order, words
from pipeline.data.chips.sampling.window_draw import Worst, worst_windows
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.feed.chip_reader import ChipReader, WindowRequest
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DataError, SceneError
from pipeline.recipe import Data
from pipeline.recipe.sampling import Hard

if TYPE_CHECKING:
    from pipeline.data.scenes.manifest import Manifest  # its Parquet library is not needed where chips are cut

_ATTEMPTS: Final = 32
_TILE: Final = (512, 512)


@dataclass(frozen=True)
class Plan:
    """Everything needed to make chip `number` anywhere: picklable, of a size in O(scenes).

    `fill` is the value per band under invalid pixels, `dtype` the images', `digest` the manifest's; `shards` is where
    prepared shards of this very manifest are, "" without; `by_scene` says that each scene is normalised by its own
    values, here, so that images are float32; `span` is from the smallest to the largest value of the train split, which
    some transforms are relative to.
    """

    scenes: tuple[Scene, ...]
    classes: Classes
    data: Data
    fill: tuple[float, ...]
    dtype: str
    num_bands: int
    digest: str
    seed: int
    shards: str = ""
    presence: Presence | None = field(default=None, compare=False)
    worst: tuple[Worst, ...] = ()
    by_scene: bool = False
    span: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        statistics: Statistics,
        data: Data,
        seed: int,
        split: str = "train",
        *,
        shards: str = "",
        presence: Presence | None = None,
        normalisation: Normalisation | None = None,
    ) -> Plan:
        """The plan for a split of a manifest.

        Args:
            manifest: the scenes.
            statistics: of the train split.
            data: how chips are drawn, read and augmented.
            seed: the recipe's.
            split: whose scenes.
            shards: where prepared shards of the split are, "" without.
            presence: what the scenes' masks hold, where the sampling draws by that.
            normalisation: of the network, which says what lies under invalid pixels, and whether scenes are normalised
                by their own values; by default mean and standard deviation.

        Raises:
            ManifestError: the split is empty, or the sampling lacks what it draws by.
            RecipeError: an augmentation does not exist or cannot be applied to such chips; all are named.
        """
        noise = augment.example(statistics.min, statistics.max, data.sampling.size, manifest.dtype)
        augment.check(data.augment, example=noise, planes=augment.planes_of(data))
        scenes = manifest.split(split)
        hard = data.sampling if isinstance(data.sampling, Hard) else None
        return cls(
            scenes=scenes,
            classes=manifest.classes,
            data=data,
            fill=statistics.fill if normalisation is None else normalisation.fill,
            dtype=manifest.dtype,
            num_bands=len(manifest.bands),
            digest=manifest.digest,
            seed=seed,
            shards=shards,
            presence=presence,
            worst=worst_windows(hard.report, scenes) if hard is not None else (),
            by_scene=normalisation is not None and normalisation.by_scene,
            span=(min(statistics.min), max(statistics.max)),
        )

    @cached_property
    def order(self) -> Order:
        """The order of chips."""
        return Order(
            [(s.height, s.width, s.slices, *s.origin) for s in self.scenes],
            self.data.sampling,
            self.digest,
            self.seed,
            presence=self.presence,
            class_names=self.classes.names,
            worst=self.worst,
        )

    @cached_property
    def _augmentation(self) -> Augmentation:
        return Augmentation(self.data.augment, self.seed, self.fill, size=self.data.sampling.size, span=self.span)

    @cached_property
    def _margin(self) -> int:
        return augment.margin(self.data.augment, self.data.sampling.size)

    @cached_property
    def _reads(self) -> ChipReader:
        side = self.data.sampling.size + 2 * self._margin
        return ChipReader(self.scenes, self.classes, self.data, self.digest, side, self.shards)

    @property
    def chip_bytes(self) -> int:
        """Bytes of one chip's image and mask."""
        return sum(array.nbytes for array in self.empty(1))

    @property
    def tolerated(self) -> int:
        """Number of windows that may fail before training does."""
        return quarantine.limit(self.data)

    def chip(self, number: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image [C, H, W] in the files' dtype and mask [H, W] or [K, H, W] of chip `number`, augmented.

        Raises:
            DataError: a scene or label cannot be read or does not hold what the manifest says, and the recipe does
                not tolerate that.
            RecipeError: an augmentation failed.
        """
        images, masks = self.stack([number])
        return images[0], masks[0]

    def empty(self, length: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Empty arrays for `length` chips: images [N, C, H, W] and masks [N, H, W] or [N, K, H, W]."""
        size = self.data.sampling.size
        planes = (len(self.classes),) if self.data.task == "multilabel" else ()
        return (
            np.empty((length, self.num_bands, size, size), np.float32 if self.by_scene else self.dtype),
            np.empty((length, *planes, size, size), np.uint8),
        )

    def stack(self, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Images [N, C, H, W] and masks [N, H, W] of several chips; equal to each one's `chip`."""
        images, masks = self.empty(len(numbers))
        self.put(numbers, list(images), list(masks))
        return images, masks

    def put(
        self, numbers: Sequence[int], images: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any]]
    ) -> list[Replaced]:
        """Make several chips in arrays [C, H, W] and [H, W] of the caller's; what they share is read once.

        Returns:
            Which chips are made of other windows than the order says, because theirs could not be read.
        """
        refs = [self.order.chip(number) for number in numbers]
        wanted = [WindowRequest(place, ref.scene, self._window(ref)) for place, ref in enumerate(refs)]
        replaced = []
        with raster_io.session():
            for place, found in self._reads.many(wanted):
                ref, scene = refs[place], refs[place].scene
                if isinstance(found, DataError):
                    if not self.tolerated:
                        raise found
                    replaced.append(Replaced(ref.number, self.scenes[scene].id, ref.window, found.message))
                    scene, found = self._another(ref, found)
                self._make(found, ref, scene, (images[place], masks[place]))
        return replaced

    def _make(self, cut: RawChip, ref: ChipRef, scene: int, out: tuple[NDArray[Any], NDArray[np.uint8]]) -> None:
        """A chip of what was cut for it, or in its place, from a scene: it is augmented alike."""
        if not self.by_scene:
            self._augmentation(*cut.finished(self.fill), ref.epoch, ref.index, out=out)
            return
        values = self._reads.values(scene)
        image, mask = self._augmentation(*cut.finished(values.fill), ref.epoch, ref.index, fill=values.fill)
        out[0][:], out[1][:] = values.apply(image), mask

    def groups(self, numbers: Iterable[int]) -> list[list[int]]:
        """Group chip numbers by what should be read at once, in the order of their first ones."""
        if self.order.span == 1:
            return [[number] for number in numbers]
        return [[ref.number for ref in block.refs] for block in self.order.blocks(numbers)]

    def _window(self, ref: ChipRef) -> Window:
        """The window that is read for a chip, with the margin that geometric transforms need."""
        row, col, height, width, level = ref.window
        down, right = (self._margin * side // self.data.sampling.size for side in (height, width))
        return Window(row - down, col - right, height + 2 * down, width + 2 * right, level)

    def _another(self, ref: ChipRef, error: DataError) -> tuple[int, RawChip]:
        """Scene and window to use instead: those of another chip of the epoch, drawn by the number alone."""
        for attempt in range(_ATTEMPTS):
            (word,) = words("instead", self.digest, self.seed, ref.epoch, ref.index, attempt, count=1)
            other = self.order.chip(ref.epoch * self.order.epoch_size + word % self.order.epoch_size)
            try:
                return other.scene, self._reads.one(other.scene, self._window(other))
            except DataError:
                continue
        raise SceneError(
            f"{_ATTEMPTS} windows drawn in place of one that cannot be read cannot be read, either. "
            f"The first: {error.message}",
            error.hint,
        )
