"""Read the windows of many chips from shards or files, neighbouring ones at once; errors are returned per window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from pipeline.data.chips import raw_chip
from pipeline.data.chips.raw_chip import RawChip
from pipeline.data.chips.statistics import per_scene
from pipeline.data.chips.statistics.per_scene import SceneValues
from pipeline.data.feed import coalesce
from pipeline.data.feed.shards.shard_reader import Shards
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters import raster_io, resampling
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import staleness
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DataError
from pipeline.recipe import Data
from pipeline.recipe.data import Reading

_TILE: Final = (512, 512)


@dataclass(frozen=True)
class WindowRequest:
    """A window of the scene at a position in the split; `key` is the caller's."""

    key: int
    scene: int
    window: Window


@dataclass(frozen=True)
class ChipReader:
    """Reads windows from shards or files. Files that changed since they were indexed are refused.

    `side` is the height and width in pixels of what windows become; `shards` is where prepared shards are, "" without.
    """

    scenes: tuple[Scene, ...]
    classes: Classes
    data: Data
    digest: str
    side: int
    shards: str = ""

    @cached_property
    def _shards(self) -> Shards | None:
        return Shards.open(self.shards, self.digest) if self.shards else None

    @cached_property
    def _values(self) -> dict[int, SceneValues]:
        return {}

    def one(self, scene: int, window: Window) -> RawChip:
        """Read one window, resampled to `side`.

        Raises:
            DataError: it cannot be read.
        """
        return self._read(scene, window, (self.side, self.side))

    def many(self, wanted: Sequence[WindowRequest]) -> Iterator[tuple[int, RawChip | DataError]]:
        """Read many windows: by key the raw chip, or the error; in any order, equal to `one`."""
        of_scene: dict[int, list[WindowRequest]] = {}
        for each in wanted:
            of_scene.setdefault(each.scene, []).append(each)
        for group in of_scene.values():
            for members in self._coalesced(group):
                yield from self._read_coalesced(members)

    def values(self, scene: int) -> SceneValues:
        """Mean and standard deviation of a scene for `per_scene`, measured once per process."""
        if scene not in self._values:

            def read(window: Window) -> Pixels:
                cut = self._read(scene, window, None)
                return Pixels(cut.image, cut.valid)

            of = self.scenes[scene]
            self._values[scene] = per_scene.measure(read, of.height, of.width, of.slices)
        return self._values[scene]

    def _coalesced(self, group: list[WindowRequest]) -> list[list[WindowRequest]]:
        """Windows of a scene to be read as one."""
        scene = self.scenes[group[0].scene]
        # Where pixels are resampled, those at the rim of a window could be made of others than inside a larger one.
        resampled = "\n" in scene.image or any(each.window[2:4] != (self.side, self.side) for each in group)
        if len(group) == 1 or resampled or self._shards is not None:
            return [[each] for each in group]
        row, col = scene.origin
        windows = [w._replace(row=w.row + row, col=w.col + col) for w in (each.window for each in group)]
        try:
            tile = _tile(scene.image, self.data.reading)
        except DataError:
            return [[each] for each in group]  # each says what is wrong
        found = coalesce.clusters(windows, tile, (scene.height + row, scene.width + col))
        return [[group[position] for position in members] for members in found]

    def _read_coalesced(self, group: Sequence[WindowRequest]) -> Iterator[tuple[int, RawChip | DataError]]:
        if len(group) > 1:
            whole = coalesce.union([each.window for each in group])
            try:
                found = self._read(group[0].scene, whole, None)
            except DataError:
                pass  # perhaps only some of them touch what is damaged
            else:
                for each in group:
                    row, col, height, width, _ = each.window
                    part = found.crop(row - whole.row, col - whole.col, height, width)
                    # Windows overlap, and what is invalid in them is filled in place.
                    yield each.key, part if part.valid.all() else part.copy()
                return
        for each in group:
            try:
                yield each.key, self.one(each.scene, each.window)
            except DataError as error:
                yield each.key, error

    def _read(self, position: int, window: Window, shape: tuple[int, int] | None) -> RawChip:
        scene = self.scenes[position]
        found = None if self._shards is None else self._prepared(self._shards, scene, window, shape)
        if found is not None:
            return found
        staleness.check(scene, self.classes, self.data)
        return raw_chip.read(scene, window, self.classes, data=self.data, shape=shape)

    def _prepared(self, shards: Shards, scene: Scene, window: Window, shape: tuple[int, int] | None) -> RawChip | None:
        """Raw chip of a window from the shards, None if they do not hold it: they hold the finest level only."""
        if shape in (None, (window.height, window.width)):
            return shards.read(scene.id, window)
        if not resampling.of_finest(raw_chip.levels(scene.image, self.data.reading), window, shape):
            return None
        found = shards.read(scene.id, window)
        return None if found is None else raw_chip.resampled(found, scene, window, shape)


@lru_cache(4096)
def _tile(image: str, reading: Reading) -> tuple[int, int]:
    """Height and width of a file's storage tiles."""
    tall, wide = raster_io.describe(image, reading=reading).tile
    return (tall, wide) if tall and wide else _TILE
