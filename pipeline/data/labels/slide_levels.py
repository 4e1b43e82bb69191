"""Scale between a slide's finest level, on which shapes are drawn, and the level that `data.reading.mpp` selects."""

from __future__ import annotations

from functools import lru_cache

from pipeline.data.rasters import raster_io
from pipeline.data.scenes.scene import Scene
from pipeline.recipe.data import Reading

Scale = tuple[float, float]
"""Height and width of a scene's pixel, in pixels of the finest level of its file."""


def scale(scene: Scene, reading: Reading) -> Scale:
    """Ratio of a scene's pixel size to that of the finest level of its image.

    Raises:
        SceneError: the image cannot be read.
    """
    return (1.0, 1.0) if reading.mpp is None else _scale(scene.image, reading)


def finest(scene: Scene, reading: Reading) -> tuple[int, int] | None:
    """Height and width of the finest level of a scene's image; None where that is what is read.

    Raises:
        SceneError: the image cannot be read.
    """
    return None if reading.mpp is None else _sizes(scene.image, reading)[1]


@lru_cache(4096)
def _scale(image: str, reading: Reading) -> Scale:
    size, whole = _sizes(image, reading)
    return (1.0, 1.0) if whole is None else (_ratio(whole[0], size[0]), _ratio(whole[1], size[1]))


@lru_cache(4096)
def _sizes(image: str, reading: Reading) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Height and width of the level that is read, and of the finest one if that is another."""
    info = raster_io.describe(image, reading=reading)
    return (info.grid.height, info.grid.width), info.finest or None


def _ratio(fine: int, coarse: int) -> float:
    """Number of pixels of a fine level per pixel of a coarse one: a whole number where sizes were only rounded."""
    whole = round(fine / coarse)
    return float(whole) if abs(fine - whole * coarse) < whole else fine / coarse
