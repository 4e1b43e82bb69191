"""Read the scenes of an evaluation; where the recipe tolerates it, unreadable windows are invalid, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.quarantine import NONE, FailureTally, Replaced
from pipeline.data.chips.raw_chip import RawChip, pixels
from pipeline.data.chips.statistics import per_scene
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.feed.shards.shard_reader import Shards
from pipeline.data.labels import masks
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DataError
from pipeline.recipe import Data


@dataclass(frozen=True)
class EvalReader:
    """Images and labels of a manifest's scenes; `tally` says how many windows may fail, and counts them.

    `shards` is where prepared shards of the scenes are, "" without.
    """

    manifest: Manifest
    data: Data
    normalisation: Normalisation
    tally: FailureTally
    shards: str = ""

    def image(self, scene: Scene) -> Read:
        """A reader of windows of a scene, as the network wants them.

        Raises:
            SceneError: by the reader: a window cannot be read, and no more are tolerated.
        """
        read: Read = partial(self._pixels, scene)
        if self.normalisation.by_scene:
            read = per_scene.reader(read, scene.height, scene.width, scene.slices)

        def tried(window: Window) -> Pixels:
            try:
                return read(window)
            except DataError as error:
                self._count(scene, window, error)
                return self._nothing(window)

        return tried

    def truth(self, scene: Scene, window: Window, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label at a window, of the shape of its prediction.

        Raises:
            DataError: it cannot be read, and no more windows are tolerated.
        """
        try:
            cut = self._prepared(scene, window)
            return cut.mask if cut is not None else masks.mask(scene, window, self.manifest.classes, self.data)
        except DataError as error:
            self._count(scene, window, error)
            return np.full_like(prediction, IGNORE)

    def picture(self, scene: Scene, window: Window) -> Pixels:
        """Raw pixels [C, h, w] and validity [h, w] of a window that was judged, perhaps not all of it.

        Raises:
            SceneError: it cannot be read, and that is not tolerated.
        """
        try:
            return self._pixels(scene, window)
        except DataError:
            if not self.tally.most:
                raise
            return self._nothing(window)  # what is wrong there has been counted

    def _pixels(self, scene: Scene, window: Window) -> Pixels:
        cut = self._prepared(scene, window)
        if cut is not None:
            return Pixels(cut.image, cut.valid)
        return pixels(scene, window, data=self.data)

    def _prepared(self, scene: Scene, window: Window) -> RawChip | None:
        """Mask of a window, IGNORE where the image is not valid; None if the shards do not hold it."""
        return None if self._opened is None else self._opened.read(scene.id, window)

    @cached_property
    def _opened(self) -> Shards | None:
        return Shards.open(self.shards, self.manifest.digest) if self.shards else None

    def _count(self, scene: Scene, window: Window, error: DataError) -> None:
        if not self.tally.most:
            raise error
        self.tally.add([Replaced(NONE, scene.id, window, error.message)])

    def _nothing(self, window: Window) -> Pixels:
        shape = window.height, window.width
        return Pixels(np.zeros((len(self.manifest.bands), *shape), self.manifest.dtype), np.zeros(shape, np.bool_))
