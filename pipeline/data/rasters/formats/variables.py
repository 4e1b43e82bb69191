"""One variable of a NetCDF or HDF5 file as a raster: selection, orientation, scaling.

What attributes mean is said by the CF conventions, chapters 2 and 8: https://cfconventions.org.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader, resampling
from pipeline.data.rasters.dtypes import Rule, is_measured
from pipeline.data.rasters.formats import attributes, coordinates
from pipeline.data.rasters.formats.arrays import IMAGE_KEYS, LABEL_KEYS, as_bands
from pipeline.data.rasters.formats.attributes import Meaning, Variable
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

_MAX_BANDS: Final = 10_000
_SHOWN: Final = 20


@dataclass(frozen=True)
class Axes:
    """Roles of the dimensions, as positions in the variable's shape.

    Attributes:
        rows, cols: of a picture.
        slices: of a stack; None without.
        bands: all others, of which every combination is a band.
        upside_down: rows are stored from the south.
    """

    rows: int
    cols: int
    slices: int | None
    bands: tuple[int, ...]
    upside_down: bool = False


@dataclass(frozen=True)
class VariableReader(raster_reader.ReaderBase):
    """A variable as a raster."""

    uri: str
    info: RasterInfo
    variable: Variable
    axes: Axes
    meaning: Meaning
    rule: Rule

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Measured values, and where any were measured."""
        pixels, valid, missing = self.measured(window, bands)
        return Pixels(pixels, valid & is_measured(missing, self.rule))

    def measured(
        self, window: Window, bands: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
        """Measured values [C, h, w], where they are allowed [h, w], and which of them are fill values [C, h, w]."""
        with raster_reader.parsing(self.uri):
            if bands is None:
                return self.meaning(self._stored(window, (slice(None),) * len(self.axes.bands)))
            sizes = [self.variable.shape[axis] for axis in self.axes.bands]
            chosen = [np.unravel_index(band, sizes) if sizes else () for band in bands]
            parts = [self._stored(window, tuple(slice(int(i), int(i) + 1) for i in where)) for where in chosen]
            return self.meaning(np.concatenate(parts))

    def _stored(self, window: Window, bands: tuple[slice, ...]) -> NDArray[Any]:
        """Values [C, h, w] as they are stored."""
        axes = self.axes
        if axes.upside_down:
            window = window._replace(row=self.height - window.row - window.height)
        where: dict[int, Any] = dict(zip((axes.rows, axes.cols), raster_reader.cut(window), strict=True))
        where |= dict(zip(axes.bands, bands, strict=True))
        if axes.slices is not None:
            where[axes.slices] = slice(window.slice, window.slice + 1)
        values = self.variable.values(tuple(where[axis] for axis in range(len(self.variable.shape))))
        order = (*(() if axes.slices is None else (axes.slices,)), *axes.bands, axes.rows, axes.cols)
        pixels = values.transpose(order).reshape(-1, window.height, window.width)
        return np.ascontiguousarray(pixels[:, ::-1] if axes.upside_down else pixels)

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Everywhere: what is hidden are fill values."""
        return np.ones((window.height, window.width), np.bool_)

    def close(self) -> None:
        """Nothing stays open."""


@dataclass(frozen=True)
class SeveralReader(raster_reader.ReaderBase):
    """Variables on one grid as the bands of one raster."""

    info: RasterInfo
    parts: tuple[VariableReader, ...]
    rule: Rule

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Measured values [C, h, w], and where they were measured."""
        own = [(part, number) for part in self.parts for number in range(part.num_bands)]
        if bands is None:
            found = [part.measured(window) for part in self.parts]
        else:
            found = [part.measured(window, [number]) for part, number in (own[band] for band in bands)]
        pixels, valid = resampling.merged([Pixels(values, allowed) for values, allowed, _ in found])
        missing = np.concatenate([absent for _, _, absent in found])
        return Pixels(pixels.astype(self.dtype, copy=False), valid & is_measured(missing, self.rule))

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Everywhere: what is hidden are fill values."""
        return np.ones((window.height, window.width), np.bool_)

    def close(self) -> None:
        """Nothing stays open."""


def open_variables(
    uri: str, found: Sequence[Variable], kind: str, *, label: bool, reading: Reading
) -> VariableReader | SeveralReader:
    """The variable that is meant, or several, as a raster.

    Args:
        uri: for messages.
        found: all of the file.
        kind: what the file is.
        label: the variable for labels is meant.
        reading: which variables, and which dimension is slices.

    Raises:
        SceneError: none, or one of several, is meant; or it is no image.
    """
    names = reading.label_variable if label else reading.variable
    if names is None or isinstance(names, str):
        return _open(uri, _meant(uri, found, names, label), found, kind, reading)
    parts = tuple(_open(uri, _meant(uri, found, name, label), found, kind, reading) for name in names)
    first = parts[0].info
    for part in parts[1:]:
        size = "" if part.slices == first.slices else f"{first.slices} slices against {part.slices}"
        if difference := first.grid.difference(part.grid) or size:
            raise SceneError(
                f"{uri}: {names[0]} and {part.variable.name} do not lie on one grid: {difference}",
                "name variables on one grid in data.reading.variable",
            )
    bands = tuple(name for part in parts for name in _unique(part))
    dtype = str(np.result_type(*(part.dtype for part in parts)))
    nodata = tuple(value for part in parts for value in part.info.nodata)
    said = "; ".join([first.format, *(part.info.format.removeprefix(f"{kind} ") for part in parts[1:])])
    info = replace(first, bands=bands, dtype=dtype, format=said, nodata=nodata)
    return SeveralReader(info, parts, reading.nodata_rule)


def _unique(part: VariableReader) -> tuple[str, ...]:
    """Names of a variable's bands that no other variable has."""
    names, own = part.info.bands, part.variable.name.rpartition("/")[2]
    return names if names == (own,) else tuple(f"{own}_{name}" for name in names)


def _open(uri: str, variable: Variable, found: Sequence[Variable], kind: str, reading: Reading) -> VariableReader:
    axes = _axes(uri, variable, found, reading.stack)
    height, width = variable.shape[axes.rows], variable.shape[axes.cols]
    slices = 1 if axes.slices is None else variable.shape[axes.slices]
    num_bands = math.prod(variable.shape[axis] for axis in axes.bands)
    raster_reader.check_size(uri, height, width, slices, reading)
    if not 1 <= num_bands <= _MAX_BANDS:
        raise SceneError(
            f"{uri}: {variable.name} has {num_bands} bands", "let a dimension be slices: data.reading.stack"
        )
    tile = variable.block[axes.rows], variable.block[axes.cols]
    raster_reader.check_block(uri, *tile, math.prod(variable.block) // math.prod(tile) * variable.dtype.itemsize)
    meaning = attributes.meaning(variable)
    grid, note = coordinates.placed(variable, axes.rows, axes.cols, found)
    if grid.transform[4] > 0 and grid.crs is not None:
        # As GDAL shows it, and as labels drawn over that will be.
        axes, grid = replace(axes, upside_down=True), coordinates.north_up(grid)
        note += ", turned north up"
    stored = f"u{variable.dtype.itemsize}" if meaning.unsigned else variable.dtype.newbyteorder("=")
    said = f"{kind} {variable.name}[{','.join(name or '?' for name in variable.dims)}]"
    if meaning.scaled:
        said += f", {np.dtype(stored)} × {meaning.slope:g} + {meaning.intercept:g}"
    names = _band_names(variable, axes, num_bands)
    dtype = "float32" if meaning.scaled else str(np.dtype(stored))
    nodata = (meaning.nodata(np.dtype(stored)),) * num_bands
    info = RasterInfo(grid, names, dtype, slices, tile, ((height, width),), said + note, nodata)
    return VariableReader(uri, info, variable, axes, meaning, reading.nodata_rule)


def _meant(uri: str, found: Sequence[Variable], name: str | None, label: bool) -> Variable:
    key = "label_variable" if label else "variable"
    by_name = {variable.name: variable for variable in found}
    fitting = [variable for variable in found if _is_image(variable)]
    names = ", ".join(variable.name for variable in fitting[:_SHOWN]) or "none of two dimensions"
    if name is not None:
        if name not in by_name or by_name[name].dtype.kind not in "buif" or len(by_name[name].shape) < 2:
            raise SceneError(
                f"{uri}: it has no variable {name!r} that is an image; it has {names}", f"set data.reading.{key}"
            )
        return by_name[name]
    spoken_of = {
        part for v in found for key in ("coordinates", "bounds", "climatology") for part in v.text(key).split()
    }
    fitting = [v for v in fitting if v.name.rpartition("/")[2] not in spoken_of] or fitting
    usual = [v for v in fitting if v.name in (LABEL_KEYS if label else IMAGE_KEYS)]
    if len(fitting) != 1 and len(usual) != 1:
        raise SceneError(f"{uri}: it has the variables {names}", f"name one: data.reading.{key}")
    return usual[0] if len(usual) == 1 else fitting[0]


def _is_image(variable: Variable) -> bool:
    """Numbers over at least two dimensions, but not places themselves."""
    wide = sum(size > 1 for size in variable.shape) >= 2
    return wide and variable.dtype.kind in "buif" and coordinates.direction(variable) == ""


def _axes(uri: str, variable: Variable, found: Sequence[Variable], stack: str | None) -> Axes:
    count = len(variable.shape)
    facing = [coordinates.facing(variable, axis, found) for axis in range(count)]
    rows, cols = count - 2, count - 1
    if facing.count("y") == facing.count("x") == 1:
        rows, cols = facing.index("y"), facing.index("x")
    elif count == 3 and not any(variable.dims):
        (rows, cols) = (1, 2) if as_bands(variable.shape)[0] == 0 else (0, 1)
    rest = tuple(axis for axis in range(count) if axis not in (rows, cols))
    if stack is None:
        return Axes(rows, cols, None, rest)
    names = [variable.dims[axis].rpartition("/")[2] for axis in rest]
    if stack not in names:
        raise SceneError(
            f"{uri}: {variable.name} has no dimension {stack!r} besides rows and columns",
            f"data.reading.stack is one of: {', '.join(names) or '(it has two dimensions only)'}",
        )
    along = rest[names.index(stack)]
    return Axes(rows, cols, along, tuple(axis for axis in rest if axis != along))


def _band_names(variable: Variable, axes: Axes, count: int) -> tuple[str, ...]:
    if count == 1:
        return (variable.name.rpartition("/")[2],)
    wide = [variable.dims[axis].rpartition("/")[2] for axis in axes.bands if variable.shape[axis] > 1]
    name = (wide[0] if len(wide) == 1 else "") or "band"
    return tuple(f"{name}_{number}" for number in range(1, count + 1))
