"""Areas of interest and footprints of scenes, as vectors or rasters: where labels and where images are valid."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import raster_labels, rasterize, shapes, slide_levels, vectors
from pipeline.data.labels.lru_cache import Memory
from pipeline.data.labels.shapes import Shapes
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import geojson_footprints
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data

_MAX_SHAPES: Final = 1_000_000
_MAX_VALUES: Final = 1 << 24


def inside(scene: Scene, uri: str, window: Window, data: Data) -> NDArray[np.bool_]:
    """Pixels of a window whose centre is in an area, [h, w].

    Args:
        scene: whose pixels.
        uri: of a vector file, of a raster on the scene's grid whose pixels other than 0 are inside, or an outline.
        window: in pixels of the scene; may reach outside, where nothing is inside.
        data: how rasters are read (`align`, `reading`).

    Returns:
        [h, w].

    Raises:
        SceneError, LabelError: the area cannot be read, or brought onto the scene's grid.
    """
    if not is_drawn(uri):
        return raster_labels.annotated(scene, uri, window, data)
    there: NDArray[np.bool_] = rasterize.burn(drawn(scene, uri, data), scene.grid, window) == 1
    return there


def hides(scene: Scene, info: RasterInfo, data: Data) -> bool:
    """Whether pixels of a scene's image can be invalid, so that it is worth reading which."""
    declared = data.nodata is not None or any(value is not None for value in info.nodata)
    floats = np.dtype(info.dtype).kind == "f"
    return scene.footprint is not None or info.hides or declared or floats


def valid(scene: Scene, window: Window, info: RasterInfo, data: Data) -> NDArray[np.bool_]:
    """Validity [h, w] of a scene's image at a window inside the scene.

    Raises:
        SceneError, LabelError: the image or the footprint cannot be read.
    """
    out = np.empty((window.height, window.width), np.bool_)
    lines = max(1, _MAX_VALUES // (len(info.bands) * window.width))
    row, col = scene.origin
    for top in range(0, window.height, lines):
        part = window._replace(row=window.row + top, height=min(lines, window.height - top))
        there = part._replace(row=part.row + row, col=part.col + col)
        out[top : top + lines] = raster_io.read(scene.image, there, nodata=data.nodata, reading=data.reading)[1]
    return out if scene.footprint is None else out & inside(scene, scene.footprint, window, data)


def is_drawn(uri: str) -> bool:
    """Whether an area is made of shapes.

    Raises:
        LabelError: there is no such file.
    """
    return geojson_footprints.is_outline(uri) or vectors.is_vector(uri)


def drawn(scene: Scene, uri: str, data: Data) -> Shapes:
    """The shapes of an area, in pixels of the scene; kept for the next window.

    Raises:
        LabelError: they cannot be read or brought onto the scene's grid.
    """
    version = "" if geojson_footprints.is_outline(uri) else vectors.version(uri)
    scale = slide_levels.scale(scene, data.reading)
    key = (uri, version, scene.grid, scene.origin, scale)
    return _shapes.get(key, lambda: shapes.as_area(uri, scene.grid, scene.origin, scale))


_shapes: Memory[Shapes] = Memory(_MAX_SHAPES, lambda found: 1 + len(found.geometry))
