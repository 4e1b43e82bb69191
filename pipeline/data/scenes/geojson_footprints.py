"""Footprints as GeoJSON text in longitude and latitude, such as those of STAC items."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from pipeline.errors import ManifestError

CRS: Final = "EPSG:4326"
"""What GeoJSON is in, longitude first (RFC 7946)."""
NAME: Final = "the geometry of the STAC item"
"""For messages, where a file would have its name."""

# How deep the points of a geometry lie in lists.
_DEPTHS: Final = {"Polygon": 2, "MultiPolygon": 3}
_MIN_POINTS: Final = 4


def is_outline(uri: str) -> bool:
    """Whether this is an outline and not the name of a file."""
    return uri.startswith("{")


def name(uri: str) -> str:
    """Name of a footprint in messages: its file, or the item whose geometry it is."""
    return NAME if is_outline(uri) else uri


def of_geojson(geometry: Any) -> str | None:
    """The outline of a GeoJSON geometry; None without one.

    Raises:
        ManifestError: it is no polygon, or its coordinates are none; the message is what an item has.
    """
    if geometry is None:
        return None
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in _DEPTHS:
        raise ManifestError(f"a geometry of the type {kind}, where a footprint is a Polygon or MultiPolygon")
    coordinates = geometry.get("coordinates")
    if not _are_rings(coordinates, _DEPTHS[kind]):
        raise ManifestError(f"a {kind} whose coordinates are not rings of longitudes and latitudes")
    return json.dumps({"type": kind, "coordinates": coordinates}, separators=(",", ":"))


def _are_rings(tree: Any, depth: int) -> bool:
    if not isinstance(tree, list) or not tree:
        return False
    if depth > 1:
        return all(_are_rings(branch, depth - 1) for branch in tree)
    return len(tree) >= _MIN_POINTS and tree[0] == tree[-1] and all(map(_is_point, tree))


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) in (2, 3)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in point)
    )
