"""Reading image and label at a window of a scene, wherever its pixels lie: one file, several, or a part of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data import labels, rasters
from pipeline.data.classes import IGNORE, Classes
from pipeline.data.readers import scaling
from pipeline.data.scenes import Scene
from pipeline.data.statistics import scene_values
from pipeline.data.statistics.moments import representable
from pipeline.data.statistics.normalise import Normalisation
from pipeline.data.statistics.scene_values import Read
from pipeline.data.windows import Window
from pipeline.recipe import Data
from pipeline.recipe.data import Reading

_PLAIN: Final = Reading()

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Cut:
    """What lies at a window: image [C, h, w], validity [h, w] and annotation [h, w] or [K, h, w].

    The annotation is IGNORE where nothing is annotated, and is not yet where the image is not valid.
    """

    image: NDArray[Any]
    valid: NDArray[np.bool_]
    mask: NDArray[np.uint8]

    def crop(self, row: int, col: int, height: int, width: int) -> Cut:
        """A part, as views."""
        area = (..., slice(row, row + height), slice(col, col + width))
        return Cut(self.image[area], self.valid[area], self.mask[area])

    def copy(self) -> Cut:
        """The same in memory of its own."""
        return Cut(self.image.copy(), self.valid.copy(), self.mask.copy())

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
    nodata: float | None = None,
    data: Data | None = None,
    shape: Shape | None = None,
) -> Cut:
    """Read a window.

    Args:
        scene: where from; without a label nothing is annotated.
        window: may reach outside the scene; nothing there is valid, also where the file goes on.
        classes: what the label's values mean.
        nodata: pixels of this value are invalid, in addition to what the file says.
        data: how files are read; by default as if the recipe said nothing.
        shape: of the result, if it is not the window's: pixels are then resampled.

    Raises:
        SceneError: a file cannot be read.
        LabelError: the label cannot be read, or holds a value without a class.
    """
    image, valid = pixels(scene, window, nodata=nodata, reading=_PLAIN if data is None else data.reading, shape=shape)
    return Cut(image, valid, labels.mask(scene, window, classes, data, shape=shape))


def pixels(
    scene: Scene, window: Window, *, nodata: float | None, reading: Reading = _PLAIN, shape: Shape | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The image [C, h, w] at a window, and where it is valid [h, w]; see `read`.

    Raises:
        SceneError: a file cannot be read.
    """
    row, col = scene.origin
    there = window._replace(row=window.row + row, col=window.col + col)
    image, valid = rasters.read(scene.image, there, nodata=nodata, reading=reading, shape=shape)
    _end_at_edges(scene, window, valid)
    return image, valid


def resampled(cut: Cut, scene: Scene, window: Window, shape: Shape) -> Cut:
    """What `read` gives at a window with `shape` where it reads the finest level, made of what it gives without.

    Equal to that once it is `finished`: under invalid pixels lie other values.
    """
    image, valid = scaling.resized(cut.image, cut.valid, shape)
    _end_at_edges(scene, window, valid)
    return Cut(image, valid, labels.nearest(cut.mask, shape))


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


def reader_of(scene: Scene, data: Data, normalisation: Normalisation | None = None) -> Read:
    """A function that reads windows of a scene's image; normalised by the scene's own numbers, if that is the way."""

    def read_raw(window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return pixels(scene, window, nodata=data.nodata, reading=data.reading)

    if normalisation is None or not normalisation.by_scene:
        return read_raw
    return scene_values.reader(read_raw, scene.height, scene.width, scene.slices)


def _inside(first: int, length: int, size: int, total: int) -> slice:
    """Which of `size` resampled pixels over [first, first + length) are made of pixels in [0, total) only."""
    scale = length / size
    # A resampled pixel is also made of its neighbours, which are as large as a pixel of either size.
    reach = 0.0 if scale == 1 else max(1.0, scale)
    low = math.ceil((0 - first + reach) / scale) if first < 0 else 0
    high = math.floor((total - first - reach) / scale) if first + length > total else size
    low = min(max(low, 0), size)
    return slice(low, max(low, min(high, size)))
