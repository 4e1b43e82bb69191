"""Estimate whether preparing shards pays off, from CPU time measured on windows of these data."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline import store, uris
from pipeline.data.chips import raw_chip
from pipeline.data.chips.raw_chip import RawChip
from pipeline.data.chips.sampling.order import Order
from pipeline.data.feed.shards import layout
from pipeline.data.feed.shards.layout import CHUNK
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Recipe
from pipeline.recipe.sampling import Uniform

_BLOCK: Final = 12 * CHUNK
_BLOCKS: Final = 2


@dataclass(frozen=True)
class Advice:
    """Cost and benefit of shards. Milliseconds and seconds are of CPU time."""

    files_ms: float
    """To read a chip from the files."""
    shards_ms: float
    """To read it from shards."""
    prepare_s: float
    """To make the shards."""
    stored_bytes: int
    """Their size."""
    free_bytes: int | None
    """Free bytes where they would be; None in a bucket."""
    epoch_chips: int
    planned_epochs: float
    """Of the recipe's training."""

    @property
    def saved_s(self) -> float:
        """In each epoch; below zero if shards are slower."""
        return (self.files_ms - self.shards_ms) * self.epoch_chips / 1e3

    @property
    def epochs_until(self) -> float:
        """Epochs after which preparing has paid; infinite if it never does."""
        return self.prepare_s / self.saved_s if self.saved_s > 0 else float("inf")

    @property
    def fits(self) -> bool:
        """Whether there is enough free space."""
        return self.free_bytes is None or self.stored_bytes < self.free_bytes

    @property
    def pays(self) -> bool:
        """Whether this recipe's training alone takes less CPU time with shards, their making included."""
        return self.fits and self.planned_epochs > self.epochs_until

    def text(self) -> str:
        """Text for people."""
        lines = [
            f"a chip costs {self.files_ms:.1f} ms of CPU from the files and {self.shards_ms:.1f} ms from shards",
            f"making the shards costs {self.prepare_s:,.1f} s of CPU and {self.stored_bytes / 1e6:,.0f} MB of disk",
        ]
        if not self.fits:
            lines.append(f"it does not fit: {(self.free_bytes or 0) / 1e6:,.0f} MB are free")
        elif self.saved_s <= 0:
            lines.append("it does not pay: the files are read as fast")
        else:
            verdict = "it pays" if self.pays else "it does not pay for this recipe alone"
            lines.append(
                f"{verdict}: it takes {self.epochs_until:.1f} epochs to earn that back, and the recipe trains for "
                f"{self.planned_epochs:.1f}"
            )
        return "; ".join(lines)


def advise(recipe: Recipe, manifest: Manifest, uri: str, *, chips: int = 24) -> Advice:
    """Read some chips and some blocks, compress and decompress them.

    Args:
        recipe: its sampling, its training's length, its ways of reading.
        manifest: of the data.
        uri: where the shards would be.
        chips: how many to read.

    Raises:
        DataError: the train split is empty, or a scene cannot be read.
    """
    scenes, data = manifest.split("train"), recipe.data
    sampling = Uniform(size=data.sampling.size, weight=data.sampling.weight, epoch_size=data.sampling.epoch_size)
    order = Order([(s.height, s.width, s.slices, *s.origin) for s in scenes], sampling, manifest.digest, recipe.seed)
    refs = [order.chip(number) for number in range(chips)]

    def read(scene: Scene, window: Window) -> RawChip:
        return raw_chip.read(scene, window, manifest.classes, data=data)

    for ref in refs[:2]:
        read(scenes[ref.scene], ref.window)  # what is imported and opened once
    files_s = _cpu(lambda: [read(scenes[ref.scene], ref.window) for ref in refs]) / chips
    largest = sorted(scenes, key=lambda s: -s.height * s.width)[:_BLOCKS]
    blocks = [(s, Window(0, 0, min(s.height, _BLOCK), min(s.width, _BLOCK))) for s in largest]
    cuts: list[RawChip] = []
    read_s = _cpu(lambda: cuts.extend(read(*block) for block in blocks))
    chunks: list[list[Any]] = []
    encode_s = _cpu(lambda: chunks.extend(list(layout.encode(cut)) for cut in cuts))
    pixels = sum(window.height * window.width for _, window in blocks)
    stored = sum(len(content) for made in chunks for _, content, _ in made)
    total = sum(s.height * s.width * s.slices for s in scenes)
    return Advice(
        files_ms=files_s * 1e3,
        shards_ms=_decoding(chunks, cuts) / pixels * (data.sampling.size + CHUNK) ** 2 * 1e3,
        prepare_s=(read_s + encode_s) / pixels * total,
        stored_bytes=int(stored / pixels * total),
        free_bytes=_free(uri),
        epoch_chips=order.epoch_size,
        planned_epochs=recipe.train.steps * recipe.train.global_batch / order.epoch_size,
    )


def _decoding(chunks: Sequence[Sequence[Any]], cuts: Sequence[RawChip]) -> float:
    """CPU seconds to decode all chunks."""
    buffer = np.empty(max(sum(a.nbytes for a in (c.image, c.mask, c.valid)) for c in cuts) + 64, np.uint8)
    frames = [np.frombuffer(content, np.uint8) for made in chunks for _, content, _ in made if content]
    decode = layout.decompress()
    return _cpu(lambda: [decode(frame, buffer) for frame in frames])


def _cpu(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _free(uri: str) -> int | None:
    if not store.is_local(uri):
        return None
    folder = uris.local_path(uri).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
