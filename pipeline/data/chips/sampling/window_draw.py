"""Draw windows: map 64-bit random words to positions in scenes. The order supplies the words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline import store
from pipeline.data.chips.sampling.class_index import Ints, Presence, Runs
from pipeline.data.chips.sampling.grid_windows import WindowGrid
from pipeline.data.rasters.windows import Window, nearest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import ManifestError, RecipeError
from pipeline.recipe.sampling import Balanced, Foreground, Locality, Sampling, Uniform

logger = logging.getLogger(__name__)

_REPORT: Final = "report.json"


class Shape(NamedTuple):
    """Pixels of a scene, its slices, and the pixel of the file at which it begins."""

    height: int
    width: int
    slices: int = 1
    row: int = 0
    col: int = 0


class Words(NamedTuple):
    """Independent uniform 64-bit integers, one for each thing that is drawn for a chip."""

    down: int
    right: int
    slice: int = 0
    scale: int = 0
    pick: int = 0


@dataclass(frozen=True, slots=True)
class Worst:
    """A window on which a model was bad; `scene` is its position in the split."""

    scene: int
    window: Window


@dataclass(frozen=True)
class Target:
    """Cells of which a drawn window contains one; of all scenes with equal weight where `by_scene`."""

    presence: Presence
    cells: Runs
    by_scene: bool

    @cached_property
    def _ranks(self) -> Ints:
        """Number of the cells before each scene, and in total, [S + 1]."""
        return self.cells.ranks(self.presence.offsets)

    @cached_property
    def _holders(self) -> Ints:
        return np.flatnonzero(np.diff(self._ranks))

    def cell(self, words: Words) -> tuple[int, Window]:
        """A random one: the position of its scene, and where it lies there."""
        first, end = 0, self.cells.total
        if self.by_scene:
            scene = int(self._holders[below(len(self._holders), words.slice)])
            first, end = self._ranks[scene : scene + 2].tolist()
        return self.presence.rectangle(self.cells.cell(first + below(end - first, words.pick)))


def table(shapes: Sequence[Sequence[int]]) -> Ints:
    """Shapes as an array [S, 5]; what is not given is as in `Shape`."""
    given = np.asarray(shapes, np.int64).reshape(len(shapes), -1)
    rest = np.broadcast_to(np.array(Shape(0, 0)[given.shape[1] :], np.int64), (len(shapes), 5 - given.shape[1]))
    return np.concatenate([given, rest], axis=1)


def num_chips(shapes: Ints, sampling: Sampling, presence: Presence | None, grid: WindowGrid | None) -> Ints:
    """Number of windows of each scene in an epoch that covers the split once, [S].

    Raises:
        ManifestError: none.
    """
    pixels = shapes[:, :3].prod(axis=1) if presence is None or not sampling.min_valid else presence.valid_pixels
    chips: Ints = -(-pixels // sampling.size**2) if grid is None else grid.counts
    if not chips.any():
        raise ManifestError(
            f"no window of the train split has data.sampling.min_valid {sampling.min_valid:g} of its pixels valid and"
            " annotated",
            "lower it, and check nodata and labels",
        )
    return chips


def epoch_size(sampling: Sampling, covering: int) -> int:
    """Chips in an epoch; `covering` are as many as cover the split once. Of blocks, an epoch has whole ones."""
    chosen = sampling.epoch_size or covering
    if isinstance(sampling, Uniform) and sampling.locality is not None:
        return -(-chosen // sampling.locality.chips) * sampling.locality.chips
    return chosen


def targets(sampling: Sampling, presence: Presence | None, names: Sequence[str]) -> list[Target]:
    """Targets of `balanced` and `foreground`, in turn; classes that no mask holds are left out and logged.

    Raises:
        RecipeError: a class does not exist.
        ManifestError: no mask holds any of them.
    """
    if presence is None or not isinstance(sampling, Balanced | Foreground):
        return []
    found = {"foreground": presence.foreground}
    if isinstance(sampling, Balanced):
        wanted = names if sampling.classes is None else sampling.classes
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise RecipeError(
                f"data.sampling.classes: there is no class {', '.join(unknown)}", f"classes are {', '.join(names)}"
            )
        found = {name: presence.classes[list(names).index(name)] for name in wanted}
    absent = [name for name, cells in found.items() if not cells.total]
    if len(absent) == len(found):
        raise ManifestError(
            f"data.sampling: no mask of the train split holds {' or '.join(absent)}", "sample with kind uniform"
        )
    if absent:
        logger.warning("no mask of the train split holds %s: windows are not drawn for it", ", ".join(absent))
    by_scene = sampling.weight == "scene"
    return [Target(presence, cells, by_scene) for cells in found.values() if cells.total]


def below(count: int, word: int) -> int:
    """A uniform number in [0, count)."""
    return word * count >> 64


def side(sampling: Sampling, word: int) -> int:
    """Height and width of a window in pixels."""
    if sampling.scale is None:
        return sampling.size
    low, high = sampling.scale
    # Sums and products of floats are the same on every machine; a logarithm would not be.
    return round(sampling.size * (low + (high - low) * (word / 2**64)))


def uniform(shape: Shape, size: int, words: Words) -> Window:
    """A uniform position; a scene smaller than the window is padded below and to the right."""
    row = words.down * max(1, shape.height - size + 1) >> 64
    col = words.right * max(1, shape.width - size + 1) >> 64
    return Window(row, col, size, size, below(shape.slices, words.slice) if shape.slices > 1 else 0)


def around(shape: Shape, part: Window, size: int, words: Words) -> Window:
    """A uniform position among those that contain a part of the scene; `size` is at least the part's."""
    row = _around(part.row, part.height, shape.height, size, words.down)
    col = _around(part.col, part.width, shape.width, size, words.right)
    return Window(row, col, size, size, part.slice)


