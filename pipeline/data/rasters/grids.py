"""Grids: CRS, affine transform and size of a raster, and the difference of two grids."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import CRSError
from rasterio.warp import transform as project_points

from pipeline.data.rasters import gdal_env

Transform = tuple[float, float, float, float, float, float]

_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TOLERANCE_PIXELS: Final = 1e-3
_DEGREE_M: Final = 111_320.0


@dataclass(frozen=True)
class Grid:
    """Size in pixels, CRS (WKT or whatever PROJ understands; None without), and affine transform a, b, c, d, e, f.

    x = a * col + b * row + c and y = d * col + e * row + f, at the upper left corner of a pixel.
    """

    height: int
    width: int
    crs: str | None = None
    transform: Transform = _IDENTITY

    @property
    def georeferenced(self) -> bool:
        """False for scans and microscopy."""
        return self.crs is not None or self.transform != _IDENTITY

    def difference(self, other: Grid) -> str:
        """Describe the difference from another grid, with both values and a likely cause; empty if there is none.

        Where only one of the two is georeferenced, only their sizes are compared.
        """
        if (self.height, self.width) != (other.height, other.width):
            sizes = f"{self.width} × {self.height} pixels against {other.width} × {other.height}"
            return sizes + self._besides(other)
        if not (self.georeferenced and other.georeferenced):
            return ""
        if self.crs and other.crs and not gdal_env.same_crs(self.crs, other.crs):
            return f"{gdal_env.short_crs(self.crs)} against {gdal_env.short_crs(other.crs)}"
        if not (self.usable and other.usable):
            return f"a transform that places no pixel: {self.transform} against {other.transform}"
        shift = self._shift(other)
        if shift > _TOLERANCE_PIXELS:
            looks = self._explanation(other)
            return f"shifted by up to {shift:.3g} pixels{looks}: transform {self.transform} against {other.transform}"
        return ""

    def _besides(self, other: Grid) -> str:
        """Explanation of another size: another CRS, or pixels of another size; empty if neither is known."""
        if not (self.crs and other.crs and self.usable and other.usable):
            return ""
        if not gdal_env.same_crs(self.crs, other.crs):
            return f", {gdal_env.short_crs(self.crs)} against {gdal_env.short_crs(other.crs)}"
        sides = [tuple(f"{math.hypot(*grid.transform[k::3]):.6g}" for k in (0, 1)) for grid in (self, other)]
        return "" if sides[0] == sides[1] else ", of {} × {} against {} × {}".format(*sides[0], *sides[1])

    def _shift(self, other: Grid) -> float:
        """Largest distance of the corners of `other` from ours, in our pixels."""
        a, b, c, d, e, f = to_pixels(self.transform, other.transform)
        shifts = []
        for col, row in itertools.product((0, self.width), (0, self.height)):
            shifts.append(math.dist((col, row), (a * col + b * row + c, d * col + e * row + f)))
        return max(shifts)

    def _explanation(self, other: Grid) -> str:
        """The usual causes of a shift, in brackets; empty if it is none of them."""
        a, b, c, d, e, f = to_pixels(self.transform, other.transform)
        if a * e - b * d < 0:
            return " (one is a mirror image: rows that begin in the south?)"
        if abs(a - 1) + abs(b) + abs(d) + abs(e - 1) > _TOLERANCE_PIXELS / max(self.height, self.width):
            return ""  # the pixels themselves differ in size or direction
        if all(any(abs(abs(v) - half) < 0.01 for half in (0, 0.5)) for v in (c, f)):
            return " (half a pixel: one of them counts from the centres of pixels)"
        turn = 360 / math.hypot(self.transform[0], self.transform[3])
        if self.geographic and abs(abs(c) - turn) < 1 and abs(f) < 1:
            return " (360 degrees of longitude)"
        return ""

    @property
    def geographic(self) -> bool:
        """Whether coordinates are degrees of longitude and latitude."""
        return self.crs is not None and _is_geographic(self.crs)

    @property
    def usable(self) -> bool:
        """Whether the transform gives every pixel a place of its own."""
        a, b, _, d, e, _ = self.transform
        return all(map(math.isfinite, self.transform)) and a * e - b * d != 0

    def position(self, row: float, col: float) -> tuple[float, float]:
        """Coordinates x, y of a point given in pixels."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Row and column of a point given in coordinates; the opposite of `position`, for usable grids."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        return (a * (y - f) - d * (x - c)) / determinant, (e * (x - c) - b * (y - f)) / determinant

    def part(self, row: int, col: int, height: int, width: int) -> Grid:
        """The grid of a rectangle of our pixels."""
        a, b, _, d, e, _ = self.transform
        x, y = self.position(row, col)
        return replace(self, height=height, width=width, transform=(a, b, x, d, e, y))


