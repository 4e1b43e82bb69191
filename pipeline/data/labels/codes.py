"""Raster labels: values, colours, palettes, soft edges or one band per class, as ids on the grid of a scene."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data import gdal, rasters
from pipeline.data.classes import IGNORE, Classes, strangers
from pipeline.data.grids import Grid, RasterInfo, to_pixels
from pipeline.data.labels import palettes, vectors
from pipeline.data.labels.alignment import Read, read_aligned
from pipeline.data.scenes import Scene
from pipeline.data.windows import Window
from pipeline.errors import LabelError
from pipeline.recipe import Data
from pipeline.recipe.data import Reading

_COLOR_BANDS: Final = 3
_SHIFT_PIXELS: Final = 1e-3


class Encoded(NamedTuple):
    """A mask [h, w] or [K, h, w], IGNORE where a value has no class; and those values, with their pixels."""

    mask: NDArray[np.uint8]
    strangers: Counter[Any]


def header(uri: str, reading: Reading) -> RasterInfo:
    """What the label's header says: one band of integers, or anything that an image can be.

    Raises:
        SceneError: it is missing, no raster, or damaged.
    """
    return _header(uri, vectors.version(uri), _plain(reading))


def read(scene: Scene, window: Window, classes: Classes, data: Data) -> Encoded:
    """The label of a scene at a window, encoded.

    Raises:
        SceneError: it cannot be read.
        LabelError: it is not of the kind that the recipe says.
    """
    uri, info = str(scene.label), header(str(scene.label), data.reading)
    if data.task == "multilabel":
        return _planes(scene, window, classes, data, info)
    if data.label.threshold is not None:
        values, valid = _one_band(uri, info, *_values(scene, uri, window, data, _reader(uri, info, data)))
        with np.errstate(invalid="ignore"):
            mask = (values >= data.label.threshold).astype(np.uint8)
        return Encoded(_ignored(mask, values, valid, classes), Counter())
    if classes.in_colors:
        return _colors(scene, window, classes, data, info)
    values, valid = _one_band(uri, info, *_values(scene, uri, window, data, _reader(uri, info, data)))
    return _encode(*_whole(uri, values, valid), classes)


def annotated(scene: Scene, uri: str, window: Window, data: Data) -> NDArray[np.bool_]:
    """Where a raster of a scene's area of interest is valid and not 0: [h, w]."""
    values, valid = _values(scene, uri, window, data, _reader(uri, header(uri, data.reading), data))
    inside: NDArray[np.bool_] = valid & (values.reshape(-1, *valid.shape) != 0).any(axis=0)
    return inside


# --- kinds of labels


def _encode(label: NDArray[Any], valid: NDArray[np.bool_], classes: Classes) -> Encoded:
    mask, strange = classes.mask(label, valid)
    return Encoded(mask, Counter() if strange is None else strangers(label, strange))


def _colors(scene: Scene, window: Window, classes: Classes, data: Data, info: RasterInfo) -> Encoded:
    uri = str(scene.label)
    if len(info.bands) == 1:
        palette = palettes.of(uri, vectors.version(uri))
        if palette is None:
            raise LabelError(
                f"{uri}: the label has one band and no palette, but data.classes lists colours",
                "list its numbers in data.classes (values)",
            )
        values, valid = _values(scene, uri, window, data, _reader(uri, info, data))
        return _encode(palette[:, values.clip(0, palette.shape[1] - 1)], valid, classes)
    if len(info.bands) != _COLOR_BANDS or info.dtype != "uint8":
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands of {info.dtype}, but data.classes lists colours",
            "colours are three bands of 8 bits",
        )
    return _encode(*_values(scene, uri, window, data, _reader(uri, info, data)), classes)


def _planes(scene: Scene, window: Window, classes: Classes, data: Data, info: RasterInfo) -> Encoded:
    """One band per class: 0 and 1, and IGNORE."""
    uri = str(scene.label)
    if len(info.bands) != len(classes):
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands, but there are {len(classes)} classes",
            "with data.task multilabel a label has one band per class, in the order of data.classes",
        )
    values, valid = _values(scene, uri, window, data, _reader(uri, info, data))
    values = values.reshape(len(classes), *valid.shape)
    yes = values != 0 if data.label.threshold is None else values >= data.label.threshold
    planes = [_ignored(y.astype(np.uint8), v, valid, classes) for y, v in zip(yes, values, strict=True)]
    return Encoded(np.stack(planes), Counter())


