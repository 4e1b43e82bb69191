"""Raster labels: values, colours, palettes, soft edges or one band per class, encoded on the grid of a scene."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import palettes, slide_levels, vectors
from pipeline.data.labels.alignment import read_aligned
from pipeline.data.labels.classes import IGNORE, Classes, unknown_values
from pipeline.data.rasters import gdal_env, raster_io
from pipeline.data.rasters.grids import Grid, RasterInfo, to_pixels
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.errors import LabelError, SceneError
from pipeline.recipe import Data
from pipeline.recipe.data import Reading

_COLOR_BANDS: Final = 3
_SHIFT_PIXELS: Final = 1e-3


class EncodedLabel(NamedTuple):
    """A mask and what stands out in the label it is from.

    Attributes:
        mask: [h, w] or [K, h, w], IGNORE where a value has no class.
        unknown_values: values without a class, and how many pixels have them.
        claimed: values that the file declares nodata or transparent and a class claims, and how many pixels have them.
    """

    mask: NDArray[np.uint8]
    unknown_values: Counter[Any]
    claimed: Counter[Any] = Counter()


class _Label(NamedTuple):
    """A label at a window: values [..., h, w], validity [h, w], and which valid pixels the file hides by their value
    (None: none)."""

    values: NDArray[Any]
    valid: NDArray[np.bool_]
    hidden: NDArray[np.bool_] | None = None


def header(uri: str, reading: Reading) -> RasterInfo:
    """Header of the label: one band of integers, or anything that an image can be.

    Raises:
        SceneError: it is missing, no raster, or damaged.
    """
    version = vectors.version(uri)
    return _header(uri, version, _reading(uri, version, reading))


def read(scene: Scene, window: Window, classes: Classes, data: Data) -> EncodedLabel:
    """The label of a scene at a window, encoded.

    Raises:
        SceneError: it cannot be read.
        LabelError: it is not of the kind that the recipe says.
    """
    uri, info = str(scene.label), header(str(scene.label), data.reading)
    if data.task == "multilabel":
        return _planes(scene, window, classes, data, info)
    if data.label.threshold is not None:
        found = _one_band(uri, info, _shown(scene, window, classes, data, info))
        with np.errstate(invalid="ignore"):
            mask = (found.values >= data.label.threshold).astype(np.uint8)
        return EncodedLabel(_ignored(mask, found.values, found.valid, classes), Counter(), _claimed(found))
    if classes.in_colors:
        return _colors(scene, window, classes, data, info)
    found = _one_band(uri, info, _shown(scene, window, classes, data, info))
    return _encode(_whole(uri, found), classes)


def indices(scene: Scene, window: Window, classes: Classes, data: Data) -> dict[int, str]:
    """The palette's indices of classes at a window, where these are read as numbers, and their colours."""
    uri = str(scene.label)
    known = indices_of(uri, classes, data)
    if not known:
        return {}
    values, valid = _values(scene, uri, window, data, _reader(uri, header(uri, data.reading), data))
    return {int(i): known[int(i)] for i in np.unique(values[valid]) if int(i) in known}


def indices_of(uri: str, classes: Classes, data: Data) -> dict[int, str]:
    """All indices of classes that a file's palette has, where these are read as numbers, and their colours."""
    info = header(uri, data.reading)
    if not info.palette or data.label.palette == "index" or data.task == "multilabel" or classes.in_colors:
        return {}
    palette = palettes.of(uri, vectors.version(uri))
    if palette is None or palettes.numbers(uri, vectors.version(uri), classes) is not None:
        return {}
    found = np.arange(palette.shape[1])
    found = found[classes.ids(found) < len(classes)]
    return {int(i): "#{:02x}{:02x}{:02x}".format(*palette[:, i].tolist()) for i in found}


def annotated(scene: Scene, uri: str, window: Window, data: Data) -> NDArray[np.bool_]:
    """Pixels where a raster area of interest is valid and not 0: [h, w]."""
    values, valid = _values(scene, uri, window, data, _reader(uri, header(uri, data.reading), data))
    inside: NDArray[np.bool_] = valid & (values.reshape(-1, *valid.shape) != 0).any(axis=0)
    return inside


# --- kinds of labels


def _encode(found: _Label, classes: Classes) -> EncodedLabel:
    mask, unclaimed = classes.mask(found.values, found.valid)
    return EncodedLabel(
        mask, Counter() if unclaimed is None else unknown_values(found.values, unclaimed), _claimed(found)
    )


def _claimed(found: _Label) -> Counter[Any]:
    return Counter() if found.hidden is None else unknown_values(found.values, found.hidden)


