"""Bare lists of GeoJSON features, as slide tools write them, read as feature collections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from pipeline.errors import LabelError

_GEOMETRIES: Final = (
    *("Point", "MultiPoint", "LineString", "MultiLineString"),
    *("Polygon", "MultiPolygon", "GeometryCollection"),
)
_BETWEEN: Final = re.compile(r"\s*([,\]])\s*")
_SPACE: Final = re.compile(r"\s*")


def as_collection(uri: str, content: bytes) -> bytes:
    """A list of features or geometries as a feature collection, whose one layer is called `shapes`.

    Raises:
        LabelError: it is no JSON, or holds something else.
    """
    try:
        features = list(_features(uri, content.decode("utf-8-sig")))
    except ValueError as error:  # UnicodeDecodeError, too
        raise LabelError(f"{uri}: cannot be read ({error})", "make or fetch it again") from error
    return '{{"type":"FeatureCollection","name":"shapes","features":[{}]}}'.format(",".join(features)).encode()


def _features(uri: str, text: str) -> Iterator[str]:
    """The text of each feature; one element at a time is parsed."""
    decoder = json.JSONDecoder()
    position = _after(_SPACE, text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        return
    number = 0
    while True:
        number += 1
        element, end = decoder.raw_decode(text, position)
        kind = element.get("type") if isinstance(element, dict) else None
        if kind == "Feature":
            yield text[position:end]
        elif kind in _GEOMETRIES:
            yield f'{{"type":"Feature","properties":{{}},"geometry":{text[position:end]}}}'
        else:
            raise LabelError(
                f"{uri}: a list of GeoJSON features, but its element {number} is {text[position:end][:40]}",
                "export the shapes as GeoJSON features",
            )
        between = _BETWEEN.match(text, end)
        if between is None:
            raise ValueError(f"no comma behind element {number} of the list")
        if between[1] == "]":
            return
        position = between.end()


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return position if found is None else found.end()
