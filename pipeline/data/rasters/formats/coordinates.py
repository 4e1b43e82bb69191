"""The grid of a variable from its coordinate variables, by the CF conventions.

Chapters 4 and 5 of https://cfconventions.org. The grid mapping counts where it is written as WKT, as GDAL and
rioxarray do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.formats.attributes import Variable
from pipeline.data.rasters.grids import Grid, Transform

_DEGREES: Final = "EPSG:4326"
_NAMES: Final = {
    "y": ("y", "lat", "latitude", "northing", "row", "rows", "nj"),
    "x": ("x", "lon", "longitude", "easting", "col", "cols", "ni"),
}
_STANDARD: Final = {
    "y": ("latitude", "grid_latitude", "projection_y_coordinate"),
    "x": ("longitude", "grid_longitude", "projection_x_coordinate"),
}
_EAST: Final = ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese")
_NORTH: Final = ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn")
_METRES: Final = {"m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0, "": 1.0}
_KILOMETRES: Final = dict.fromkeys(("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0)
# Coordinates in float32 are not quite regular.
_IRREGULAR_PIXELS: Final = 0.1
_MAX_LENGTH: Final = 10_000_000


def direction(variable: Variable) -> str:
    """Whether a variable's values are themselves places: "y", "x", or "" for neither."""
    standard, units = variable.text("standard_name").lower(), variable.text("units").lower()
    if known := _side(_STANDARD, standard):
        return known
    if units in _NORTH + _EAST:
        return "y" if units in _NORTH else "x"
    axis = variable.text("axis").lower()
    return axis if axis in ("x", "y") and len(variable.shape) == 1 else ""


def facing(variable: Variable, axis: int, found: Sequence[Variable]) -> str:
    """What a dimension of a variable runs along: "y", "x", or "" if it does not say."""
    name = variable.dims[axis]
    coordinate = _coordinate(variable, axis, found)
    known = direction(coordinate) if coordinate is not None else ""
    return known or _side(_NAMES, name.rpartition("/")[2].lower())


def _side(names: Mapping[str, Sequence[str]], name: str) -> str:
    return next((side for side, known in names.items() if name in known), "")


def placed(variable: Variable, rows: int, cols: int, found: Sequence[Variable]) -> tuple[Grid, str]:
    """The grid, and a remark where it is without coordinates though there are some."""
    size = variable.shape[rows], variable.shape[cols]
    down, across = _coordinate(variable, rows, found), _coordinate(variable, cols, found)
    if down is None or across is None:
        return Grid(*size), ""
    crs, why = _crs(variable, down, across, found)
    if crs is None:
        return Grid(*size), f", without coordinates: {why}"
    try:
        geographic = Grid(*size, crs).geographic
    except gdal_env.READ_ERRORS as error:
        return Grid(*size), f", without coordinates: its CRS has no meaning ({gdal_env.reason(error)})"
    transform, why = _transform(down, across, geographic)
    if transform is None:
        return Grid(*size), f", without coordinates: {why}"
    return Grid(*size, crs, transform), ""


def north_up(grid: Grid) -> Grid:
    """The grid of the same pixels with their rows the other way round."""
    a, b, c, d, e, f = grid.transform
    return replace(grid, transform=(a, -b, c + b * grid.height, d, -e, f + e * grid.height))


def _coordinate(variable: Variable, axis: int, found: Sequence[Variable]) -> Variable | None:
    """The variable that has the dimension's name, in the same group or one above."""
    name = variable.dims[axis]
    if not name:
        return None
    for other in found:
        if other.name == name and other.shape == (variable.shape[axis],) and other.dtype.kind in "iuf":
            return other
    return None


def _crs(variable: Variable, down: Variable, across: Variable, found: Sequence[Variable]) -> tuple[str | None, str]:
    mapping = variable.text("grid_mapping").partition(":")[0].split(" ")[0]
    group = variable.name.rpartition("/")[0]
    for other in found:
        if mapping and other.name in (mapping, f"{group}/{mapping}"):
            wkt = other.text("crs_wkt") or other.text("spatial_ref")
            if wkt:
                return wkt, ""
            if other.text("grid_mapping_name") != "latitude_longitude":
                return None, f"its grid mapping {mapping} is not written as WKT"
    if down.text("units").lower() in _NORTH and across.text("units").lower() in _EAST:
        return _DEGREES, ""
    return None, "no CRS is written"


def _transform(down: Variable, across: Variable, geographic: bool) -> tuple[Transform | None, str]:
    steps = []
    for variable in (across, down):
        factor = 1.0 if geographic else (_METRES | _KILOMETRES).get(variable.text("units").lower())
        if factor is None:
            return None, f"{variable.name} is in {variable.text('units')}"
        if variable.shape[0] > _MAX_LENGTH:
            return None, f"{variable.name} is too long"
        line = _line(variable, geographic and variable is across)
        if line is None:
            return None, f"{variable.name} is not regular"
        steps.append((line[0] * factor, line[1] * factor))
    (left, right), (top, bottom) = steps
    return (right, 0.0, left, 0.0, bottom, top), ""


def _line(variable: Variable, turns: bool) -> tuple[float, float] | None:
    """The outer edge of the first pixel and the step to the next; None if steps differ.

    Coordinates are those of centres. Where longitudes jump by 360 degrees they go on.
    """
    stored: NDArray[Any] = variable.values((slice(None),)).astype(np.float64)
    values = stored * variable.number("scale_factor", 1.0) + variable.number("add_offset", 0.0)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    if turns:
        values = np.unwrap(values, period=360.0)
    step = float(values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or not math.isfinite(step):
        return None
    off = np.abs(values - (values[0] + step * np.arange(len(values)))).max() / abs(step)
    return None if off > _IRREGULAR_PIXELS else (float(values[0]) - step / 2, step)