def _colors(scene: Scene, window: Window, classes: Classes, data: Data, info: RasterInfo) -> EncodedLabel:
    uri = str(scene.label)
    if len(info.bands) == 1:
        palette = palettes.of(uri, vectors.version(uri)) if info.palette else None
        if palette is None:
            raise LabelError(
                f"{uri}: the label has one band and no palette, but data.classes lists colours",
                "list its numbers in data.classes (values)",
            )
        return _encode(_shown(scene, window, classes, data, info, palette), classes)
    if len(info.bands) != _COLOR_BANDS or info.dtype != "uint8":
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands of {info.dtype}, but data.classes lists colours",
            "colours are three bands of 8 bits",
        )
    return _encode(_shown(scene, window, classes, data, info), classes)


def _planes(scene: Scene, window: Window, classes: Classes, data: Data, info: RasterInfo) -> EncodedLabel:
    """One band per class: 0 and 1, and IGNORE."""
    uri = str(scene.label)
    if len(info.bands) != len(classes):
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands, but there are {len(classes)} classes",
            "with data.task multilabel a label has one band per class, in the order of data.classes",
        )
    values, valid = _values(scene, uri, window, data, _reader(uri, info, data))
    values = values.reshape(len(classes), *valid.shape)
    planes_valid, claimed = _valid_planes(scene, window, data, info, _Label(values, valid))
    yes = values != 0 if data.label.threshold is None else values >= data.label.threshold
    planes = [_ignored(y.astype(np.uint8), v, ok, classes) for y, v, ok in zip(yes, values, planes_valid, strict=True)]
    return EncodedLabel(np.stack(planes), Counter(), claimed)


def _valid_planes(
    scene: Scene, window: Window, data: Data, info: RasterInfo, found: _Label
) -> tuple[NDArray[np.bool_], Counter[Any]]:
    """Validity [K, h, w] of one band per class: a declared 0 (no) or 1 (yes) counts, another one is not annotated."""
    values, valid = found.values, found.valid
    out = np.broadcast_to(valid, values.shape)
    hidden = _hidden(scene, window, data, info, valid)
    if hidden is None:
        return out, Counter()
    hidden &= np.isfinite(values).all(axis=0)
    declared = [math.nan if v is None else v for v in info.nodata or (None,) * len(values)]
    nodata = np.array(declared, np.float64)[:, None, None]
    answer = (values == 0) | (values == 1)
    out = valid | (hidden & (answer | (~np.isnan(nodata) & (values != nodata))))
    is_nodata = out & hidden & (answer if np.isnan(nodata).all() else values == nodata)
    return out, Counter(dict(zip(*(v.tolist() for v in np.unique(values[is_nodata], return_counts=True)), strict=True)))


def _ignored(
    mask: NDArray[np.uint8], values: NDArray[Any], valid: NDArray[np.bool_], classes: Classes
) -> NDArray[np.uint8]:
    """A mask with IGNORE where the label holds nothing, or a value that means: not annotated."""
    if classes.ignore_values:
        whole = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)
        mask[(classes.ids(whole) == IGNORE) & (whole == values)] = IGNORE
    mask[~valid] = IGNORE
    return mask


def _one_band(uri: str, info: RasterInfo, found: _Label) -> _Label:
    """A label [C, h, w] whose bands are all the same as [h, w], as of a grey picture saved in colour."""
    values, valid, _ = found
    if values.ndim == 2:
        return found
    if any((band[valid] != values[0][valid]).any() for band in values[1:]):
        raise LabelError(
            f"{uri}: the label has {len(info.bands)} bands, and they differ",
            "if they are colours, list them in data.classes (values: ['#ff0000']); with one band per class set "
            "data.task: multilabel",
        )
    return found._replace(values=values[0])


def _whole(uri: str, found: _Label) -> _Label:
    """Labels that were saved as fractional numbers although they are none."""
    values, valid, _ = found
    if values.dtype.kind != "f":
        return found
    whole = np.where(valid, values, 0).astype(np.int64)
    broken = valid & (whole != values)
    if broken.any():
        raise LabelError(
            f"{uri}: label values that are no whole numbers, such as {values[broken][0]} ({broken.sum()} pixels)",
            "a label holds integers; for soft edges set data.label.threshold",
        )
    return found._replace(values=whole)


# --- reading


