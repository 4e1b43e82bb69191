"""Divide scenes by blocks of ground, each in one split; scenes are cut where blocks of two splits meet."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes.splits import hash_split, overlap
from pipeline.data.scenes.splits.overlap import Place
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import BlocksSplit
from pipeline.text import some

logger = logging.getLogger(__name__)

_ROUNDING_PIXELS: Final = 1e-6
_SKEW_PIXELS: Final = 0.01
_LONG: Final = 40


@dataclass(frozen=True)
class ScenePart:
    """A scene, or what of it belongs to one split.

    Attributes:
        id: unique; the scene's own, if it is whole.
        scene: id of what it is a part of.
        origin: row and column of its first pixel there.
        height, width: in pixels.
        split, group: where it belongs.
    """

    id: str
    scene: str
    origin: tuple[int, int]
    height: int
    width: int
    split: str
    group: str

    @classmethod
    def whole(cls, scene: str, grid: Grid, split: str, group: str) -> ScenePart:
        """All of it."""
        return cls(scene, scene, (0, 0), grid.height, grid.width, split, group)


class _Side(NamedTuple):
    """A row or column of blocks that a scene meets: pixels [begin, end) between its lines, which are fractions and may
    lie outside, and the numbers of the blocks before and after it in the direction of pixels."""

    block: int
    begin: float
    end: float
    before: int
    after: int

    def inside(self, length: int) -> float:
        """Pixels that the scene has of it."""
        return min(self.end, length) - max(self.begin, 0)


_Sides = tuple[list[_Side], list[_Side]]


def cut(grids: Mapping[str, Grid], section: BlocksSplit) -> list[ScenePart]:
    """Divide scenes by the blocks that they lie in.

    Blocks are squares of the CRS, counted from its origin; scenes without a CRS have blocks of their own, in pixels. A
    scene whose blocks are all of one split stays whole. On sides where another split is next, parts end half the buffer
    before the line. Whether a neighbour counts does not depend on there being a scene on it, so that parts stay what
    they are when scenes are added.

    Args:
        grids: of the scenes, by id.
        section: side of blocks, buffer, shares.

    Raises:
        ManifestError: blocks are too small, or fewer than splits; a turned scene would have to be cut; scenes in
            several CRS overlap.
    """
    sides = {i: _sides(i, grid, section) for i, grid in grids.items()}
    straight = {i: s for i, s in sides.items() if s is not None}
    turned = {i: _bounding_blocks(i, grids[i], section) for i in grids if i not in straight}
    names = {name for i, s in straight.items() for name in _held(i, grids[i], s, section)}
    split_of = hash_split.by_share(sorted(names | {blocks[0] for blocks in turned.values()}), section)

    def split(name: str) -> str:
        return split_of.get(name) or hash_split.alone(name, section)

    bent = [i for i, blocks in turned.items() if len({split(block) for block in blocks}) > 1]
    if bent:
        raise ManifestError(
            f"data.split: {len(bent)} scenes lie turned in their CRS and over blocks of two splits: {some(bent)}",
            "warp them to upright grids (`gdalwarp`), or enlarge data.split.block",
        )
    parts = [ScenePart.whole(i, grids[i], split(blocks[0]), blocks[0]) for i, blocks in turned.items()]
    for i, s in straight.items():
        parts += _parts(i, grids[i], s, section, split)
    _warn(grids, parts)
    _refuse_overlaps(grids, parts)
    return sorted(parts, key=lambda part: part.id)


def _sides(i: str, grid: Grid, section: BlocksSplit) -> _Sides | None:
    """Rows and columns of blocks that a scene meets; None of one that lies turned."""
    a, b, c, d, e, f = grid.transform if grid.crs else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    if max(abs(b * grid.height / a) if a else math.inf, abs(d * grid.width / e) if e else math.inf) > _SKEW_PIXELS:
        return None
    for pixel in (a, e):
        side = section.block / abs(pixel)
        if side < section.buffer + section.min_side:
            raise ManifestError(
                f"data.split.block: {section.block:g} are {side:.0f} pixels of scene {i}, which does not leave min_side"
                f" {section.min_side} next to a buffer of {section.buffer}",
                "enlarge block; it is in units of the scenes' CRS",
            )
    return _lines(f, e, grid.height, section.block), _lines(c, a, grid.width, section.block)


def _lines(first: float, pixel: float, length: int, block: float) -> list[_Side]:
    """One axis: coordinate = first + pixel * position."""
    ends = first, first + pixel * length
    tolerance = _ROUNDING_PIXELS * abs(pixel)
    step = 1 if pixel > 0 else -1
    sides = []
    for n in range(math.floor((min(ends) + tolerance) / block), math.ceil((max(ends) - tolerance) / block)):
        begin, end = sorted(_snapped((line * block - first) / pixel) for line in (n, n + 1))
        sides.append(_Side(n, begin, end, n - step, n + step))
    return sides


def _snapped(position: float) -> float:
    return round(position) if abs(position - round(position)) < _ROUNDING_PIXELS else position


def _held(i: str, grid: Grid, sides: _Sides, section: BlocksSplit) -> list[str]:
    """Blocks of which a scene has a piece that is large enough."""
    least = _least(grid, section) - 1
    rows, cols = ([s for s in axis if s.inside(n) >= least] for axis, n in zip(sides, _size(grid), strict=True))
    return [_name(i, grid, down.block, right.block) for down, right in itertools.product(rows, cols)]


def _size(grid: Grid) -> tuple[int, int]:
    return grid.height, grid.width


def _least(grid: Grid, section: BlocksSplit) -> int:
    return min(section.min_side, grid.height, grid.width)


@lru_cache(1024)
def _short(crs: str) -> str:
    name = gdal_env.short_crs(crs)
    return name if len(name) <= _LONG else blake2b(name.encode(), digest_size=4).hexdigest()


def _name(i: str, grid: Grid, row: int, col: int) -> str:
    return f"{_short(grid.crs) if grid.crs else i}/{row},{col}"


def _parts(i: str, grid: Grid, sides: _Sides, section: BlocksSplit, split: Callable[[str], str]) -> list[ScenePart]:
    """The pieces of a scene that are large enough; the scene itself, where nothing would be cut."""
    found = []
    for down, right in itertools.product(*sides):
        name = _name(i, grid, down.block, right.block)

        def differs(rows: tuple[int, ...], cols: tuple[int, ...], own: str = split(name)) -> bool:
            return any(split(_name(i, grid, row, col)) != own for row, col in itertools.product(rows, cols))

        rows, cols = (down.before, down.block, down.after), (right.before, right.block, right.after)
        top, bottom = _kept(down, grid.height, section.buffer, differs((rows[0],), cols), differs((rows[2],), cols))
        left, end = _kept(right, grid.width, section.buffer, differs(rows, (cols[0],)), differs(rows, (cols[2],)))
        if min(bottom - top, end - left) > 0:
            part = ScenePart(f"{i}_r{top}c{left}", i, (top, left), bottom - top, end - left, split(name), name)
            found.append(part)
    pixels = sum(p.height * p.width for p in found)
    if pixels == grid.height * grid.width and len({p.split for p in found}) == 1:
        largest = max(found, key=lambda p: p.height * p.width)
        return [ScenePart.whole(i, grid, largest.split, largest.group)]
    return [p for p in found if min(p.height, p.width) >= _least(grid, section)]


def _kept(side: _Side, length: int, buffer: int, other_before: bool, other_after: bool) -> tuple[int, int]:
    """Pixels [begin, end): next to another split whole ones half a buffer from the line, else those whose centres lie
    between the lines."""
    begin = math.ceil(side.begin + buffer / 2) if other_before else math.ceil(side.begin - 0.5)
    end = math.floor(side.end - buffer / 2) if other_after else math.ceil(side.end - 0.5)
    return max(0, begin), min(length, end)


def _bounding_blocks(i: str, grid: Grid, section: BlocksSplit) -> list[str]:
    """Blocks that the bounds of a turned scene meet, and half a buffer around it; that of its centre first."""
    corners = [grid.position(row, col) for row in (0, grid.height) for col in (0, grid.width)]
    a, b, _, d, e, _ = grid.transform
    reach = section.buffer / 2 * max(math.hypot(a, d), math.hypot(b, e))
    spans = [(min(values) - reach, max(values) + reach) for values in zip(*corners, strict=True)]
    cols, rows = (range(math.floor(low / section.block), math.floor(high / section.block) + 1) for low, high in spans)
    x, y = grid.position(grid.height / 2, grid.width / 2)
    centre = _name(i, grid, math.floor(y / section.block), math.floor(x / section.block))
    others = {_name(i, grid, row, col) for row, col in itertools.product(rows, cols)} - {centre}
    return [centre, *sorted(others)]


def _warn(grids: Mapping[str, Grid], parts: list[ScenePart]) -> None:
    total = sum(grid.height * grid.width for grid in grids.values())
    between = 100 - 100 * sum(part.height * part.width for part in parts) / total
    if between > 0:
        logger.info("split by blocks: %.1f%% of the pixels lie between splits and belong to none", between)
    lost = sorted(set(grids) - {part.scene for part in parts})
    if lost:
        logger.warning("%d scenes lie between splits and belong to none: %s", len(lost), some(lost))


def _refuse_overlaps(grids: Mapping[str, Grid], parts: list[ScenePart]) -> None:
    """Blocks of one CRS do not overlap, but those of two do."""
    if len({_short(grid.crs) for grid in grids.values() if grid.crs}) < 2:
        return
    places = [Place.of(p.id, p.split, grids[p.scene].part(*p.origin, p.height, p.width), p.scene) for p in parts]
    pairs = [f"{o.first} ({o.splits[0]}) and {o.second} ({o.splits[1]})" for o in overlap.shared(places)]
    if pairs:
        raise ManifestError(
            f"data.split: the scenes are in several CRS, whose blocks overlap: {len(pairs)} pairs share ground in two"
            f" splits: {some(pairs)}",
            "bring them to one CRS (`gdalwarp -t_srs`), or split by a table or by hash with data.split.group",
        )