def _around(begin: int, length: int, total: int, size: int, word: int) -> int:
    first = max(0, begin + length - size)
    last = min(begin, max(0, total - size))
    return first + below(last - first + 1, word)


def moved(shape: Shape, window: Window, size: int, jitter: int, words: Words) -> Window:
    """A window of another size about the same centre, moved by up to `jitter` pixels, but not out of the scene."""
    row, col = (
        nearest(begin + (old - size) // 2 + below(2 * jitter + 1, word) - jitter, size, length)
        for begin, old, word, length in (
            (window.row, window.height, words.down, shape.height),
            (window.col, window.width, words.right, shape.width),
        )
    )
    return Window(row, col, size, size, window.slice)


class TileBlock(NamedTuple):
    """A run of storage tiles, as a window clipped to the scene, and the [first, last] rows and columns at which the
    largest windows inside it begin."""

    window: Window
    rows: tuple[int, int]
    cols: tuple[int, int]


def block(shape: Shape, near: Locality, size: int, words: Words, phases: tuple[int, int]) -> TileBlock:
    """A block of near.tiles × near.tiles storage tiles.

    All positions of a window of `size` are divided into intervals that each lie within one run of tiles, from a phase
    that differs from group to group. The interval is that of a uniform position: so windows drawn uniformly inside are
    uniform over the scene, its edges included.
    """
    rows, row_from, row_to = _interval(shape.height, shape.row, near, size, words.down, phases[0])
    cols, col_from, col_to = _interval(shape.width, shape.col, near, size, words.right, phases[1])
    level = below(shape.slices, words.slice)
    return TileBlock(Window(row_from, col_from, row_to - row_from, col_to - col_from, level), rows, cols)


def _interval(
    length: int, origin: int, near: Locality, size: int, word: int, phase: int
) -> tuple[tuple[int, int], int, int]:
    reach = max(0, length - size)
    steps = (near.tiles * near.tile - size + 1) // near.tile
    step, offset = steps * near.tile, origin % near.tile
    base = below(steps, phase) * near.tile - offset
    at = below(reach + 1, word)
    begin = base + (at - base) // step * step
    first, last = max(0, begin), min(reach, begin + step - 1)
    tile_from = (first + offset) // near.tile * near.tile - offset
    tile_to = -(-(last + size + offset) // near.tile) * near.tile - offset
    return (first, last), max(0, tile_from), min(length, tile_to)


def inside(shape: Shape, where: TileBlock, size: int, largest: int, words: Words) -> Window:
    """A uniform window in a block; one smaller than the `largest` lies anywhere in a largest one."""
    row = _inside(where.rows, words.down, shape.height, size, largest)
    col = _inside(where.cols, words.right, shape.width, size, largest)
    return Window(row, col, size, size, where.window.slice)


def _inside(begins: tuple[int, int], word: int, length: int, size: int, largest: int) -> int:
    first, last = begins
    spare = min(largest, length) - min(size, length) + 1
    # The high half of the word was used: the low one says where in the largest window the smaller one lies.
    return first + (word * (last - first + 1) >> 64) + ((word << 32 & 0xFFFFFFFFFFFFFFFF) * spare >> 64)


def worst_windows(report_uri: str, scenes: Sequence[Scene]) -> tuple[Worst, ...]:
    """The worst windows of a report that lie in these scenes, in the report's order.

    Raises:
        ManifestError: there is no report, it is damaged, or it is of other scenes.
    """
    uri = store.join(report_uri, _REPORT)
    positions = {scene.id: position for position, scene in enumerate(scenes)}
    try:
        worst = store.read_record(uri, _worst, "evaluate again")
    except FileNotFoundError:
        raise ManifestError(
            f"data.sampling.report: there is no report at {uri}", "write one with `segpipe evaluate --split train`"
        ) from None
    found = tuple(Worst(positions[scene], window) for scene, window in worst if scene in positions)
    if not found:
        raise ManifestError(
            f"{uri} has {len(worst)} worst windows, of which none lies in a scene of the train split",
            "write the report with `segpipe evaluate --split train`, and evaluate.examples above 0",
        )
    return found


def _worst(report: Mapping[str, Any]) -> list[tuple[str, Window]]:
    return [(str(e["scene"]), Window(*map(int, e["window"]))) for e in report["examples"] if e["kind"] == "worst"]
