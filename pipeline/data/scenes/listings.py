"""Lists of scenes: tables in CSV or Parquet, and STAC item collections."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.data.scenes import csv_tables, geojson_footprints
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import ManifestError
from pipeline.uris import FILE_SEPARATOR

_PARQUET: Final = b"PAR1"
_SEPARATOR: Final = ";"
_SHOWN: Final = 8
_FILES: Final = ("label", "footprint")
"""Columns of a table that name further files of a scene."""


def read(uri: str, root: str, assets: Iterable[str] | None = None, *, geometry: bool = False) -> list[SceneFiles]:
    """The scenes of a list, as they come. What kind of list it is, its content says.

    Args:
        uri: of the list.
        root: paths in a table are relative to it; those in a STAC collection are relative to the collection.
        assets: of STAC items, the keys of the image's files; by default the only asset with the role `data`.
        geometry: of STAC items, their geometry is the footprint; a table has a column of that name.

    Raises:
        ManifestError: there is no such list, it cannot be read, or rows lack what is needed; all are named.
    """
    try:
        content = store.read_bytes(uri)
    except FileNotFoundError:
        raise ManifestError(f"the list of scenes {uri} does not exist", "correct data.scenes") from None
    if content.startswith(_PARQUET):
        return _from_table(_parquet(content, uri), uri, root)
    text = csv_tables.decoded(content, uri, "no list of scenes: neither Parquet nor text in UTF-8")
    if text.lstrip().startswith("{"):
        return _from_stac(_json(text, uri), uri, list(assets) if assets is not None else None, geometry)
    return _from_table(_csv(text, uri), uri, root)


def _parquet(content: bytes, uri: str) -> list[dict[str, Any]]:
    try:
        return list(pq.read_table(io.BytesIO(content)).to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{uri}: the Parquet file cannot be read ({error})", "make or fetch it again") from error


def _csv(text: str, uri: str) -> list[dict[str, Any]]:
    table = csv_tables.parsed(text, uri)
    if table.ragged:
        raise ManifestError(
            f"{uri}: lines with more or fewer values than the header: {', '.join(map(str, table.ragged[:_SHOWN]))}",
            "put values that hold commas into quotes",
        )
    return [row for _, row in table.rows]


def _from_table(rows: list[dict[str, Any]], uri: str, root: str) -> list[SceneFiles]:
    columns = set().union(*rows) if rows else set()
    missing = sorted({"id", "image"} - columns)
    if missing:
        there = ", ".join(sorted(map(str, columns))) or "nothing"
        raise ManifestError(
            f"{uri}: the column{'s' if len(missing) > 1 else ''} {' and '.join(missing)} missing; it has {there}",
            "a list of scenes has the columns id and image, and label if there are labels",
        )
    listed, problems = [], []
    for number, row in enumerate(rows, 1):
        i, image = _cell(row.get("id")), _cell(row.get("image"))
        if not i or not image:
            problems.append(f"row {number} has no {'id' if not i else 'image'}")
            continue
        if "\n" in image:
            problems.append(f"row {number}: a line end in the path {image!r}")
            continue
        uri_of_image = FILE_SEPARATOR.join(store.join(root, part.strip()) for part in image.split(_SEPARATOR))
        cells = {key: _cell(row.get(key)) for key in _FILES}
        others = {key: store.join(root, cell) if cell else None for key, cell in cells.items()}
        listed.append(SceneFiles(i, uri_of_image, **others))
    return _unless(problems, uri, "give every scene an id and an image", listed)


def _cell(value: Any) -> str:
    """A cell as text: "" where it is empty, null or not a number; whole numbers without a point."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _json(text: str, uri: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{uri} is no JSON: {error}", "make or fetch it again") from error


def _from_stac(tree: Any, uri: str, keys: list[str] | None, geometry: bool) -> list[SceneFiles]:
    """Items of a STAC item collection (https://github.com/radiantearth/stac-api-spec, fragments/itemcollection)."""
    items = [tree] if tree.get("type") == "Feature" else tree.get("features")
    if not isinstance(items, list) or not items:
        raise ManifestError(f"{uri} is no STAC item collection: it has no features", "save the items of a search")
    folder = uri.rpartition("/")[0]
    listed: list[SceneFiles] = []
    problems: list[str] = []
    bent: list[str] = []
    for number, item in enumerate(items, 1):
        i = _cell(item.get("id")) if isinstance(item, dict) else ""
        if not i:
            problems.append(f"item {number} {'has no id' if isinstance(item, dict) else f'is {item!r:.40}'}")
            continue
        try:
            files, label = _files(item, keys)
        except ManifestError as error:
            problems.append(f"item {i} has {error.message}")
            continue
        try:
            footprint = geojson_footprints.of_geojson(item.get("geometry")) if geometry else None
        except ManifestError as error:
            bent.append(f"item {i} has {error.message}")
            continue
        paths = tuple(_path(href, folder) for href in files)
        label_uri = None if label is None else _path(label, folder)
        listed.append(SceneFiles(i, FILE_SEPARATOR.join(paths), label_uri, footprint=footprint))
    _unless(bent, uri, "correct them, or do without data.footprint: stac", listed)
    return _unless(problems, uri, "name the assets that hold the image's bands in data.assets", listed)


def _files(item: Mapping[str, Any], keys: list[str] | None) -> tuple[list[str], str | None]:
    """URI of an item's image, and of its label if it has one.

    Raises:
        ManifestError: it does not say; the message is what an item has.
    """
    given = item.get("assets")
    assets = {str(key): asset for key, asset in given.items() if asset} if isinstance(given, dict) else {}
    chosen = keys if keys is not None else _with_role(assets, "data")
    lacking = [key for key in chosen if key not in assets]
    if lacking or not chosen or (keys is None and len(chosen) > 1):
        what = f"no asset {', '.join(lacking)}" if lacking else f"{len(chosen) or 'no'} assets with the role data"
        raise ManifestError(f"{what}; there are {', '.join(sorted(assets)) or 'none'}")
    label = next(iter(_with_role(assets, "labels")), None)
    return [_href(assets, key) for key in chosen], None if label is None else _href(assets, label)


def _with_role(assets: Mapping[str, Any], role: str) -> list[str]:
    return [key for key, asset in assets.items() if isinstance(asset, dict) and role in _roles(asset)]


def _roles(asset: Mapping[str, Any]) -> list[Any]:
    roles = asset.get("roles")
    return roles if isinstance(roles, list) else [roles]


def _href(assets: Mapping[str, Any], key: str) -> str:
    href = assets[key].get("href") if isinstance(assets[key], dict) else None
    if not isinstance(href, str) or not href.strip():
        raise ManifestError(f"an asset {key} without an href")
    return href


def _path(href: str, folder: str) -> str:
    return store.join(folder, href.removeprefix("./"))


def _unless(problems: list[str], uri: str, hint: str, listed: list[SceneFiles]) -> list[SceneFiles]:
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ManifestError(f"{uri}:\n  " + "\n  ".join(problems[:_SHOWN]) + more, hint)
    return listed
