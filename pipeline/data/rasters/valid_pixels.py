"""Pixels with validity: the record that readers return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.windows import Window


class Pixels(NamedTuple):
    """Values and validity of a window of a raster."""

    values: NDArray[Any]
    """[C, h, w], of a label of one band [h, w]."""
    valid: NDArray[np.bool_]
    """[h, w]: there is a measurement in the pixel."""


Read = Callable[[Window], Pixels]
"""Reads a window, which may reach outside the raster."""
