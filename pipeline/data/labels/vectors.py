"""Vector files: read and repair their geometries and needed attributes, with a spatial index."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.labels import geojson_lists, geometry_repair, nested_attributes
from pipeline.data.labels.lru_cache import Memory
from pipeline.data.labels.nested_attributes import Value
from pipeline.data.rasters.grids import Grid
from pipeline.errors import LabelError

Near = Callable[[str | None], Sequence[NDArray[np.float64]]]

_BEGINNINGS: Final = {b"SQLite format 3\0": "GPKG", b"fgb\x03": "FlatGeobuf", b"\x00\x00\x27\x0a": "ESRI Shapefile"}
_DRIVERS: Final = ("GeoJSON", "GeoJSONSeq", "GPKG", "FlatGeobuf", "ESRI Shapefile")
_ENDINGS: Final = (".geojson", ".json", ".geojsonl", ".gpkg", ".fgb", ".shp")
_INDEXED: Final = ("GPKG", "FlatGeobuf")
_LARGE_BYTES: Final = 256 << 20
_HEAD_BYTES: Final = 64
_PROGRAM_BYTES: Final = 1 << 20
_BESIDE_A_SHAPEFILE: Final = (".shx", ".dbf", ".prj", ".cpg")
# A JSON file can also be a program for GDAL, which reads and writes other files.
_PROGRAM: Final = b"gdal_streamed_alg"
_FLAT_TYPES: Final = 7  # points, lines, polygons, their multiples and collections; no curves
# Longitudes of -180..180 and of 0..360, and shapes that reach across the date line; a pole that is a little off.
_MAX_LONGITUDE: Final = 540.0
_MAX_LATITUDE: Final = 90.01
_MAX_VERTICES: Final = 20_000_000
_DAMAGED: Final = "the file is damaged or is no GeoJSON, GeoPackage, Shapefile or FlatGeobuf; make or fetch it again"

# The content counts, here as for rasters.
warnings.filterwarnings("ignore", message=".*non conformant file extension", category=RuntimeWarning)


@dataclass(frozen=True)
class FeatureTable:
    """The shapes of one file.

    Attributes:
        uri: where they are from.
        crs: of the coordinates; None if the file does not say.
        geometry: valid shapely geometries [N], none of them empty.
        columns: values of the attributes that were asked for, each [N].
        repaired: [N]; True where the file's geometry was invalid.
        num_empty: shapes without any geometry, or with nothing left of it; they are not in the others.
        tree: where the geometries lie.
    """

    uri: str
    crs: str | None
    geometry: NDArray[np.object_]
    columns: dict[str, list[Value]]
    repaired: NDArray[np.bool_]
    num_empty: int
    tree: shapely.STRtree

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of all shapes; not a number without any."""
        if not len(self.geometry):
            return math.nan, math.nan, math.nan, math.nan
        left, bottom, right, top = shapely.total_bounds(self.geometry).tolist()
        return left, bottom, right, top

    @cached_property
    def beyond_degrees(self) -> tuple[float, float] | None:
        """A coordinate x, y that is no longitude and latitude; None if there is none."""
        left, bottom, right, top = self.bounds
        if not (left < -_MAX_LONGITUDE or right > _MAX_LONGITUDE or bottom < -_MAX_LATITUDE or top > _MAX_LATITUDE):
            return None
        x, y = shapely.get_coordinates(self.geometry).T
        wrong = (np.abs(x) > _MAX_LONGITUDE) | (np.abs(y) > _MAX_LATITUDE)
        return float(x[wrong][0]), float(y[wrong][0])


def is_vector(uri: str) -> bool:
    """Whether a label is a vector file: by its first bytes, of a remote file by its name.

    Raises:
        LabelError: there is no such file.
    """
    return _is_vector(uri, version(uri))


def version(uri: str) -> str:
    """Changes when a local file is replaced; remote files are taken to stay as they are.

    Raises:
        LabelError: there is no such file.
    """
    if not store.is_local(uri):
        return ""
    try:
        seen = Path(store.gdal_path(uri)).stat()
    except FileNotFoundError as error:
        raise LabelError(f"{uri}: no such file", "check the path") from error
    return f"{seen.st_size}-{seen.st_mtime_ns}"