def _ignored(
    mask: NDArray[np.uint8], values: NDArray[Any], valid: NDArray[np.bool_], classes: Classes
) -> NDArray[np.uint8]:
    """A mask with IGNORE where the label holds nothing, or a value that means: not annotated."""
    if classes.ignore_values:
        whole = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)
        mask[(classes.ids(whole) == IGNORE) & (whole == values)] = IGNORE
    mask[~valid] = IGNORE
    return mask


def _one_band(
    uri: str, info: RasterInfo, values: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values [h, w] of a label [C, h, w] whose bands are all the same, as of a grey picture saved in colour."""
    if values.ndim == 2:
        return values, valid
    if any((band[valid] != values[0][valid]).any() for band in values[1:]):
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands, and they differ",
            "if they are colours, list them in data.classes (values: ['#ff0000']); with one band per class set "
            "data.task: multilabel",
        )
    return values[0], valid


def _whole(uri: str, values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels that were saved as fractional numbers although they are none."""
    if values.dtype.kind != "f":
        return values, valid
    whole = np.where(valid, values, 0).astype(np.int64)
    broken = valid & (whole != values)
    if broken.any():
        raise LabelError(
            f"{uri}: label values that are no whole numbers, such as {values[broken][0]} ({broken.sum()} pixels)",
            "a label holds integers; for soft edges set data.label.threshold",
        )
    return whole, valid


# --- reading


def _values(
    scene: Scene, uri: str, window: Window, data: Data, read_window: Read
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values [..., h, w] on the grid of the scene; validity [h, w], False outside the scene."""
    shift: tuple[int, int] | None = scene.origin
    if data.align == "image":
        theirs = header(uri, data.reading).grid
        if scene.grid.georeferenced and theirs.georeferenced:
            shift = offset(scene.grid, theirs)
            if shift is None:
                values, valid = read_aligned(read_window, scene.grid, theirs, window)
    if shift is not None:
        moved = window._replace(row=window.row + shift[0], col=window.col + shift[1])
        values, valid = read_window(moved)
    row, col, height, width = window[:4]
    if row < 0 or col < 0 or row + height > scene.height or col + width > scene.width:
        valid = valid.copy()
        valid[: max(0, -row)] = valid[max(0, scene.height - row) :] = False
        valid[:, : max(0, -col)] = valid[:, max(0, scene.width - col) :] = False
    return values, valid


@lru_cache(maxsize=4096)
def offset(ours: Grid, theirs: Grid) -> tuple[int, int] | None:
    """Row and column of their pixel that is our first one, if the two grids share their pixels."""
    if not (ours.usable and theirs.usable) or (ours.crs and theirs.crs and not gdal.same_crs(ours.crs, theirs.crs)):
        return None
    a, b, c, d, e, f = to_pixels(theirs.transform, ours.transform)
    if (abs(a - 1) + abs(b) + abs(d) + abs(e - 1)) * max(ours.height, ours.width) > _SHIFT_PIXELS:
        return None
    if max(abs(c - round(c)), abs(f - round(f))) > _SHIFT_PIXELS:
        return None
    inside = 0 <= c + ours.width / 2 <= theirs.width
    return (round(f), round(c)) if inside or not theirs.geographic else None


def _reader(uri: str, info: RasterInfo, data: Data) -> Read:
    """How windows are read: one band of integers as [h, w], of a palette the indices; all else as bands [C, h, w]."""
    if len(info.bands) == 1 and np.dtype(info.dtype).kind in "iub":
        return lambda window: rasters.read_label(uri, window, reading=_plain(data.reading))
    return lambda window: rasters.read(uri, window, reading=_plain(data.reading))


@lru_cache(maxsize=16)
def _plain(reading: Reading) -> Reading:
    """A label is read like its image, but its values are no Hounsfield units, and its bands are its own."""
    return reading.model_copy(update={"hounsfield": None, "bands": None, "alpha": "mask", "nodata_rule": "any"})


@lru_cache(maxsize=4096)
def _header(uri: str, _: str, reading: Reading) -> RasterInfo:
    try:
        return rasters.describe(uri, label=True, reading=reading)
    except LabelError:
        return rasters.describe(uri, reading=reading)
