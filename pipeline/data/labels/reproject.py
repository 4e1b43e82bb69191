"""Find the shapes of a vector file near a scene, project them, and convert them to its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.data.labels import geometry_repair, vectors
from pipeline.data.labels.slide_levels import Scale
from pipeline.data.labels.vectors import FeatureTable
from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.grids import Grid, project, to_pixels
from pipeline.data.scenes import geojson_footprints
from pipeline.errors import LabelError

# Long edges bend when they are projected: they get a vertex at least every so many pixels.
_MAX_EDGE_PIXELS: Final = 64
_BORDER_POINTS: Final = 33
_POLYGON: Final = 3
_HALF_TURN: Final = 180.0
_QUARTER_TURN: Final = 90.0
_TURNS: Final = (-360.0, 0.0, 360.0)


@dataclass(frozen=True)
class PlacedShapes:
    """The shapes of a file that touch a scene: positions in the table [N], and geometries [N] in pixels of the scene.

    A shape occurs twice if it wraps around the globe.
    """

    table: FeatureTable
    who: NDArray[np.int64]
    geometry: NDArray[np.object_]


def place(
    uri: str,
    columns: Sequence[str],
    grid: Grid,
    origin: tuple[int, int],
    scale: Scale,
    buffer: float = 0.0,
    crs: str | None = None,
) -> PlacedShapes:
    """Find the shapes of a file in a scene.

    Args:
        uri: of the file; or an outline.
        columns: attributes to read.
        grid: of the scene.
        origin: row and column of its first pixel in its file.
        scale: height and width of its pixels in those of the finest level, which shapes without a CRS are drawn in.
        buffer: how far lines and points reach, in units of the scene's CRS, or in pixels of the finest level.
        crs: of the file's coordinates, if not the one that it says.

    Raises:
        LabelError: the file cannot be read, has no CRS although the scene has, coordinates that are no degrees although
            it says so, or shapes that cannot be projected.
    """
    if not grid.usable:
        raise LabelError(f"{uri}: the scene's transform {grid.transform} places no pixel", "correct the image")
    outline = geojson_footprints.is_outline(uri)
    if grid.crs is None:
        table = _outline(uri) if outline else vectors.load(uri, columns, crs=crs)
        return _in_pixels(table, grid, origin, scale, buffer)
    if outline:
        table = _outline(uri)
    else:
        table = vectors.load(uri, columns, lambda its: [] if its is None else _around(grid, its, buffer), _known(crs))
    if table.crs is None:
        crs = gdal_env.short_crs(grid.crs)
        raise LabelError(
            f"{uri}: the file does not say what its coordinates mean, and the scene is in {crs}",
            f"give it a CRS, for instance with `ogr2ogr -a_srs {crs}`; of labels data.label.crs",
        )
    _check_degrees(table, grid)
    who, geometry = _projected(table, grid, buffer)
    pixels = affine(_buffered(table, who, geometry, buffer), to_pixels(grid.transform, (1, 0, 0, 0, 1, 0)))
    return _touching(table, who, pixels, grid)


def missed(table: FeatureTable, grid: Grid) -> str:
    """Message about shapes that all miss a scene, with both places; empty for a file without shapes."""
    if not len(table.geometry):
        return ""
    left, bottom, right, top = table.bounds
    there = f"{len(table.geometry)} shapes at x {left:.8g} to {right:.8g}, y {bottom:.8g} to {top:.8g}"
    if grid.crs is None or table.crs is None:
        return f"{there}, the scene has {grid.width} × {grid.height} pixels"
    x0, y0, x1, y1 = _reach(grid, table.crs, 0.0, same=gdal_env.same_crs(table.crs, grid.crs)).tolist()
    swapped = left <= y1 and right >= y0 and bottom <= x1 and top >= x0
    said = (
        f"{there} ({gdal_env.short_crs(table.crs)}), where the scene has x {x0:.8g} to {x1:.8g}, y {y0:.8g} to {y1:.8g}"
    )
    return f"{said}: x and y seem to be swapped" if swapped else said


def _known(crs: str | None) -> str | None:
    """A CRS that the recipe gives.

    Raises:
        LabelError: it is none.
    """
    if crs is None:
        return None
    try:
        _is_geographic(crs)
    except gdal_env.READ_ERRORS as error:
        raise LabelError(
            f"data.label.crs {crs!r} is no CRS ({gdal_env.reason(error)})", "give a code such as EPSG:32633"
        ) from error
    return crs


def _check_degrees(table: FeatureTable, grid: Grid) -> None:
    """Refuse shapes in degrees whose coordinates are none: most are in the scene's own CRS, and do not say so."""
    point = table.beyond_degrees if _is_geographic(table.crs) else None
    if point is None:
        return
    x, y = point
    said = f"{table.uri}: its coordinates should be degrees, longitude first, but there is ({x:.10g}, {y:.10g})"
    if abs(x) <= _QUARTER_TURN and abs(y) <= _HALF_TURN:
        raise LabelError(f"{said}: latitude seems to come first", "swap x and y, for instance with `ogr2ogr -swapxy`")
    ours = gdal_env.short_crs(str(grid.crs))
    member = f'"crs": {{"type": "name", "properties": {{"name": "{ours}"}}}}'
    raise LabelError(
        f"{said}; GeoJSON without a crs member is taken to be in degrees",
        f"say which CRS it is, such as that of the scene: with `ogr2ogr -a_srs {ours}` to a GeoPackage, with the "
        f"member {member} in GeoJSON, or of labels with data.label.crs: {ours}",
    )


