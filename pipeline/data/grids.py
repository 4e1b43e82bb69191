"""Grids: where the pixels of a raster lie."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

from pipeline.data import gdal

_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TOLERANCE_PIXELS: Final = 1e-3


@dataclass(frozen=True)
class Grid:
    """Size in pixels, CRS (WKT or whatever PROJ understands; None without), and affine transform a, b, c, d, e, f.

    x = a * col + b * row + c and y = d * col + e * row + f, at the upper left corner of a pixel.
    """

    height: int
    width: int
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] = _IDENTITY

    @property
    def georeferenced(self) -> bool:
        """False for scans and microscopy."""
        return self.crs is not None or self.transform != _IDENTITY

    def difference(self, other: Grid) -> str:
        """What differs, with both values; empty if nothing does.

        Where only one of the two is georeferenced, only their sizes are compared.
        """
        if (self.height, self.width) != (other.height, other.width):
            return f"{self.width} × {self.height} pixels against {other.width} × {other.height}"
        if not (self.georeferenced and other.georeferenced):
            return ""
        if self.crs and other.crs and not gdal.same_crs(self.crs, other.crs):
            return f"{gdal.short_crs(self.crs)} against {gdal.short_crs(other.crs)}"
        shift = self._shift(other)
        if shift > _TOLERANCE_PIXELS:
            return f"shifted by up to {shift:.3g} pixels: transform {self.transform} against {other.transform}"
        return ""

    def _shift(self, other: Grid) -> float:
        """How far the corners of `other` lie from ours, in our pixels."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        if determinant == 0:
            return math.inf
        shifts = []
        for col, row in itertools.product((0, self.width), (0, self.height)):
            x, y = other.position(row, col)
            there = (e * (x - c) - b * (y - f)) / determinant, (a * (y - f) - d * (x - c)) / determinant
            shifts.append(math.dist((col, row), there))
        return max(shifts)

    def position(self, row: float, col: float) -> tuple[float, float]:
        """Coordinates x, y of a point given in pixels."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f


@dataclass(frozen=True)
class RasterInfo:
    """What a header says; an alpha band is no band.

    Attributes:
        grid: of the finest level.
        bands: their names.
        dtype: of all bands.
        slices: of a volume; 1 of everything else.
        tile: height and width of an internal storage block.
        levels: height and width of every level, finest first.
        format: what kind of file it is, and how it is compressed, for people.
    """

    grid: Grid
    bands: tuple[str, ...]
    dtype: str
    slices: int = 1
    tile: tuple[int, int] = (0, 0)
    levels: tuple[tuple[int, int], ...] = ()
    format: str = ""

    @property
    def georeferenced(self) -> bool:
        """False for scans and microscopy."""
        return self.grid.georeferenced
