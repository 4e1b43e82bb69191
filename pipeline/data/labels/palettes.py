"""Palettes of raster labels: the colours that indices stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import rasterio
from numpy.typing import NDArray

from pipeline import store
from pipeline.data import gdal
from pipeline.errors import SceneError


@lru_cache(maxsize=1024)
def of(uri: str, _version: str) -> NDArray[np.uint8] | None:
    """Red, green and blue of every index [3, N]; None if the file has no palette.

    Raises:
        SceneError: the file cannot be read.
    """
    with gdal.environment():
        try:
            with rasterio.open(store.gdal_path(uri)) as dataset:
                colors = dataset.colormap(1)
        except gdal.READ_ERRORS as error:
            if "NULL color table" in str(error):
                return None
            raise SceneError(f"{uri}: cannot be read ({gdal.reason(error)})", "make or fetch it again") from error
    out = np.zeros((3, max(colors) + 1), np.uint8)
    for index, color in colors.items():
        out[:, index] = color[:3]
    return out
