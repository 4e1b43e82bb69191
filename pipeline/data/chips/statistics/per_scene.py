"""Normalisation `per_scene`: subtract each scene's own mean and divide by its own standard deviation.

It is the one kind that is done where pixels are read: they become float32, in training after augmentation and in
prediction before the network, whose own normalisation then does nothing. The numbers are measured when a scene is first
read in a process, on the same pixels each time, so that training and prediction agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window, num_windows, spread, window_at

_WINDOW: Final = 256
_WINDOWS: Final = 16


@dataclass(frozen=True)
class SceneValues:
    """Mean and standard deviation of each band of one scene; a band of one value is only centred."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def fill(self) -> tuple[float, ...]:
        """Raw value per band that becomes zero."""
        return self.mean

    def apply(self, image: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Raw pixels [C, h, w] -> float32 of mean 0 and deviation 1 over the scene; 0 where not valid [h, w]."""
        shift, scale = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        out: NDArray[np.float32] = image.astype(np.float32)
        out -= shift
        out /= scale
        if valid is not None:
            out[:, ~valid] = 0
        return out


def measure(read: Read, height: int, width: int, slices: int = 1) -> SceneValues:
    """The values of a scene, from at most 16 windows of 256² spread over it; of a scene without valid pixel, 0 and 1.

    Args:
        read: gives the pixels of a window.
        height, width, slices: of the scene.
    """
    pairs = map(read, windows(height, width, slices))
    found = reduce(Statistics.merge, (Statistics.of(pixels[:, valid], sketch_every=0) for pixels, valid in pairs))
    return SceneValues(found.mean, tuple(std if std > 0 else 1.0 for std in found.std))


def reader(read: Read, height: int, width: int, slices: int = 1) -> Read:
    """A reader that gives the pixels normalised, float32, 0 where not valid; measured at the first window."""

    @cache
    def values() -> SceneValues:
        return measure(read, height, width, slices)

    def normalised(window: Window) -> Pixels:
        pixels, valid = read(window)
        return Pixels(values().apply(pixels, valid), valid)

    return normalised


def whole(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image [C, H, W] in memory that is a scene by itself, normalised; 0 where it is not valid [H, W]."""

    def read(window: Window) -> Pixels:
        area = np.s_[..., window.row : window.row + window.height, window.col : window.col + window.width]
        return Pixels(image[area], valid[area])

    return measure(read, *image.shape[-2:]).apply(image, valid)


def windows(height: int, width: int, slices: int = 1) -> Sequence[Window]:
    """Windows that are measured: all if they are few, else 16 that are spread evenly."""
    numbers = spread(num_windows(height, width, _WINDOW, _WINDOW, slices), _WINDOWS)
    return [window_at(number, height, width, _WINDOW, _WINDOW) for number in numbers]
