"""Repair invalid geometries; refuse rings with so many crossings that the repair would exhaust memory.

More crossings than `MAX_CROSSINGS` are refused.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.errors import LabelError

MAX_CROSSINGS: Final = 100_000
"""About two seconds and 300 MB for one shape; the most that rings of 450 vertices can have."""

_SURFACE: Final = 2
_MAX_PAIRS: Final = 4_000_000
_MIN_CHUNK: Final = 64


def repaired(uri: str, geometry: NDArray[Any], invalid: NDArray[np.int64]) -> NDArray[Any]:
    """The geometries at some positions, made valid; parts of a shape that overlap are joined.

    Args:
        uri: of the file, for the message.
        geometry: all of the file [N].
        invalid: positions of those that are not valid.

    Raises:
        LabelError: a shape crosses itself too often; the message names it.
    """
    check_crossings(uri, geometry, invalid)
    # "structure": parts that overlap are joined; the other method would cut them out of each other.
    out: NDArray[Any] = shapely.make_valid(geometry[invalid], method="structure", keep_collapsed=False)
    return out


def check_crossings(uri: str, geometry: NDArray[Any], positions: NDArray[np.int64]) -> None:
    """Refuse geometries, at some positions among those of a file, that cross themselves too often to be worked on.

    Raises:
        LabelError: the message names the first one.
    """
    for position in positions.tolist():
        shape = geometry[position]
        vertices = int(shapely.get_num_coordinates(shape))
        if vertices**2 > 2 * MAX_CROSSINGS and _crosses_too_often(shape):
            raise LabelError(
                f"{uri}: shape {position + 1} of the file, of {vertices} vertices, crosses itself more than "
                f"{MAX_CROSSINGS} times, so that it is too costly to work on",
                "draw it again, or leave it out",
            )


def _crosses_too_often(shape: Any) -> bool:
    segments = _segments(shape)
    tree = shapely.STRtree(segments)
    chunk = max(_MIN_CHUNK, _MAX_PAIRS // len(segments))
    # Every crossing is found from both sides, as is every vertex; each segment finds itself.
    allowed = 2 * MAX_CROSSINGS + 3 * len(segments)
    for first in range(0, len(segments), chunk):
        allowed -= tree.query(segments[first : first + chunk], predicate="intersects").shape[1]
        if allowed < 0:
            return True
    return False


def _segments(shape: Any) -> NDArray[Any]:
    """All edges of lines or polygons, one or several, as lines."""
    parts = shapely.get_parts(shape)
    polygons = shapely.get_dimensions(parts) == _SURFACE
    lines = np.concatenate([shapely.get_rings(parts[polygons]), parts[~polygons]])
    points, ring = shapely.get_coordinates(lines, return_index=True)
    same = ring[1:] == ring[:-1]
    edges: NDArray[Any] = shapely.linestrings(np.stack([points[:-1][same], points[1:][same]], axis=1))
    return edges
