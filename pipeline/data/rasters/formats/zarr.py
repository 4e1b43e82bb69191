"""Zarr, and OME-Zarr with its levels: a local folder or an s3:// prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.dtypes import Rule, not_nodata
from pipeline.data.rasters.formats.arrays import as_bands
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading
from pipeline.store import settings

METADATA: Final = ("zarr.json", ".zarray", ".zgroup")
_MICROMETERS: Final = {
    "micrometer": 1.0,
    "micron": 1.0,
    "nanometer": 1e-3,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "angstrom": 1e-4,
}
_NAMES: Final = {"band": "c", "channel": "c", "bands": "c", "time": "t", "lat": "y", "lon": "x", "latitude": "y"}


@dataclass(frozen=True)
class ZarrReader(raster_reader.ReaderBase):
    """Arrays of the same axes, finest first; axes are letters of t, c, z, y, x."""

    uri: str
    arrays: tuple[Any, ...]
    axes: str
    info: RasterInfo
    fill: float | None
    rule: Rule

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered; not a number and the declared `_FillValue` are invalid."""
        rows, cols = raster_reader.cut(window)
        where: dict[str, Any] = {"t": 0, "z": window.slice, "c": slice(None), "y": rows, "x": cols}
        with raster_reader.parsing(self.uri):
            values = np.asarray(self.arrays[level][tuple(where[axis] for axis in self.axes)])
        left = [axis for axis in self.axes if axis in "cyx"]
        if "c" not in left:
            values, left = values[None], ["c", *left]
        pixels = np.ascontiguousarray(values.transpose([left.index(axis) for axis in "cyx"]))
        pixels = pixels.astype(self.dtype, copy=False)
        if bands is not None:
            pixels = pixels[list(bands)]
        valid = raster_reader.finite(pixels)
        measured = not_nodata(pixels, [self.fill] * len(pixels), self.rule)
        return Pixels(pixels, valid if measured is None else valid & measured)

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Everywhere: what is hidden are fill values."""
        return np.ones((window.height, window.width), np.bool_)

    def close(self) -> None:
        """Nothing stays open."""


def open_zarr(uri: str, *, label: bool, reading: Reading) -> ZarrReader:
    """Open an array, a group with one array, or an image of OME-Zarr.

    Raises:
        SceneError: several arrays or times, axes that are no image's, or damaged metadata.
    """
    zarr = raster_reader.library("zarr", extra="zarr", uri=uri)
    with raster_reader.parsing(uri):
        node = zarr.open(_store(zarr, uri), mode="r")
        attributes = dict(node.attrs)
        multiscale = _multiscale(attributes)
        if multiscale is not None:
            arrays = tuple(node[entry["path"]] for entry in multiscale["datasets"])
            axes = _axes_of(multiscale)
            scale = _spacing(multiscale, axes)
        else:
            arrays = (_only(uri, node),)
            axes, scale = _guess(arrays[0]), None
        return _reader(uri, arrays, axes, scale, {**attributes, **dict(arrays[0].attrs)}, reading)


def is_zarr(uri: str) -> bool:
    """Whether a folder or prefix holds Zarr metadata."""
    return any(store.exists(store.join(uri, name)) for name in METADATA)


def _store(zarr: Any, uri: str) -> Any:
    if store.is_local(uri):
        return store.gdal_path(uri)
    if store.is_web(uri):
        raise SceneError(f"{uri}: Zarr is read from folders and buckets only", "copy it to one")
    options = {**settings.s3_options(), "skip_instance_cache": True, "use_listings_cache": False}
    return zarr.storage.FsspecStore.from_url(uri, storage_options=options, read_only=True)


def _multiscale(attributes: Mapping[str, Any]) -> Any:
    """The first image of OME-Zarr 0.5 (inside `ome`) or older."""
    ome = attributes.get("ome", attributes)
    entries = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return entries[0] if entries else None


def _axes_of(multiscale: Mapping[str, Any]) -> str:
    axes = multiscale.get("axes") or ["t", "c", "z", "y", "x"]  # before version 0.3 always these
    return "".join(str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in axes)


def _spacing(multiscale: Mapping[str, Any], axes: str) -> tuple[float, float] | None:
    """Micrometres per pixel down and across at the finest level; None if it does not say."""
    steps = np.ones(len(axes))
    both = [multiscale.get("coordinateTransformations"), multiscale["datasets"][0].get("coordinateTransformations")]
    for transform in [t for ts in both for t in ts or ()]:
        if transform.get("type") == "scale":
            steps = steps * np.asarray(transform["scale"], float)
    units = [a.get("unit") if isinstance(a, Mapping) else None for a in multiscale.get("axes", [])]
    if not units:
        return None
    factors = [_MICROMETERS.get(str(units[axes.index(axis)])) for axis in "yx"]
    if factors[0] is None or factors[1] is None:
        return None
    return float(steps[axes.index("y")] * factors[0]), float(steps[axes.index("x")] * factors[1])


def _only(uri: str, node: Any) -> Any:
    if hasattr(node, "shape"):
        return node
    members = dict(node.arrays())
    if len(members) != 1:
        found = f"the arrays {', '.join(sorted(members)[:20])}" if members else "no arrays"
        raise SceneError(f"{uri}: a Zarr group with {found}", "name one array, such as image.zarr/0")
    return next(iter(members.values()))


def _guess(array: Any) -> str:
    """Axes by the names of the dimensions if these are known, else by the shape as for NumPy files."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if names:
        axes = "".join(str(_NAMES.get(str(name).lower(), str(name).lower())) for name in names)
        if len(axes) == array.ndim and {"y", "x"} <= set(axes) <= set("tczyx"):
            return axes
    if array.ndim == 2:
        return "yx"
    if array.ndim == 3:
        return "cyx" if as_bands(tuple(array.shape))[0] == 0 else "yxc"
    return str("?" * array.ndim)


