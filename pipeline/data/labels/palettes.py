"""Palettes of raster labels: colours of indices, and values of grey palettes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters import gdal_env
from pipeline.errors import SceneError

_WHITE: Final = 255
_MAX_ENTRIES: Final = 256


@lru_cache(maxsize=1024)
def of(uri: str, _version: str) -> NDArray[np.uint8] | None:
    """Red, green and blue of every index [3, N]; None if the file has no palette.

    Raises:
        SceneError: the file cannot be read.
    """
    with gdal_env.environment():
        try:
            with rasterio.open(store.gdal_path(uri)) as dataset:
                colors = dataset.colormap(1)
        except gdal_env.READ_ERRORS as error:
            if "NULL color table" in str(error):
                return None
            raise SceneError(f"{uri}: cannot be read ({gdal_env.reason(error)})", "make or fetch it again") from error
    out = np.zeros((3, max(colors) + 1), np.uint8)
    for index, color in colors.items():
        out[:, index] = color[:3]
    return out


@lru_cache(maxsize=1024)
def numbers(uri: str, version: str, classes: Classes) -> NDArray[np.uint8] | None:
    """The number that each index of a grey palette stands for [N]; None where indices are the numbers.

    Of evenly spaced greys from black to white, as of a mask of 1, 2 or 4 bits, it is the grey's rank, unless classes
    claim more of the greys (0 and 255). Of other greys it is the grey value, unless classes claim none but black.

    Raises:
        SceneError: the file cannot be read.
    """
    palette = of(uri, version)
    if palette is None or palette.shape[1] > _MAX_ENTRIES or (palette != palette[0]).any():
        return None
    greys = palette[0]
    if not greys.any():
        return None  # colours say nothing about values
    used = _without_padding(greys)
    rank = _rank(used)
    if rank is not None:
        table = np.zeros(len(greys), np.uint8)
        table[: len(used)] = rank
        return greys if _num_claimed(used, classes) > _num_claimed(rank, classes) else table
    bright = used[used > 0]
    by_index = not _num_claimed(bright, classes) and _num_claimed(np.arange(len(used)), classes) > 1
    return None if by_index else greys


def is_grey(uri: str, version: str) -> bool:
    """Whether a file has a palette, and of greys only; False of one that cannot be read."""
    try:
        palette = of(uri, version)
    except SceneError:
        return False
    return palette is not None and bool((palette == palette[0]).all())


def _without_padding(greys: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The greys of a palette [N] without the black entries that fill it up; of these one is kept after white."""
    length = int(np.flatnonzero(greys)[-1]) + 1
    fall = length < len(greys) and int(greys[0]) == _WHITE
    return greys[: length + fall]


def _rank(greys: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Rank of each grey where they are evenly spaced from black to white or back; else None."""
    steps = len(greys) - 1
    if steps == 0:
        return None
    up = np.rint(np.arange(steps + 1) * (_WHITE / steps)).astype(np.uint8)
    if (greys == up).all():
        return np.arange(steps + 1).astype(np.uint8)
    return np.arange(steps, -1, -1).astype(np.uint8) if (greys == up[::-1]).all() else None


def _num_claimed(values: NDArray[np.integer[Any]], classes: Classes) -> int:
    """Number of these values that classes or `ignore_values` name."""
    return int(classes.knows(np.unique(values)).sum())
