"""Scores of a network on the val split while it trains: windows side by side, counts added over ranks."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline import metrics
from pipeline.data import cutting
from pipeline.data.classes import Classes
from pipeline.data.quarantine import NONE, Replaced, Tally
from pipeline.data.scenes import Scene
from pipeline.data.statistics import scene_values
from pipeline.data.statistics.normalise import Normalisation
from pipeline.data.statistics.scene_values import SceneValues
from pipeline.data.windows import Window
from pipeline.errors import DataError
from pipeline.recipe import Data
from pipeline.world import World

Chip = tuple[NDArray[Any], NDArray[np.uint8]]


@dataclass(frozen=True)
class Validation:
    """Everything needed to score a network; call it with one in eval mode."""

    scenes: Sequence[Scene]
    classes: Classes
    data: Data
    normalisation: Normalisation
    world: World
    device: torch.device
    batch: int
    """Windows per forward pass."""
    threads: int
    tally: Tally = field(default_factory=Tally)
    """Windows that cannot be read are noted here, if any are tolerated, and are not scored."""

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Scores over all windows of all scenes; each rank reads and predicts its share, and all return the same.

        Raises:
            DataError: a scene cannot be read, and none is tolerated.
        """
        tally = metrics.Tally(len(self.classes), task=self.data.task)
        for images, masks in _groups(self._chips(), self.batch):
            logits = network(torch.from_numpy(np.stack(images)).to(self.device))
            tally.update(logits, torch.from_numpy(np.stack(masks)).to(self.device))
        return metrics.scores(tally.over_ranks().confusion, self.classes.names)

    def _chips(self) -> Iterator[Chip]:
        """This rank's chips, read ahead by threads."""
        share = itertools.islice(windows(self.scenes, self.data.sampling.size), self.world.rank, None, self.world.size)
        with ThreadPoolExecutor(self.threads) as pool:
            pending: deque[Future[Chip | Replaced]] = deque()
            for scene, window in share:
                pending.append(pool.submit(self._tried, scene, window))
                if len(pending) >= 2 * self.batch:
                    yield from self._whole(pending.popleft().result())
            while pending:
                yield from self._whole(pending.popleft().result())

    def _whole(self, found: Chip | Replaced) -> Iterator[Chip]:
        if isinstance(found, Replaced):
            self.tally.note([found])
        else:
            yield found

    def _tried(self, scene: Scene, window: Window) -> Chip | Replaced:
        try:
            return self._cut(scene, window)
        except DataError as error:
            if not self.tally.most:
                raise
            return Replaced(NONE, scene.id, window, error.message)

    def _cut(self, scene: Scene, window: Window) -> Chip:
        cut = cutting.read(scene, window, self.classes, nodata=self.data.nodata, data=self.data)
        if not self.normalisation.by_scene:
            return cut.finished(self.normalisation.fill)
        if scene.id not in self._values:
            read = cutting.reader_of(scene, self.data)
            self._values[scene.id] = scene_values.measure(read, scene.height, scene.width, scene.slices)
        values = self._values[scene.id]
        image, mask = cut.finished(values.fill)
        return values.apply(image), mask

    @cached_property
    def _values(self) -> dict[str, SceneValues]:
        """By scene; measured when it is first read."""
        return {}


def windows(scenes: Sequence[Scene], size: int) -> Iterator[tuple[Scene, Window]]:
    """Windows of `size` side by side over every scene: each pixel once, the last ones reach outside."""
    for scene in scenes:
        for number in range(scene.slices):
            for row in range(0, scene.height, size):
                for col in range(0, scene.width, size):
                    yield scene, Window(row, col, size, size, number)


def _groups(chips_: Iterator[Chip], size: int) -> Iterator[tuple[list[NDArray[Any]], list[NDArray[np.uint8]]]]:
    while group := list(itertools.islice(chips_, size)):
        yield [image for image, _ in group], [mask for _, mask in group]