def load(uri: str, columns: Sequence[str], near: Near | None = None, crs: str | None = None) -> FeatureTable:
    """All shapes of a file, with these attributes; kept for the next call. `crs` replaces what the file says.

    Of a large file with an index of its own only the shapes near a place are read, and not kept: `near` gives the
    bounds of that place in the file's CRS (left, bottom, right, top), none or infinite ones for all.

    Raises:
        LabelError: it is missing, damaged, has several layers, curves, or not these attributes.
    """
    seen = version(uri)
    if near is not None and _is_large(uri, seen):
        return _load(uri, columns, near, crs)
    return _tables.get((uri, seen, tuple(columns), crs), lambda: _load(uri, columns, None, crs))


def check(uri: str, columns: Sequence[str]) -> None:
    """Look at a file's header.

    Raises:
        LabelError: as for `load`, as far as the header shows.
    """
    with _translated(uri):
        _header(uri, columns)


@lru_cache(maxsize=4096)
def _is_vector(uri: str, _: str) -> bool:
    if not store.is_local(uri):
        return PurePosixPath(uri).suffix.lower() in _ENDINGS
    if Path(store.gdal_path(uri)).is_dir():
        return False  # DICOM or Zarr
    return _driver(store.read_start(uri, _HEAD_BYTES)) is not None


def _driver(head: bytes) -> str | None:
    """The format whose signature a file begins with."""
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    text = _text(head[:_HEAD_BYTES])
    return "GeoJSON" if text.startswith((b"{", b"[")) else None


