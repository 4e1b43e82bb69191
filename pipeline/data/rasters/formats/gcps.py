"""The grid of a GDAL raster: by its transform, or by control points that an affine transform fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from rasterio.errors import RasterioError
from rasterio.transform import from_gcps

from pipeline.data.rasters.grids import Grid

_TOLERANCE_PIXELS: Final = 0.5


def placed(dataset: Any) -> tuple[Grid, str]:
    """The grid, and a remark where the file gives it by control points.

    Points that no affine transform fits to half a pixel leave the raster without coordinates: a grid that is nearly
    right would misplace labels.
    """
    crs = dataset.crs.to_wkt() if dataset.crs else None
    transform, note = dataset.transform, ""
    points, points_crs = dataset.gcps
    if points and transform.is_identity:
        fitted, error = _fit(points)
        if error <= _TOLERANCE_PIXELS:
            transform, crs = fitted, points_crs.to_wkt() if points_crs else None
            note = f", placed by {len(points)} control points"
        else:
            crs = None
            note = f", {len(points)} control points fit no affine transform: without coordinates"
    if dataset.rpcs is not None and transform.is_identity:
        note += ", placed by RPCs only: without coordinates"
    a, b, c, d, e, f = (float(v) for v in transform[:6])
    return Grid(dataset.height, dataset.width, crs, (a, b, c, d, e, f)), note


def _fit(points: Sequence[Any]) -> tuple[Any, float]:
    """The affine transform nearest to control points, and how far it is off at most, in pixels."""
    if len(points) < 3:
        return None, math.inf
    try:
        transform = from_gcps(points)
        back = ~transform
    except (RasterioError, ValueError, ArithmeticError):
        return None, math.inf
    a, b, c, d, e, f = back[:6]
    off = [math.dist((a * p.x + b * p.y + c, d * p.x + e * p.y + f), (p.col, p.row)) for p in points]
    return transform, max(off) if all(map(math.isfinite, off)) else math.inf
