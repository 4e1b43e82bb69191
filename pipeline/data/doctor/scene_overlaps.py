"""Footprints of scenes for the doctor: bounds, scenes near each other, points that two scenes share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.data.doctor import access
from pipeline.data.doctor.findings import Entry
from pipeline.data.rasters.grids import Grid

_MAX_PAIRS: Final = 10_000
_POINTS: Final = 5


@dataclass(frozen=True)
class Footprint:
    """A scene's corners (x, y) in its CRS, in order around it."""

    id: str
    crs: str
    corners: tuple[tuple[float, float], ...]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def of(entry: Entry) -> Footprint | None:
    """The footprint of a scene; None without coordinates."""
    if entry.info is None or not entry.info.georeferenced:
        return None
    grid = entry.grid
    corners = ((0, 0), (0, grid.width), (grid.height, grid.width), (grid.height, 0))
    return Footprint(entry.id, grid.crs or "", tuple(grid.position(row, col) for row, col in corners))


def by_crs(entries: Iterable[Entry]) -> dict[str, list[Footprint]]:
    """Footprints by coordinate system; systems that mean the same are one."""
    out: dict[str, list[Footprint]] = {}
    for entry in entries:
        footprint = of(entry)
        if footprint is not None:
            key = next((k for k in out if access.same_crs(k, footprint.crs)), footprint.crs)
            out.setdefault(key, []).append(footprint)
    return out


def meeting(
    boxes: Sequence[tuple[tuple[float, float, float, float], Footprint]],
) -> Iterable[tuple[Footprint, Footprint]]:
    """Pairs whose boxes overlap, by a sweep from left to right; at most 10,000 pairs."""
    active: list[tuple[tuple[float, float, float, float], Footprint]] = []
    count = 0
    for box, footprint in sorted(boxes, key=lambda item: (item[0][0], item[1].id)):
        active = [(other, f) for other, f in active if other[2] > box[0]]
        for other, f in active:
            if other[1] < box[3] and box[1] < other[3]:
                yield (f, footprint) if f.id < footprint.id else (footprint, f)
                count += 1
                if count >= _MAX_PAIRS:
                    return
        active.append((box, footprint))


def places(footprints: Sequence[Footprint]) -> list[list[Footprint]]:
    """Footprints that lie near each other, within twice their size, belong to one place; the largest place first."""
    if not footprints:
        return []
    reach = 2 * max(max(f.bounds[2] - f.bounds[0], f.bounds[3] - f.bounds[1]) for f in footprints)
    parent = {f.id: f.id for f in footprints}

    def root(i: str) -> str:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    grown = [
        ((b[0] - reach / 2, b[1] - reach / 2, b[2] + reach / 2, b[3] + reach / 2), f)
        for f in footprints
        for b in [f.bounds]
    ]
    for a, b in meeting(grown):
        parent[root(a.id)] = root(b.id)
    out: dict[str, list[Footprint]] = {}
    for f in footprints:
        out.setdefault(root(f.id), []).append(f)
    return sorted(out.values(), key=lambda members: (-len(members), members[0].id))


def points(first: Entry, second: Entry) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Places that two scenes share, as (row, col) in each, spread over what both bounds cover."""
    a, b = of(first), of(second)
    if a is None or b is None or not access.same_crs(a.crs, b.crs):
        return []
    left, bottom, right, top = (pick(x, y) for pick, x, y in zip((max, max, min, min), a.bounds, b.bounds, strict=True))
    out = []
    for down, across in itertools.product(range(_POINTS), repeat=2):
        x = left + (right - left) * (across + 0.5) / _POINTS
        y = bottom + (top - bottom) * (down + 0.5) / _POINTS
        there = [_pixel(e.grid, x, y) for e in (first, second)]
        if all(place is not None for place in there):
            out.append((there[0], there[1]))
    return [(p, q) for p, q in out if p is not None and q is not None]


def _pixel(grid: Grid, x: float, y: float) -> tuple[int, int] | None:
    """Row and column of the pixel that holds a point; None outside."""
    if not grid.usable:
        return None
    row, col = map(math.floor, grid.pixel(x, y))
    return (row, col) if 0 <= row < grid.height and 0 <= col < grid.width else None
