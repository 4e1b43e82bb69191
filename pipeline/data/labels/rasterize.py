"""Rasterise shapes to masks, block by block, so that a window does not depend on what is around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from shapely.geometry import mapping

from pipeline.data.labels.classes import IGNORE
from pipeline.data.labels.lru_cache import Memory
from pipeline.data.labels.shapes import Shapes
from pipeline.data.rasters.grids import Grid
from pipeline.data.rasters.windows import Window

# GDAL rounds a little differently in each window it burns. Blocks at fixed places make every window a cut of the same
# mask, and those that were burned before are there for the next window.
_BLOCK: Final = 256
_MAX_BYTES: Final = 32 << 20


def burn(
    shapes: Shapes, grid: Grid, window: Window, *, planes: int = 0, fill: int = 0, all_touched: bool = False
) -> NDArray[np.uint8]:
    """Burn shapes into a window of a scene.

    Args:
        shapes: in pixels of the scene.
        grid: of the scene.
        window: may reach outside.
        planes: 0 for one mask of ids; otherwise number of classes, of which each gets a mask of its own.
        fill: where no shape is.
        all_touched: burn every pixel that a shape touches instead of those whose centre it covers.

    Returns:
        [h, w], or with `planes` [K, h, w] of 0, 1 and IGNORE. Outside the scene IGNORE.
    """
    layers = max(1, planes)
    out = np.full((layers, window.height, window.width), IGNORE, np.uint8)
    for row, col in _blocks(grid, window):
        top, left = max(row, window.row, 0), max(col, window.col, 0)
        bottom = min(row + _BLOCK, window.row + window.height, grid.height)
        right = min(col + _BLOCK, window.col + window.width, grid.width)
        here = np.s_[:, top - window.row : bottom - window.row, left - window.col : right - window.col]
        near = shapes.near(row, col, _BLOCK, _BLOCK)
        if len(near) == 0:
            out[here] = fill
            continue
        block = _burned.get(
            (shapes, row, col, planes, fill, all_touched),
            lambda r=row, c=col, n=near: _block(shapes, n, r, c, (planes, fill, all_touched)),  # type: ignore[misc]
        )
        out[here] = block[:, top - row : bottom - row, left - col : right - col]
    return out if planes else out[0]


def _blocks(grid: Grid, window: Window) -> Iterator[tuple[int, int]]:
    """First pixels of the blocks that the window shares with the scene."""
    rows, cols = (
        range(first // _BLOCK * _BLOCK, last, _BLOCK) if first < last else range(0)
        for first, last in (
            (max(0, window.row), min(window.row + window.height, grid.height)),
            (max(0, window.col), min(window.col + window.width, grid.width)),
        )
    )
    return ((row, col) for row in rows for col in cols)


def _block(
    shapes: Shapes, near: NDArray[np.int64], row: int, col: int, how: tuple[int, int, bool]
) -> NDArray[np.uint8]:
    planes, fill, all_touched = how
    geometry = [mapping(shapes.geometry[i]) for i in near]
    ids = shapes.ids[near].tolist()
    layers = [list(zip(geometry, ids, strict=True))]
    if planes:
        # Not-annotated shapes lie over all classes, whatever their place in the file.
        ignored = [(g, IGNORE) for g, i in zip(geometry, ids, strict=True) if i == IGNORE]
        layers = [[(g, 1) for g, i in zip(geometry, ids, strict=True) if i == k] + ignored for k in range(planes)]
    out = np.full((len(layers), _BLOCK, _BLOCK), fill, np.uint8)
    for layer, pairs in zip(out, layers, strict=True):
        if pairs:
            where = Affine.translation(col, row)
            rasterize(pairs, out=layer, transform=where, all_touched=all_touched, skip_invalid=False)
    return out


_burned: Memory[NDArray[np.uint8]] = Memory(_MAX_BYTES, lambda block: block.nbytes)
