"""Masks of windows: raster or vector label, area of interest, edge of the scene."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import aoi, palettes, raster_labels, rasterize, shapes, slide_levels, vectors
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.labels.lru_cache import Memory
from pipeline.data.labels.raster_labels import EncodedLabel
from pipeline.data.labels.shapes import Shapes
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.errors import LabelError
from pipeline.recipe import Data

_MAX_SHAPES: Final = 1_000_000
_DEFAULT: Final = Data.model_construct()


def mask(
    scene: Scene, window: Window, classes: Classes, data: Data | None = None, *, shape: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The mask of a scene at a window.

    Args:
        scene: whose label, raster or vector, and whose area of interest; without a label all is IGNORE.
        window: in pixels of the scene; may reach outside.
        classes: what the label's values mean.
        data: how labels are read (`label`, `align`, `task`, `reading`); by default as if the recipe said nothing.
        shape: height and width of the result, if not the window's; the nearest pixels are taken.

    Returns:
        [h, w] uint8 class ids, or with `task: multilabel` [K, h, w] of 0 and 1; IGNORE where nothing was annotated:
        outside the scene, outside its area of interest, nodata, and values of `ignore_values`.

    Raises:
        SceneError: a raster cannot be read.
        LabelError: a vector file cannot be read, or a label is not what the recipe says; values without a class.
    """
    found, unclaimed, _ = encode(scene, window, classes, _DEFAULT if data is None else data)
    if unclaimed:
        raise refusal(unclaimed, scene, classes)
    return found if shape is None or shape == found.shape[-2:] else nearest(found, shape)


def nearest(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask [..., h, w] at another shape: the pixel under each centre, since averages of classes are no classes."""
    sizes = zip(shape, mask.shape[-2:], strict=True)
    rows, cols = (((np.arange(n) + 0.5) * (m / n)).astype(np.int64) for n, m in sizes)
    return mask[..., rows[:, None], cols]


def encode(scene: Scene, window: Window, classes: Classes, data: Data) -> EncodedLabel:
    """As `mask`, but values without a class are IGNORE in the mask and counted: pixels of a raster, shapes of a vector
    file in the whole scene."""
    planes = len(classes) if data.task == "multilabel" else 0
    if scene.label is None:
        return EncodedLabel(np.full((*([planes] if planes else []), *window[2:4]), IGNORE, np.uint8), Counter())
    if vectors.is_vector(scene.label):
        found = shapes_of(scene, classes, data)
        burned = rasterize.burn(found, scene.grid, window, planes=planes, all_touched=data.label.all_touched)
        encoded = EncodedLabel(burned, found.unknown_values)
    else:
        encoded = raster_labels.read(scene, window, classes, data)
    if scene.aoi is not None:
        encoded.mask[..., ~aoi.inside(scene, scene.aoi, window, data)] = IGNORE
    return encoded


def shapes_of(scene: Scene, classes: Classes, data: Data) -> Shapes:
    """The shapes of a vector label, in pixels of the scene; kept for the next window.

    Raises:
        LabelError: the file cannot be read or brought onto the scene's grid.
    """
    uri = str(scene.label)
    scale = slide_levels.scale(scene, data.reading)
    key = (uri, vectors.version(uri), scene.grid, scene.origin, scale, classes, data.label, data.task)
    return _shapes.get(
        key,
        lambda: shapes.as_labels(uri, scene.grid, scene.origin, scale, classes, data),
    )


def refusal(unclaimed: Counter[Any], scene: Scene, classes: Classes) -> LabelError:
    """The error over values that no class claims."""
    uri = str(scene.label)
    if vectors.is_vector(uri):
        return classes.refusal(unclaimed, scene.id, "shapes")
    error = classes.refusal(unclaimed, scene.id, "pixels")
    if not palettes.is_grey(uri, vectors.version(uri)):
        return error
    return LabelError(
        f"{error.message}. The label has a palette of greys, so that numbers mean these",
        f"{error.hint}; or set data.label.palette: index if indices are meant",
    )


_shapes: Memory[Shapes] = Memory(_MAX_SHAPES, lambda found: 1 + len(found.geometry))