def _shown(
    scene: Scene,
    window: Window,
    classes: Classes,
    data: Data,
    info: RasterInfo,
    palette: NDArray[np.uint8] | None = None,
) -> _Label:
    """A label on the grid of the scene: what its file hides by value is valid if a class claims the value.

    Of a palette [3, N] its colours are meant; without one, what `data.label.palette` says.
    """
    uri = str(scene.label)
    values, valid = _values(scene, uri, window, data, _reader(uri, info, data))
    if palette is not None:
        values = palette[:, values.clip(0, palette.shape[1] - 1)]
    elif info.palette and data.label.palette == "auto":
        numbers = palettes.numbers(uri, vectors.version(uri), classes)
        if numbers is not None:
            values = numbers[values.clip(0, len(numbers) - 1)]
    hidden = _hidden(scene, window, data, info, valid)
    if hidden is None:
        return _Label(values, valid)
    hidden &= classes.claims(values)
    return _Label(values, valid | hidden, hidden if hidden.any() else None)


def _hidden(
    scene: Scene, window: Window, data: Data, info: RasterInfo, valid: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Pixels that are present, but hidden by their value or transparency: [h, w]; None if none are."""
    if data.label.nodata == "ignore" or valid.all():
        return None
    uri, label = str(scene.label), _is_plain(info)

    def read_present(part: Window) -> Pixels:
        there = raster_io.present(uri, part, label=label, reading=_reading(uri, vectors.version(uri), data.reading))
        return Pixels(there, there)

    _, present = _values(scene, uri, window, data, read_present)
    hidden: NDArray[np.bool_] = present & ~valid
    return hidden if hidden.any() else None


def _values(scene: Scene, uri: str, window: Window, data: Data, read_window: Read) -> Pixels:
    """Values [..., h, w] on the grid of the scene; validity [h, w], False outside the scene."""
    shift: tuple[int, int] | None = scene.origin
    whole = slide_levels.finest(scene, data.reading)
    if whole is not None and header(uri, data.reading).size == whole:
        down, across = slide_levels.scale(scene, data.reading)
        row, col = scene.origin
        ours = Grid(scene.height, scene.width, None, (across, 0.0, across * col, 0.0, down, down * row))
        shift, (values, valid) = None, read_aligned(read_window, ours, Grid(*whole), window)
    elif data.align == "image":
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
    return Pixels(values, valid)


@lru_cache(maxsize=4096)
def offset(ours: Grid, theirs: Grid) -> tuple[int, int] | None:
    """Row and column of their pixel that is our first one, if the two grids share their pixels."""
    if not (ours.usable and theirs.usable) or (ours.crs and theirs.crs and not gdal_env.same_crs(ours.crs, theirs.crs)):
        return None
    a, b, c, d, e, f = to_pixels(theirs.transform, ours.transform)
    if (abs(a - 1) + abs(b) + abs(d) + abs(e - 1)) * max(ours.height, ours.width) > _SHIFT_PIXELS:
        return None
    if max(abs(c - round(c)), abs(f - round(f))) > _SHIFT_PIXELS:
        return None
    inside = 0 <= c + ours.width / 2 <= theirs.width
    return (round(f), round(c)) if inside or not theirs.geographic else None


def _reader(uri: str, info: RasterInfo, data: Data) -> Read:
    """A function that reads windows: one band of integers as [h, w] (palette indices), all else as bands [C, h, w]."""
    reading = _reading(uri, vectors.version(uri), data.reading)
    if _is_plain(info):
        return lambda window: Pixels(*raster_io.read_label(uri, window, reading=reading))
    return lambda window: raster_io.read(uri, window, reading=reading)


def _is_plain(info: RasterInfo) -> bool:
    """Whether a label is one band of integers."""
    return len(info.bands) == 1 and np.dtype(info.dtype).kind in "iub"


@lru_cache(maxsize=4096)
def _reading(uri: str, version: str, reading: Reading) -> Reading:
    """The `reading` section for a label: a label without pixel size is of the finest level."""
    plain = _plain(reading)
    if plain.mpp is None:
        return plain
    try:
        _header(uri, version, plain)
    except SceneError:
        return plain.model_copy(update={"mpp": None})
    return plain


@lru_cache(maxsize=16)
def _plain(reading: Reading) -> Reading:
    """A label is read like its image, but its values are no Hounsfield units, and its bands are its own."""
    return reading.model_copy(update={"hounsfield": None, "bands": None, "alpha": "mask", "nodata_rule": "any"})


@lru_cache(maxsize=4096)
def _header(uri: str, _: str, reading: Reading) -> RasterInfo:
    try:
        return raster_io.describe(uri, label=True, reading=reading)
    except LabelError:
        return raster_io.describe(uri, reading=reading)
