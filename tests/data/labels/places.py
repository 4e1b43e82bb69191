"""Scenes and label files for the tests of labels: a small world whose shapes are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.recipe.data import Data
from tests.factory import TRANSFORM, UTM

TWO = [{"name": "ground"}, {"name": "house"}]


def section(**settings: Any) -> Data:
    return Data(**{"root": ".", "images": "*", "labels": "*", "classes": TWO, **settings})


def setup(**settings: Any) -> tuple[Classes, Data]:
    data = section(**settings)
    return Classes.from_section(data), data


def scene(label: Path | None, height: int = 64, width: int = 80, **fields: Any) -> Scene:
    """A scene of this size whose label is this file; in UTM with pixels of 10 m unless `crs` and `transform` say."""
    values = {"crs": UTM, "transform": TRANSFORM, **fields}
    return Scene(
        "a", "image.tif", None if label is None else str(label), "train", "a", height, width, stamp="", **values
    )


def whole(place: Scene) -> Window:
    return Window(0, 0, place.height, place.width)


def geojson(path: Path, shapes: list[Any], crs: str | None = None, **columns: list[Any]) -> Path:
    """Write shapely geometries (or None) with attributes."""
    features = [
        {
            "type": "Feature",
            "geometry": None if shape is None else shapely.geometry.mapping(shape),
            "properties": {name: values[i] for name, values in columns.items()},
        }
        for i, shape in enumerate(shapes)
    ]
    tree: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is not None:
        tree["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(tree))
    return path


def in_utm(shapes: list[Any], transform: tuple[float, ...] = TRANSFORM) -> list[Any]:
    """Shapes given in pixels, in the coordinates of a scene."""
    a, b, c, d, e, f = transform

    def there(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        return np.column_stack((a * x + b * y + c, d * x + e * y + f))

    return [shapely.transform(shape, there) for shape in shapes]


def vector(path: Path, shapes: list[Any], crs: str | None, **columns: list[Any]) -> Path:
    """Write any vector format by the file's ending."""
    names = list(columns)
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=[np.array(columns[n]) for n in names],
        fields=names,
        geometry_type="Unknown" if path.suffix != ".shp" else "Polygon",
        crs=crs,
    )
    return path