def parts_of(geometry: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Points, lines and polygons of any geometries, and which of them each is from."""
    whole = np.arange(len(geometry))
    while (shapely.get_type_id(geometry) > _POLYGON).any():
        geometry, index = shapely.get_parts(geometry, return_index=True)
        whole = whole[index]
    return geometry, whole


def affine(geometry: NDArray[Any], transform: tuple[float, ...]) -> NDArray[Any]:
    """Geometries whose x and y are those of an affine transform a, b, c, d, e, f."""
    a, b, c, d, e, f = transform

    def there(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        return np.column_stack((a * x + b * y + c, d * x + e * y + f))

    out: NDArray[Any] = shapely.transform(geometry, there)
    return out


def _outline(uri: str) -> FeatureTable:
    wkb = np.array([shapely.to_wkb(shapely.from_geojson(uri))], np.object_)
    return vectors.table(geojson_footprints.NAME, geojson_footprints.CRS, wkb, {})


def _in_pixels(table: FeatureTable, grid: Grid, origin: tuple[int, int], scale: Scale, buffer: float) -> PlacedShapes:
    """Scans have no coordinates but pixels: x is the column, y the row, in the file. GeoJSON always claims degrees."""
    if table.crs is not None and (table.uri == geojson_footprints.NAME or not _is_geographic(table.crs)):
        raise LabelError(
            f"{table.uri}: its shapes are in {gdal_env.short_crs(table.crs)}, but the scene has no CRS",
            "give the image its coordinates, or the shapes those of its pixels",
        )
    to_scene = (1 / scale[1], 0.0, float(-origin[1]), 0.0, 1 / scale[0], float(-origin[0]))
    geometry = affine(_buffered(table, np.arange(len(table.geometry)), table.geometry, buffer), to_scene)
    return _touching(table, np.arange(len(geometry)), geometry, grid)


def _around(grid: Grid, crs: str, buffer: float) -> list[NDArray[np.float64]]:
    """Bounds of a scene in another CRS: left, bottom, right, top; one for each way of counting longitudes."""
    reach = _reach(grid, crs, buffer, same=gdal_env.same_crs(crs, str(grid.crs)))
    turns = _TURNS if _is_geographic(crs) and np.isfinite(reach).all() else (0.0,)
    return [reach + np.array([turn, 0, turn, 0]) for turn in turns]


def _projected(table: FeatureTable, grid: Grid, buffer: float) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The shapes that may touch the scene, in its CRS."""
    around = _around(grid, str(table.crs), buffer)
    hits = [table.tree.query(shapely.box(*box)) for box in around]
    who = np.concatenate(hits).astype(np.int64)
    if gdal_env.same_crs(str(table.crs), str(grid.crs)):
        geometry = table.geometry[who]
    else:
        near = [_bent(table.geometry[hit], box, grid) for hit, box in zip(hits, around, strict=True)]
        geometry = _transformed(np.concatenate(near), table, grid)
    if not grid.geographic:
        return who, geometry
    copies = [affine(geometry, (1, 0, turn, 0, 1, 0)) for turn in _TURNS]
    return np.tile(who, len(_TURNS)), np.concatenate(copies)


def _bent(geometry: NDArray[Any], reach: NDArray[np.float64], grid: Grid) -> NDArray[Any]:
    """Shapes near the scene, with vertices added on long edges, so that these can be curved by the projection."""
    width, height = reach[2] - reach[0], reach[3] - reach[1]
    if not np.isfinite(reach).all() or width == 0 or height == 0:
        return geometry
    around = shapely.box(reach[0] - width, reach[1] - height, reach[2] + width, reach[3] + height)
    geometry = geometry.copy()
    far = ~shapely.covered_by(geometry, around)
    geometry[far] = shapely.intersection(geometry[far], around)
    edge = _MAX_EDGE_PIXELS * min(width / grid.width, height / grid.height)
    out: NDArray[Any] = shapely.segmentize(geometry, edge)
    return out


def _transformed(geometry: NDArray[Any], table: FeatureTable, grid: Grid) -> NDArray[Any]:
    """Shapes in the scene's CRS, valid."""

    def there(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(project(points[:, 0], points[:, 1], str(table.crs), str(grid.crs)))

    out: NDArray[Any] = shapely.transform(geometry, there)
    points, whose = shapely.get_coordinates(out, return_index=True)
    lost = np.bincount(whose[~np.isfinite(points).all(axis=1)], minlength=len(out))
    beyond = lost == shapely.get_num_coordinates(out)
    out[beyond] = shapely.Polygon()  # what has no place in this CRS is not in the scene
    if (lost[~beyond] > 0).any():
        raise LabelError(
            f"{table.uri}: {int((lost[~beyond] > 0).sum())} shapes reach to where {gdal_env.short_crs(str(grid.crs))} "
            "has no coordinates",
            "clip them, or check the file's coordinates and its CRS",
        )
    invalid = ~shapely.is_valid(out)
    out[invalid] = shapely.make_valid(out[invalid], method="structure", keep_collapsed=False)
    return out


def _reach(grid: Grid, crs: str, buffer: float, *, same: bool) -> NDArray[np.float64]:
    """Bounds of the scene and a little more in another CRS: left, bottom, right, top; infinite if there are none."""
    pixel = min(math.hypot(grid.transform[0], grid.transform[3]), math.hypot(grid.transform[1], grid.transform[4]))
    more = 2 + buffer / pixel
    row, col = np.meshgrid(
        np.linspace(-more, grid.height + more, _BORDER_POINTS), np.linspace(-more, grid.width + more, _BORDER_POINTS)
    )
    a, b, c, d, e, f = grid.transform
    x, y = (a * col + b * row + c).ravel(), (d * col + e * row + f).ravel()
    if not same:
        x, y = project(x, y, str(grid.crs), crs)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.array([-math.inf, -math.inf, math.inf, math.inf])
    margin = 0.0 if same else 0.01
    dx, dy = margin * np.ptp(x), margin * np.ptp(y)
    return np.array([x.min() - dx, y.min() - dy, x.max() + dx, y.max() + dy])


def _is_geographic(crs: str | None) -> bool:
    return Grid(1, 1, crs).geographic


def _buffered(table: FeatureTable, who: NDArray[np.int64], geometry: NDArray[Any], distance: float) -> NDArray[Any]:
    """Lines and points with a width; `who` says which of the table's shapes each is.

    Raises:
        LabelError: a line crosses itself too often.
    """
    if distance == 0:
        return geometry
    parts, whole = parts_of(geometry)
    thin = shapely.get_dimensions(parts) < 2
    geometry_repair.check_crossings(table.uri, table.geometry, np.unique(who[whole[thin]]))
    parts[thin] = shapely.buffer(parts[thin], distance)
    out = geometry.copy()
    for i in np.unique(whole[thin]):
        out[i] = shapely.union_all(parts[whole == i])
    return out


def _touching(table: FeatureTable, who: NDArray[np.int64], geometry: NDArray[Any], grid: Grid) -> PlacedShapes:
    """Those that reach into the scene or come within a pixel of it."""
    left, top, right, bottom = shapely.bounds(geometry).T if len(geometry) else np.empty((4, 0))
    with np.errstate(invalid="ignore"):
        near = (right >= -1) & (bottom >= -1) & (left <= grid.width + 1) & (top <= grid.height + 1)
    return PlacedShapes(table, who[near], geometry[near])
