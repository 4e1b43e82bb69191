"""Raw chips: image, validity and mask of a window, from one file, several files, or a part of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.statistics.moments import representable
from pipeline.data.labels import aoi, masks
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters import raster_io, resampling
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data
from pipeline.recipe.data import Reading

_DEFAULT: Final = Data.model_construct()

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class RawChip:
    """Data of a window: image [C, h, w], validity [h, w] and annotation [h, w] or [K, h, w].

    The annotation is IGNORE where nothing is annotated, and is not yet where the image is not valid.
    """

    image: NDArray[Any]
    valid: NDArray[np.bool_]
    mask: NDArray[np.uint8]

    def crop(self, row: int, col: int, height: int, width: int) -> RawChip:
        """A part, as views."""
        area = (..., slice(row, row + height), slice(col, col + width))
        return RawChip(self.image[area], self.valid[area], self.mask[area])

    def copy(self) -> RawChip:
        """A copy in memory of its own."""
        return RawChip(self.image.copy(), self.valid.copy(), self.mask.copy())

    def finished(self, fill: Sequence[float]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Image and mask of a chip, changed in place: under invalid pixels lie the fill [C] and IGNORE."""
        if not self.valid.all():
            invalid = ~self.valid
            self.mask[..., invalid] = IGNORE
            for band, value in zip(self.image, representable(fill, self.image.dtype), strict=True):
                band[invalid] = value
        return self.image, self.mask


def read(
    scene: Scene,
    window: Window,
    classes: Classes,
    *,
    data: Data | None = None,
    shape: Shape | None = None,
) -> RawChip:
    """Read a window.

    Args:
        scene: where from; without a label nothing is annotated.
        window: may reach outside the scene; nothing there is valid, also where the file goes on.
        classes: what the label's values mean.
        data: how files are read, and a nodata value in addition to theirs; by default as an empty recipe says.
        shape: of the result, if it is not the window's: pixels are then resampled.

    Raises:
        SceneError: a file cannot be read.
        LabelError: the label cannot be read, or holds a value without a class.
    """
    image, valid = pixels(scene, window, data=data, shape=shape)
    return RawChip(image, valid, masks.mask(scene, window, classes, data, shape=shape))


def pixels(scene: Scene, window: Window, *, data: Data | None = None, shape: Shape | None = None) -> Pixels:
    """The image [C, h, w] at a window, and where it is valid [h, w]; see `read`.

    Raises:
        SceneError: a file cannot be read.
        LabelError: the footprint cannot be read, or brought onto the scene's grid.
    """
    data = _DEFAULT if data is None else data
    row, col = scene.origin
    there = window._replace(row=window.row + row, col=window.col + col)
    reading = of_scene(scene, data.reading)
    read_at = partial(raster_io.read, scene.image, there, nodata=data.nodata, reading=reading)
    if scene.footprint is None:
        image, valid = read_at(shape=shape)
    elif shape is None or shape == (window.height, window.width):
        image, valid = read_at()
        valid = valid & aoi.inside(scene, scene.footprint, window, data)
    elif resampling.of_finest(levels(scene.image, reading), window, shape):
        image, valid = read_at()
        image, valid = resampling.resized(image, valid & aoi.inside(scene, scene.footprint, window, data), shape)
    else:
        image, valid = read_at(shape=shape)
        valid = valid & _well_inside(scene, scene.footprint, window, data, shape)
    _end_at_edges(scene, window, valid)
    return Pixels(image, valid)


def of_scene(scene: Scene, reading: Reading) -> Reading:
    """The `reading` section for the image of a scene, with the bands that `index` matched to the manifest's."""
    return with_bands(reading, scene.bands) if scene.bands else reading


@lru_cache(256)
def with_bands(reading: Reading, bands: tuple[int, ...]) -> Reading:
    """The `reading` section with bands given by number from 1."""
    return reading.model_copy(update={"bands": bands})


@lru_cache(4096)
def levels(image: str, reading: Reading) -> tuple[Shape, ...]:
    """Heights and widths of a file's levels, the finest first.

    Raises:
        SceneError: the file cannot be read.
    """
    info = raster_io.describe(image, reading=reading)
    return info.levels or ((info.grid.height, info.grid.width),)


def resampled(cut: RawChip, scene: Scene, window: Window, shape: Shape) -> RawChip:
    """Resample a raw chip that was read without `shape`, where `read` with `shape` would read the finest level.

    Equal to that once it is `finished`: under invalid pixels lie other values.
    """
    image, valid = resampling.resized(cut.image, cut.valid, shape)
    _end_at_edges(scene, window, valid)
    return RawChip(image, valid, masks.nearest(cut.mask, shape))


def _end_at_edges(scene: Scene, window: Window, valid: NDArray[np.bool_]) -> None:
    """Nothing is valid that is made of pixels beyond the scene, also where its file goes on."""
    rows, cols = (
        _inside(first, length, size, total)
        for first, length, size, total in (
            (window.row, window.height, valid.shape[0], scene.height),
            (window.col, window.width, valid.shape[1], scene.width),
        )
    )
    for beyond in (np.s_[: rows.start], np.s_[rows.stop :], np.s_[:, : cols.start], np.s_[:, cols.stop :]):
        valid[beyond] = False


def _well_inside(scene: Scene, footprint: str, window: Window, data: Data, shape: Shape) -> NDArray[np.bool_]:
    """Pixels of a coarse level, resampled to `shape`, that are made of pixels in the footprint only: [h, w]."""
    # A pixel of the level that is read is not larger than one of the result, and may reach so far beyond it.
    down, right = (math.ceil(max(1.0, side / size)) + 1 for side, size in zip(window[2:4], shape, strict=True))
    row, col, height, width = window.row - down, window.col - right, window.height + 2 * down, window.width + 2 * right
    around = aoi.inside(scene, footprint, window._replace(row=row, col=col, height=height, width=width), data)
    around[: max(0, -row)] = around[max(0, scene.height - row) :] = True  # of the edges, `_end_at_edges` knows
    around[:, : max(0, -col)] = around[:, max(0, scene.width - col) :] = True
    kernel = np.ones((2 * down + 1, 2 * right + 1), np.uint8)
    inside = cv2.erode(around.astype(np.uint8), kernel)[down:-down, right:-right] > 0
    empty = np.zeros((0, window.height, window.width), np.uint8)
    return resampling.resized(empty, inside, shape)[1]


def _inside(first: int, length: int, size: int, total: int) -> slice:
    """The slice of `size` resampled pixels over [first, first + length) that are made of pixels in [0, total) only."""
    scale = length / size
    # A resampled pixel is also made of its neighbours, which are as large as a pixel of either size.
    reach = 0.0 if scale == 1 else max(1.0, scale)
    low = math.ceil((0 - first + reach) / scale) if first < 0 else 0
    high = math.floor((total - first - reach) / scale) if first + length > total else size
    low = min(max(low, 0), size)
    return slice(low, max(low, min(high, size)))
