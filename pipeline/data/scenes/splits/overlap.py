"""Overlaps of scenes: which scenes of two splits share ground or content.

Within a CRS footprints are exact. Between two they are brought to the one of the first scene, with points along their
edges. Candidates come from a tree over bounding boxes (STR-packed R-tree: Leutenegger et al. 1997), so that a hundred
thousand scenes take seconds.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.grids import Grid, project

_LONLAT: Final = "OGC:CRS84"
_EDGE_POINTS: Final = 16
# Neighbours touch; rounding of their coordinates, or curved edges of another CRS, are no shared pixels.
_INSET_PIXELS: Final = 0.002
_INSET_PIXELS_ACROSS: Final = 0.5

Polygons = NDArray[Any]


@dataclass(frozen=True)
class Overlap:
    """Two scenes of different splits that share pixels.

    Attributes:
        first, second: their ids.
        splits: theirs, in this order.
        why: `ground`: the same place; `content`: equal files.
        share: of the smaller one's area that is shared, 0..1.
    """

    first: str
    second: str
    splits: tuple[str, str]
    why: Literal["ground", "content"]
    share: float


@dataclass(frozen=True)
class Place:
    """A scene as a rectangle of a plane: a CRS, or, for scenes without one, the pixels of their file."""

    id: str
    split: str
    plane: str
    grid: Grid

    @classmethod
    def of(cls, scene: str, split: str, grid: Grid, file: str, origin: tuple[int, int] = (0, 0)) -> Place:
        """Without a CRS, `origin` is the place in the file."""
        if grid.crs is not None:
            return cls(scene, split, grid.crs, grid)
        pixels = Grid(grid.height, grid.width, None, (1.0, 0.0, float(origin[1]), 0.0, 1.0, float(origin[0])))
        return cls(scene, split, f"pixels of {file}", pixels)


def shared(places: Sequence[Place]) -> list[Overlap]:
    """All pairs of places in different splits that share ground, sorted."""
    planes = _planes(places)
    found = [pair for members in planes.values() for pair in _within(members)]
    on_earth = {plane: members for plane, members in planes.items() if members[0].grid.crs is not None}
    if len(on_earth) > 1:
        found += _between(on_earth)
    return sorted(found, key=lambda o: (o.first, o.second))


def _planes(places: Iterable[Place]) -> dict[str, list[Place]]:
    """Places by plane; CRS that mean the same are one."""
    same: dict[str, str] = {}
    planes: defaultdict[str, list[Place]] = defaultdict(list)
    for place in places:
        if place.grid.crs is None:
            planes[place.plane].append(place)
            continue
        if place.plane not in same:
            equal = (known for known in set(same.values()) if gdal_env.same_crs(known, place.plane))
            same[place.plane] = next(equal, place.plane)
        planes[same[place.plane]].append(place)
    return planes


def _within(members: Sequence[Place]) -> Iterator[Overlap]:
    polygons = _polygons(_rings([p.grid for p in members], 1, _INSET_PIXELS))
    for one, other in _meeting(polygons, members):
        yield _overlap(members[one], members[other], polygons[one], polygons[other])


def _between(planes: dict[str, list[Place]]) -> list[Overlap]:
    """Pairs in different CRS: candidates by longitude and latitude, then exactly."""
    members = [(plane, place) for plane, places in planes.items() for place in places]
    boxes, owners = [], []
    first = 0
    for plane, places in planes.items():
        lon, lat = _projected(_rings([p.grid for p in places], _EDGE_POINTS, 0), plane, _LONLAT)
        for position, box in _lonlat_boxes(lon, lat):
            boxes.append(box)
            owners.append(first + position)
        first += len(places)
    pairs = {
        (min(owners[i], owners[j]), max(owners[i], owners[j]))
        for i, j in _meeting(np.array(boxes), [members[owner][1] for owner in owners])
    }
    found = []
    for one, other in sorted(pairs):
        (plane, a), (theirs, b) = members[one], members[other]
        if plane == theirs:
            continue
        x, y = _projected(_rings([b.grid], _EDGE_POINTS, _INSET_PIXELS_ACROSS), theirs, plane)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            continue  # half a world away
        moved = _polygons(np.stack([x, y], axis=-1))[0]
        own = _polygons(_rings([a.grid], 1, _INSET_PIXELS_ACROSS))[0]
        if own.intersects(moved):
            found.append(_overlap(a, b, own, moved))
    return found


def _overlap(a: Place, b: Place, first: Any, second: Any) -> Overlap:
    share = first.intersection(second).area / min(first.area, second.area)
    (a, b) = (a, b) if a.id < b.id else (b, a)
    return Overlap(a.id, b.id, (a.split, b.split), "ground", min(1.0, float(share)))


def _meeting(polygons: Polygons, members: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """Positions of intersecting pairs of different splits; a tree for each split, since within one all may touch."""
    import shapely  # not above: reading the splits of a manifest needs no geometry

    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, place in enumerate(members):
        positions[place.split].append(position)
    for ours, theirs in itertools.combinations(sorted(positions), 2):
        tree = shapely.STRtree(polygons[positions[ours]])
        queried, met = tree.query(polygons[positions[theirs]], predicate="intersects")
        for i, j in zip(queried.tolist(), met.tolist(), strict=True):
            yield positions[theirs][i], positions[ours][j]


def _rings(grids: Sequence[Grid], points: int, inset: float) -> NDArray[np.float64]:
    """Coordinates [S, 4 * points, 2] around each grid, `points` on each edge, `inset` pixels inside."""
    steps = np.arange(points) / points
    down = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps])
    right = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps])
    sides = np.array([(g.height, g.width) for g in grids], np.float64)[..., None]
    inset_of = np.minimum(inset, sides / 4)
    rows, cols = (inset_of[:, i] + (sides[:, i] - 2 * inset_of[:, i]) * at for i, at in ((0, down), (1, right)))
    a, b, c, d, e, f = np.array([g.transform for g in grids]).T[..., None]
    return np.stack([a * cols + b * rows + c, d * cols + e * rows + f], axis=-1)


def _polygons(rings: NDArray[np.float64]) -> Polygons:
    import shapely

    polygons: Polygons = shapely.polygons(rings)
    return polygons


def _projected(rings: NDArray[np.float64], ours: str, theirs: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project rings [S, N, 2] to another CRS: x and y [S, N]."""
    x, y = project(rings[..., 0].ravel(), rings[..., 1].ravel(), ours, theirs)
    return x.reshape(rings.shape[:2]), y.reshape(rings.shape[:2])


def _lonlat_boxes(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Iterator[tuple[int, Any]]:
    """Bounding boxes of rings [S, N], with the position of each; one that crosses 180 degrees has two."""
    import shapely

    for position, (x, y) in enumerate(zip(lon, lat, strict=True)):
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            # Somewhere its CRS has no longitude: compare it with all.
            yield position, shapely.box(-180, -90, 180, 90)
            continue
        if np.ptp(x) > 180:
            x = np.where(x < 0, x + 360, x)
            yield position, shapely.box(x.min() - 360, y.min(), x.max() - 360, y.max())
        yield position, shapely.box(x.min(), y.min(), x.max(), y.max())