def _text(content: bytes) -> bytes:
    """JSON without what may stand before it."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e")


@lru_cache(maxsize=4096)
def _is_large(uri: str, _: str) -> bool:
    """Whether a file has a spatial index and is too large to keep in every process."""
    path, head = _opened(uri)
    return _driver(head) in _INDEXED and path.stat().st_size > _LARGE_BYTES


def _opened(uri: str) -> tuple[Path, bytes]:
    """A local file with the content, and its beginning.

    Raises:
        LabelError: there is no such file, or nothing in it.
    """
    try:
        path = Path(store.gdal_path(uri)) if store.is_local(uri) else store.local_file(uri)
        with path.open("rb") as file:
            head = file.read(_PROGRAM_BYTES)
    except FileNotFoundError as error:
        raise LabelError(f"{uri}: no such file", "check the path") from error
    if not head:
        raise LabelError(f"{uri}: the file is empty", "make or fetch it again")
    return path, head


def _load(uri: str, columns: Sequence[str], near: Near | None, given: str | None) -> FeatureTable:
    with _translated(uri):
        source, layer, crs, fields = _header(uri, columns)
        crs = given or crs
        names = {name: str(nested_attributes.field_of(name, fields)) for name in columns}
        wkb, found = _read(source, layer, sorted(set(names.values())), [] if near is None else near(crs))
    return table(
        uri, crs, wkb, {name: nested_attributes.values(uri, name, field, found[field]) for name, field in names.items()}
    )


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, UnicodeError) as error:
        raise LabelError(f"{uri}: cannot be read ({' '.join(str(error).split())})", _DAMAGED) from error


def _header(uri: str, columns: Sequence[str]) -> tuple[str | bytes, str, str | None, tuple[str, ...]]:
    """Source to open, its layer, the CRS, and the names of the attributes."""
    source = _source(uri)
    layer = _layer(uri, source)
    info = pyogrio.read_info(source, layer=layer)
    if info["driver"] not in _DRIVERS:
        raise LabelError(f"{uri}: a {info['driver']} file is not read as a label", "convert it, to GeoPackage say")
    fields = tuple(map(str, info["fields"]))
    missing = sorted(name for name in columns if nested_attributes.field_of(name, fields) is None)
    if missing:
        raise LabelError(
            f"{uri}: its shapes have no attribute {', '.join(missing)}; they have {', '.join(fields) or 'none'}",
            "change data.label.attribute or data.label.order; a dot reaches into an attribute that is an object, as in "
            "classification.name",
        )
    crs = info["crs"] or None
    Grid(1, 1, crs).geographic  # noqa: B018 - a CRS that cannot be understood is an error of this file
    return source, layer, crs, fields


def _read(
    source: str | bytes, layer: str, columns: Sequence[str], boxes: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[Any], dict[str, list[Value]]]:
    """Geometries [N] as WKB and attributes, in the order of the file; with boxes, those that may touch one."""
    options = {"layer": layer, "columns": list(columns), "force_2d": True, "return_fids": True}
    finite = [box for box in boxes if np.isfinite(box).all()]
    if not finite or len(finite) < len(boxes):
        parts = [pyogrio.raw.read(source, **options)]
    else:
        parts = [pyogrio.raw.read(source, bbox=tuple(box.tolist()), **options) for box in finite]
    _, first = np.unique(np.concatenate([part[1] for part in parts]), return_index=True)
    wkb = np.concatenate([part[2] for part in parts])[first]
    names = [str(name) for name in parts[0][0]["fields"]]
    fields = [np.concatenate([part[3][i] for part in parts])[first] for i in range(len(names))]
    return wkb, dict(zip(names, map(_plain, fields), strict=True))


def _source(uri: str) -> str | bytes:
    """Path for GDAL: a local file, or for a remote Shapefile all its files as one."""
    path, head = _opened(uri)
    driver = _driver(head)
    if driver is None or (driver == "GeoJSON" and _PROGRAM in head):
        raise LabelError(f"{uri}: cannot be read (it is neither vector nor raster)", _DAMAGED)
    if driver == "GeoJSON" and _text(head).startswith(b"["):
        return geojson_lists.as_collection(uri, path.read_bytes())
    return str(path) if store.is_local(uri) or driver != "ESRI Shapefile" else _zipped(uri, path)


def _zipped(uri: str, path: Path) -> bytes:
    """A remote Shapefile and the files that belong to it."""
    base = uri[: -len(PurePosixPath(uri).suffix)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.write(path, "shapes.shp")
        for ending in _BESIDE_A_SHAPEFILE:
            if store.exists(base + ending):
                archive.writestr("shapes" + ending, store.read_bytes(base + ending))
    return out.getvalue()


def _layer(uri: str, source: str | bytes) -> str:
    """The one layer that has shapes."""
    names = [str(name) for name, kind in pyogrio.list_layers(source) if kind is not None]
    if len(names) != 1:
        raise LabelError(
            f"{uri}: has {len(names)} layers with shapes ({', '.join(names)}), not one",
            "keep one, for instance with `ogr2ogr labels.gpkg FILE LAYER`",
        )
    return names[0]


def table(uri: str, crs: str | None, wkb: NDArray[Any], columns: dict[str, list[Value]]) -> FeatureTable:
    """Shapes as they were delivered, as WKB [N], made valid.

    Raises:
        LabelError: some are curves or cannot be understood.
    """
    geometry = shapely.force_2d(shapely.from_wkb(wkb, on_invalid="fix"))
    curves = int((shapely.get_type_id(geometry) > _FLAT_TYPES).sum())
    unread = sum(delivered is not None and made is None for delivered, made in zip(wkb, geometry, strict=True))
    if curves or unread:
        raise LabelError(
            f"{uri}: {curves} of {len(wkb)} shapes are curves, {unread} cannot be understood",
            "convert them, for instance with `ogr2ogr -nlt CONVERT_TO_LINEAR`",
        )
    there = np.isfinite(shapely.bounds(geometry)).all(axis=1)  # empty and missing ones have no bounds
    invalid = there & ~shapely.is_valid(geometry)
    if invalid.any():
        geometry[invalid] = geometry_repair.repaired(uri, geometry, np.flatnonzero(invalid))
    there &= ~shapely.is_empty(geometry)
    kept = np.flatnonzero(there)
    return FeatureTable(
        uri=uri,
        crs=crs,
        geometry=geometry[kept],
        columns={name: [values[i] for i in kept] for name, values in columns.items()},
        repaired=invalid[kept],
        num_empty=len(wkb) - len(kept),
        tree=shapely.STRtree(geometry[kept]),
    )


def _plain(values: NDArray[Any]) -> list[Value]:
    """A column as Python values; what is missing is None, and whole numbers are int although gaps made them floats."""
    out: list[Value] = []
    for value in values.tolist():
        if value is None or value != value:
            out.append(None)
        elif isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
            out.append(int(value))
        else:
            out.append(value if isinstance(value, int | float | str) else str(value))
    return out


def _vertices(table: FeatureTable) -> int:
    return int(shapely.get_num_coordinates(table.geometry).sum())


_tables: Memory[FeatureTable] = Memory(_MAX_VERTICES, _vertices)
