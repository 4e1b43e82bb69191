"""Shapes of a vector file for one scene: their classes, in pixels, in drawing order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.data.labels.classes import IGNORE, UNKNOWN, Classes
from pipeline.data.labels.nested_attributes import Value
from pipeline.data.labels.reproject import PlacedShapes, missed, parts_of, place
from pipeline.data.labels.slide_levels import Scale
from pipeline.data.rasters.grids import Grid
from pipeline.errors import LabelError
from pipeline.recipe import Data

_ORDERS: Final = ("file", "class")
# Larger polygons are cut into pieces, so that a window never pays for a whole coast.
_MAX_VERTICES: Final = 256
_MIN_PIECE_PIXELS: Final = 64
_POLYGON: Final = 3


@dataclass(frozen=True, eq=False)
class Shapes:
    """Geometries in pixels of a scene and the mask value of each, in the order of burning.

    Attributes:
        geometry: simple shapely geometries [M]; large shapes come in pieces.
        ids: class ids and IGNORE [M].
        unknown_values: values of the attribute that no class claims, and how many shapes have them.
        num_shapes, num_repaired: in the scene.
        num_empty: in the whole file, since they lie nowhere.
        tree: where the geometries lie.
        missed: where the file's shapes lie and where the scene does, if it has shapes that all miss the scene.
    """

    geometry: NDArray[np.object_]
    ids: NDArray[np.uint8]
    unknown_values: Counter[Any]
    num_shapes: int
    num_repaired: int
    num_empty: int
    tree: shapely.STRtree
    missed: str = ""

    @property
    def largest(self) -> float:
        """Length in pixels of the longest side of any geometry's bounds; infinite for points, which have none."""
        if (shapely.get_dimensions(self.geometry) == 0).any():
            return math.inf
        left, top, right, bottom = shapely.bounds(self.geometry).T
        return float(max((right - left).max(initial=0.0), (bottom - top).max(initial=0.0)))

    def near(self, row: int, col: int, height: int, width: int) -> NDArray[np.int64]:
        """Positions of the geometries that may touch this rectangle of pixels, in the order of burning."""
        return np.sort(self.tree.query(shapely.box(col - 1, row - 1, col + width + 1, row + height + 1)))


def columns(data: Data) -> list[str]:
    """The attributes of vector labels that a recipe speaks of."""
    order = [] if data.label.order in _ORDERS else [data.label.order]
    return list(dict.fromkeys([*([data.label.attribute] if data.label.attribute else []), *order]))


def as_labels(uri: str, grid: Grid, origin: tuple[int, int], scale: Scale, classes: Classes, data: Data) -> Shapes:
    """The shapes of a file as labels of a scene, whose pixel (0, 0) is pixel `origin` of its file, at a scale.

    Raises:
        LabelError: the file cannot be read or brought onto the grid; nothing says which class or in what order.
    """
    placed = place(uri, columns(data), grid, origin, scale, data.label.buffer, data.label.crs)
    found = placed.table.columns[data.label.attribute] if data.label.attribute else None
    ids = np.full(len(placed.who), 0 if len(classes) == 1 else 1, np.int64)
    unknown_values: Counter[Any] = Counter()
    if found is not None:
        ids = np.array([_id_of(found[i], classes) for i in placed.who], np.int64)
        unknown_values.update("null" if found[i] is None else found[i] for i in np.unique(placed.who[ids == UNKNOWN]))
    elif data.task == "multilabel" and len(classes) > 1:
        raise LabelError(f"{uri}: nothing says which class a shape is of", "set data.label.attribute")
    rank = _rank(placed, ids, data)
    keep = rank[ids[rank] != UNKNOWN]
    return _shapes(placed, grid, keep, ids[keep], unknown_values)


def as_area(uri: str, grid: Grid, origin: tuple[int, int], scale: Scale) -> Shapes:
    """The shapes of a file as an area of interest: all of them mean 1."""
    placed = place(uri, (), grid, origin, scale)
    return _shapes(placed, grid, np.arange(len(placed.who)), np.ones(len(placed.who), np.int64), Counter())


def _shapes(
    placed: PlacedShapes, grid: Grid, order: NDArray[np.int64], ids: NDArray[np.int64], unknown_values: Counter[Any]
) -> Shapes:
    """Shapes in this order, which have these ids, in pieces."""
    parts, whole = parts_of(placed.geometry[order])
    there = zip(parts, whole, strict=True)
    pieces = [(piece, ids[i]) for part, i in there if not part.is_empty for piece in _pieces(part)]
    array = np.empty(len(pieces), np.object_)
    array[:] = [piece for piece, _ in pieces]
    who = np.unique(placed.who)
    return Shapes(
        geometry=array,
        ids=np.array([i for _, i in pieces], np.uint8),
        unknown_values=unknown_values,
        num_shapes=len(who),
        num_repaired=int(placed.table.repaired[who].sum()),
        num_empty=placed.table.num_empty,
        tree=shapely.STRtree(array),
        missed="" if len(who) else missed(placed.table, grid),
    )


def _id_of(value: Value, classes: Classes) -> int:
    if value is None or isinstance(value, float):
        return UNKNOWN
    return classes.id_of(value)


def _rank(placed: PlacedShapes, ids: NDArray[np.int64], data: Data) -> NDArray[np.int64]:
    """The order of burning, as positions: later ones cover earlier ones."""
    who = placed.who
    if data.label.order == "file":
        return np.argsort(who, kind="stable")
    if data.label.order == "class":
        return np.lexsort((who, np.where(ids == IGNORE, IGNORE + UNKNOWN, ids)))
    values = [placed.table.columns[data.label.order][i] for i in who]
    kinds = {str if isinstance(v, str) else float for v in values if v is not None}
    if len(kinds) > 1 or any(v is None for v in values):
        raise LabelError(
            f"{placed.table.uri}: shapes cannot be ordered by {data.label.order}: values are missing or of several "
            "types",
            "correct the attribute, or change data.label.order",
        )
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return np.lexsort((who, np.array([order[v] for v in values], np.int64)))


def _pieces(geometry: Any) -> Iterator[Any]:
    """A simple geometry, or what it consists of if it has many vertices, cut along the borders of pixels.

    No pixel's centre lies on a border, so that every one is in the same piece that it would be in the whole.
    """
    left, top, right, bottom = geometry.bounds
    small = max(right - left, bottom - top) <= _MIN_PIECE_PIXELS
    if small or shapely.get_type_id(geometry) != _POLYGON or shapely.get_num_coordinates(geometry) <= _MAX_VERTICES:
        yield geometry
        return
    if right - left >= bottom - top:
        middle = math.floor((left + right) / 2)
        halves = (left, top, middle, bottom), (middle, top, right, bottom)
    else:
        middle = math.floor((top + bottom) / 2)
        halves = (left, top, right, middle), (left, middle, right, bottom)
    parts, _ = parts_of(shapely.intersection(geometry, [shapely.box(*half) for half in halves]))
    for part in parts[shapely.get_type_id(parts) == _POLYGON]:
        if not part.is_empty:
            yield from _pieces(part)
