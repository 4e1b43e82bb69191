"""Validation during training: scores on the val split, from adjacent windows, counts added over ranks."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline import metrics
from pipeline.data.chips.quarantine import NONE, FailureTally, Replaced
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.feed.chip_reader import ChipReader
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DataError
from pipeline.world import World

Chip = tuple[NDArray[Any], NDArray[np.uint8]]


@dataclass(frozen=True)
class Validation:
    """Everything needed to score a network; call it with one in eval mode."""

    reads: ChipReader
    """Scenes of the split, and where their windows come from; `side` is that of a window."""
    normalisation: Normalisation
    world: World
    device: torch.device
    batch: int
    """Windows per forward pass."""
    threads: int
    tally: FailureTally = field(default_factory=FailureTally)
    """Windows that cannot be read are noted here, if any are tolerated, and are not scored."""

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Scores over all windows of all scenes; each rank reads and predicts its share, and all return the same.

        Raises:
            DataError: a scene cannot be read, and none is tolerated.
        """
        classes, task = self.reads.classes, self.reads.data.task
        tally = metrics.Tally(len(classes), task=task)
        for images, masks in _groups(self._chips(), self.batch):
            logits = network(torch.from_numpy(np.stack(images)).to(self.device))
            tally.update(logits, torch.from_numpy(np.stack(masks)).to(self.device))
        return metrics.scores(tally.over_ranks().confusion, classes.names)

    def _chips(self) -> Iterator[Chip]:
        """This rank's chips, read ahead by threads."""
        share = itertools.islice(windows(self.reads.scenes, self.reads.side), self.world.rank, None, self.world.size)
        with ThreadPoolExecutor(self.threads) as pool:
            pending: deque[Future[Chip | Replaced]] = deque()
            for position, window in share:
                pending.append(pool.submit(self._tried, position, window))
                if len(pending) >= 2 * self.batch:
                    yield from self._whole(pending.popleft().result())
            while pending:
                yield from self._whole(pending.popleft().result())

    def _whole(self, found: Chip | Replaced) -> Iterator[Chip]:
        if isinstance(found, Replaced):
            self.tally.note([found])
        else:
            yield found

    def _tried(self, position: int, window: Window) -> Chip | Replaced:
        try:
            return self._cut(position, window)
        except DataError as error:
            if not self.tally.most:
                raise
            return Replaced(NONE, self.reads.scenes[position].id, window, error.message)

    def _cut(self, position: int, window: Window) -> Chip:
        cut = self.reads.one(position, window)
        if not self.normalisation.by_scene:
            return cut.finished(self.normalisation.fill)
        values = self.reads.values(position)
        image, mask = cut.finished(values.fill)
        return values.apply(image), mask


def windows(scenes: Sequence[Scene], size: int) -> Iterator[tuple[int, Window]]:
    """Windows of `size` side by side over scenes, by position: each pixel once, the last ones reach outside."""
    for position, scene in enumerate(scenes):
        for number in range(scene.slices):
            for row in range(0, scene.height, size):
                for col in range(0, scene.width, size):
                    yield position, Window(row, col, size, size, number)


def _groups(chips_: Iterator[Chip], size: int) -> Iterator[tuple[list[NDArray[Any]], list[NDArray[np.uint8]]]]:
    while group := list(itertools.islice(chips_, size)):
        yield [image for image, _ in group], [mask for _, mask in group]