def to_pixels(ours: Transform, theirs: Transform) -> Transform:
    """The affine transform from pixels of `theirs` to pixels of `ours`, in the same CRS: (col, row) to (col, row)."""
    a, b, c, d, e, f = ours
    ta, tb, tc, td, te, tf = theirs
    det = a * e - b * d
    # Offsets are subtracted before anything else: coordinates are large, their differences small.
    x, y = tc - c, tf - f
    return (
        (e * ta - b * td) / det,
        (e * tb - b * te) / det,
        (e * x - b * y) / det,
        (a * td - d * ta) / det,
        (a * te - d * tb) / det,
        (a * y - d * x) / det,
    )


def project(
    x: NDArray[np.float64], y: NDArray[np.float64], ours: str, theirs: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of points [N] in another CRS, infinite where it has none; longitude or easting first, always."""
    if len(x) == 0:
        return x, y
    there = _project(x, y, rasterio.CRS.from_user_input(ours), rasterio.CRS.from_user_input(theirs))
    return there[0], there[1]


def _project(x: NDArray[np.float64], y: NDArray[np.float64], ours: Any, theirs: Any) -> NDArray[np.float64]:
    """Points [2, N]. A single one without a place, such as the sky around the disc that a satellite sees, lets all of
    them fail: the others are found by halving."""
    try:
        return np.asarray(project_points(ours, theirs, x, y), np.float64)
    except gdal_env.READ_ERRORS:
        if len(x) == 1:
            return np.full((2, 1), np.inf)
        middle = len(x) // 2
        halves = (_project(x[part], y[part], ours, theirs) for part in (slice(middle), slice(middle, None)))
        return np.concatenate(list(halves), axis=1)


def pixel_size(grid: Grid) -> tuple[float, str] | None:
    """Side of a pixel and its unit: m, or "" where there is no CRS; of pixels that are no squares the side of one.

    Degrees are turned to metres at the centre of the grid. None without a transform.
    """
    if not grid.georeferenced or not grid.usable:
        return None
    a, b, _, d, e, _ = grid.transform
    side = math.sqrt(abs(a * e - b * d))
    if grid.crs is None:
        return side, ""
    if grid.geographic:
        _, latitude = grid.position(grid.height / 2, grid.width / 2)
        return side * _DEGREE_M * math.sqrt(max(math.cos(math.radians(latitude)), 0.0)), "m"
    factor = _metres(grid.crs)
    return None if factor is None else (side * factor, "m")


@lru_cache(maxsize=1024)
def _metres(crs: str) -> float | None:
    """Metres per unit of a CRS; None where that is unknown."""
    try:
        return float(rasterio.CRS.from_user_input(crs).linear_units_factor[1])
    except CRSError:
        return None


@lru_cache(maxsize=1024)
def _is_geographic(crs: str) -> bool:
    return bool(rasterio.CRS.from_user_input(crs).is_geographic)


@dataclass(frozen=True)
class RasterInfo:
    """Header of a raster; an alpha band is not counted as a band.

    Attributes:
        grid: of the finest level.
        bands: their names.
        dtype: of all bands.
        slices: of a volume; 1 of everything else.
        tile: height and width of an internal storage block.
        levels: height and width of every level, finest first.
        format: what kind of file it is, and how it is compressed, for people.
        nodata: declared value of each band, None where there is none; () where the format knows no such thing.
        alpha: positions from 0, among all bands of the file, of those that count as alpha.
        palette: whether values are positions in a palette.
        hides: whether a pixel whose values are finite can be invalid.
        finest: height and width of the finest level of the file, where `data.reading.mpp` takes a coarser one; else ().
    """

    grid: Grid
    bands: tuple[str, ...]
    dtype: str
    slices: int = 1
    tile: tuple[int, int] = (0, 0)
    levels: tuple[tuple[int, int], ...] = ()
    format: str = ""
    nodata: tuple[float | None, ...] = ()
    alpha: tuple[int, ...] = ()
    palette: bool = False
    hides: bool = False
    finest: tuple[int, int] | tuple[()] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.grid.height, self.grid.width

    @property
    def georeferenced(self) -> bool:
        """False for scans and microscopy."""
        return self.grid.georeferenced
