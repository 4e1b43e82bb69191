"""Footprints of the scenes of `factory.world`, for the tests of `data.footprint`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.features import geometry_mask
from shapely.geometry import mapping

from pipeline.data.chips import raw_chip
from pipeline.data.rasters.grids import project
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data
from tests.data.labels.places import geojson, in_utm
from tests.factory import TRANSFORM, UTM

DISC = shapely.Point(40, 30).buffer(25)
ALL = Window(0, 0, 96, 96)
PATTERN = {"data.footprint": "valid/{id}.geojson"}


def transform_of(number: int) -> tuple[float, ...]:
    """Where scene `number` of `world` lies."""
    return (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])


def drawn(folder: Path, *numbers: int, shape: Any = DISC) -> Path:
    """Footprints of these scenes, as vector files; the shape is in their pixels."""
    (folder / "valid").mkdir(exist_ok=True)
    for number in numbers:
        geojson(folder / "valid" / f"s{number}.geojson", in_utm([shape], transform_of(number)), UTM)
    return folder


def inside(shape: Any = DISC, size: int = 96) -> np.ndarray:
    """What GDAL burns of a shape in pixels, at once."""
    return np.asarray(geometry_mask([shape], (size, size), rasterio.Affine.identity(), invert=True))


def valid_of(one: Scene, data: Data, window: Window = ALL) -> np.ndarray:
    return raw_chip.pixels(one, window, data=data)[1]


def items(folder: Path, *geometries: Any) -> dict[str, Any]:
    """A STAC item collection of the first scenes, and what a recipe says to have it used."""
    features = [
        {
            "type": "Feature",
            "id": f"s{number}",
            "geometry": geometry,
            "assets": {"image": {"href": f"images/s{number}.tif", "roles": ["data"]}},
        }
        for number, geometry in enumerate(geometries)
    ]
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return {"data.images": None, "data.scenes": "items.json", "data.footprint": "stac"}


def in_degrees(shape: Any, number: int) -> dict[str, Any]:
    """A shape in pixels of a scene, as the geometry of a STAC item."""
    (utm,) = in_utm([shape], transform_of(number))
    there = shapely.transform(utm, lambda p: np.column_stack(project(p[:, 0], p[:, 1], UTM, "EPSG:4326")))
    return json.loads(json.dumps(mapping(there)))