def _reader(
    uri: str,
    arrays: tuple[Any, ...],
    axes: str,
    scale: tuple[float, float] | None,
    attributes: Mapping[str, Any],
    reading: Reading,
) -> ZarrReader:
    first = arrays[0]
    size = dict(zip(axes, first.shape, strict=False))
    if len(axes) != first.ndim or len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise SceneError(
            f"{uri}: an array of shape {first.shape} with the axes {axes}", "axes are some of t, c, z, y, x"
        )
    if size.get("t", 1) != 1:
        raise SceneError(f"{uri}: it has {size['t']} times", "name an array of one time")
    if first.dtype.kind not in "buifc":
        raise SceneError(f"{uri}: an array of {first.dtype}", "an image holds numbers")
    raster_reader.check_size(uri, size["y"], size["x"], size.get("z", 1), reading)
    chunk = dict(zip(axes, first.chunks, strict=True))
    others = int(np.prod([n for axis, n in chunk.items() if axis not in "yx"], dtype=object))
    raster_reader.check_block(uri, chunk["y"], chunk["x"], others * first.dtype.itemsize)
    levels = [dict(zip(axes, a.shape, strict=True)) for a in arrays if a.ndim == first.ndim and a.dtype == first.dtype]
    sizes = tuple((level["y"], level["x"]) for level in levels if level.get("z", 1) == size.get("z", 1))
    names = _band_names(attributes, size.get("c", 1))
    declared = attributes.get("_FillValue")
    fill = float(declared) if isinstance(declared, (int, float)) else None
    down, across = scale or (1.0, 1.0)
    grid = Grid(size["y"], size["x"], None, (across, 0.0, 0.0, 0.0, down, 0.0))
    kind = "OME-Zarr" if len(arrays) > 1 or scale is not None else "Zarr"
    info = RasterInfo(
        grid,
        names,
        str(first.dtype.newbyteorder("=")),
        size.get("z", 1),
        (chunk["y"], chunk["x"]),
        sizes,
        f"{kind} {axes}",
        (fill,) * len(names),
    )
    return ZarrReader(uri, arrays, axes, info, fill, reading.nodata_rule)


def _band_names(attributes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of the channels, where all have one of their own."""
    ome = attributes.get("ome", attributes)
    channels = (ome.get("omero") or {}).get("channels") or [] if isinstance(ome, Mapping) else []
    names = tuple(str(c["label"]) for c in channels if isinstance(c, Mapping) and c.get("label"))
    if len(names) == count and len(set(names)) == count:
        return names
    return tuple(f"band_{i}" for i in range(1, count + 1))
