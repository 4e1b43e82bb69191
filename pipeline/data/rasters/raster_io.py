"""Describe and read rasters of any format: pixels with validity, windows at any scale.

`readers` holds one reader for each family of formats. Here is what callers see: windows that may reach outside, at any
scale, in the few data types that images have. Handles are not safe to share, so every thread keeps its own, and few.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.rasters import gdal_env, resampling
from pipeline.data.rasters.dataset_pool import DatasetPool
from pipeline.data.rasters.dtypes import DTYPES, Rule, as_image, image_dtype, not_nodata
from pipeline.data.rasters.formats.band_files import BandsReader
from pipeline.data.rasters.formats.band_selection import choose
from pipeline.data.rasters.formats.open import open_reader
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import DAMAGED, Reader
from pipeline.data.rasters.raster_writer import Writer, write_cog
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import LabelError, SceneError
from pipeline.recipe.data import Reading

__all__ = [
    "DTYPES",
    "Grid",
    "RasterInfo",
    "Writer",
    "describe",
    "present",
    "probe",
    "probed",
    "read",
    "read_label",
    "read_label_bands",
    "session",
    "write_cog",
]

_BETWEEN: Final = "\n"
_DEFAULT: Final = Reading()
_HANDLES_PER_THREAD: Final = 32
_HANDLES: Final = 128
# Bands in files of their own are asked for together.
_PARTS_PER_THREAD: Final = 96
_PARTS: Final = 256
_PROBE_PIXELS: Final = 2048


def describe(uri: str, *, label: bool = False, reading: Reading = _DEFAULT) -> RasterInfo:
    """Read the header.

    Args:
        uri: local path or s3:// URI; of bands in files of their own, several with line feeds between.
        label: check it as a label (one band of integers) instead of as an image.
        reading: what the file alone does not say.

    Raises:
        SceneError: missing, empty, no raster, damaged, or of a data type that images cannot have.
        LabelError: the label has several bands or no integers.
    """
    with _opened(uri, label, reading) as reader:
        info = reader.info
        if label:
            _check_label(uri, reader)
            return info
        dtype = image_dtype(uri, info.dtype)
        if dtype == info.dtype:
            return info
        return replace(info, dtype=dtype, format=f"{info.format}, {info.dtype} read as {dtype}")


def read(
    uri: str,
    window: Window,
    *,
    nodata: float | None = None,
    reading: Reading = _DEFAULT,
    shape: tuple[int, int] | None = None,
) -> Pixels:
    """Read a window of an image.

    Args:
        uri: local path or s3:// URI; of bands in files of their own, several with line feeds between.
        window: may reach outside the raster.
        nodata: a nodata value in addition to what the file says.
        reading: what the file alone does not say.
        shape: height and width of the result; by default the window's. From the coarsest overview that is fine enough,
            areas are averaged, enlarging is bilinear.

    Returns:
        Pixels [C, h, w] of the type that `describe` says, without an alpha band, and validity [h, w]: every band of the
        pixel is finite, not all of them are nodata (or none is: `reading.nodata_rule`), and neither mask nor alpha hide
        it; at another scale, this holds for all pixels that it was made of. Outside the raster pixels are 0 and
        invalid.

    Raises:
        SceneError: the file is missing or cannot be read.
    """
    with _translated(uri):
        reader = _reader(uri, False, reading)
        if shape is None or shape == (window.height, window.width):
            return _image(uri, resampling.padded(reader, window), nodata, reading.nodata_rule)
        return _scaled(uri, reader, window, shape, nodata, reading.nodata_rule)


def read_label(
    uri: str, window: Window, *, reading: Reading = _DEFAULT, shape: tuple[int, int] | None = None
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Read a window of a label: values as delivered [h, w] (of a palette the indices) and validity [h, w].

    Values are of the file's type where that has 8 or 16 bits, otherwise int32.

    Invalid is what the file marks as nodata or masks out, and what lies outside the raster. With `shape`, every value
    is that of the nearest pixel of the finest level: overviews of a label may hold mixtures.

    Raises:
        SceneError: the file is missing or cannot be read.
        LabelError: it has several bands, or no integers.
    """
    with _translated(uri):
        reader = _reader(uri, True, reading)
        _check_label(uri, reader)
        values, valid = _label(reader, window, shape)
    return _integers(uri, values, valid)[0], valid


def read_label_bands(
    uri: str, window: Window, *, reading: Reading = _DEFAULT, shape: tuple[int, int] | None = None
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """As `read_label` for a label of several bands: values [K, h, w] and validity [h, w].

    Whole numbers stored as floating point are taken, too; NaN is invalid.

    Raises:
        SceneError: the file is missing or cannot be read.
        LabelError: a value is no whole number.
    """
    with _translated(uri):
        values, valid = _label(_reader(uri, True, reading), window, shape)
    return _integers(uri, values, valid), valid


def present(uri: str, window: Window, *, label: bool, reading: Reading = _DEFAULT) -> NDArray[np.bool_]:
    """Pixels [h, w] that a file holds: no mask band hides them; their value may be declared nodata or transparent.

    Args:
        uri: local path or s3:// URI.
        window: may reach outside the raster, where nothing is.
        label: of a palette the indices are meant.
        reading: what the file alone does not say.

    Raises:
        SceneError: the file is missing or cannot be read.
    """
    with _translated(uri):
        return resampling.padded_present(_reader(uri, label, reading), window)


def probe(uri: str, *, reading: Reading = _DEFAULT) -> str:
    """Read the first, the middle and the last block (and slice), to find files that were cut off.

    Returns:
        16 hex digits of the pixels read, of the header and of the file's size: another content has other digits,
        whatever the file's date. (Of a large file that is rewritten in place, pixel by pixel, it may miss a change.)

    Raises:
        SceneError: a block cannot be read.
    """
    # By one rule, so that the rule of a recipe makes no other content of a file.
    with _opened(uri, False, reading.model_copy(update={"nodata_rule": "any"})) as reader:
        info, grid = reader.info, reader.grid
        header = (grid.height, grid.width, grid.crs, grid.transform, info.bands, info.dtype, info.slices)
        sizes = [store.size_of(part) for part in uri.split(_BETWEEN)]
        digest = blake2b(repr((sizes, header)).encode(), digest_size=8)
        for window in probed(info):
            for array in reader.read(window):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def probed(info: RasterInfo) -> list[Window]:
    """First, middle and last block of the first, middle and last slice."""
    height, width = min(info.tile[0], info.grid.height), min(info.tile[1], info.grid.width)
    if height * width > _PROBE_PIXELS**2:
        height, width = min(height, _PROBE_PIXELS), min(width, _PROBE_PIXELS)
    down, right, deep = (info.grid.height - 1) // height, (info.grid.width - 1) // width, info.slices - 1
    places = [(0, 0, 0), (down // 2, right // 2, deep // 2), (down, right, deep)]
    found = []
    for row, col, number in dict.fromkeys(places):
        top, left = row * height, col * width
        found.append(Window(top, left, min(height, info.grid.height - top), min(width, info.grid.width - left), number))
    return found


def _image(uri: str, pixels_valid: Pixels, nodata: float | None, rule: Rule) -> Pixels:
    """Nodata of the recipe applied, in one of the types of images."""
    pixels, valid = pixels_valid
    allowed = not_nodata(pixels, [nodata] * len(pixels), rule)
    if allowed is not None:
        valid &= allowed
    return Pixels(as_image(uri, pixels, valid), valid)


def _scaled(
    uri: str, reader: Reader, window: Window, shape: tuple[int, int], nodata: float | None, rule: Rule
) -> Pixels:
    sizes = reader.info.levels or ((reader.height, reader.width),)
    if resampling.of_finest(sizes, window, shape):
        return resampling.resized(*_image(uri, resampling.padded(reader, window), nodata, rule), shape)
    level = resampling.best_level(sizes, window, shape)
    size = sizes[level]
    rows, cols = resampling.axes(window, shape, (reader.height / size[0], reader.width / size[1]))
    return resampling.sampled(
        lambda part: _image(uri, reader.read(part, None, level), nodata, rule), size, rows, cols, window.slice
    )


def _label(reader: Reader, window: Window, shape: tuple[int, int] | None) -> Pixels:
    if shape is None or shape == (window.height, window.width):
        return resampling.padded(reader, window)
    rows, cols = resampling.axes(window, shape)
    return resampling.sampled_nearest(reader.read, (reader.height, reader.width), rows, cols, window.slice)


def _integers(uri: str, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.integer[Any]]:
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        return values
    if values.dtype.kind not in "iufb":
        raise LabelError(f"{uri}: label values of type {values.dtype}", "a label holds integers")
    if values.dtype.kind == "f":
        values = np.where(valid, values, 0)
        odd = values[values != np.rint(values)]
        if odd.size:
            raise LabelError(f"{uri}: a label value of {odd.flat[0]:g}", "a label holds integers")
    limits = np.iinfo(np.int32)
    if values.dtype.itemsize >= 4 and (values.min() < limits.min or values.max() > limits.max):
        raise LabelError(f"{uri}: label values beyond 32 bits: {values.min()} to {values.max()}", "use smaller values")
    return values.astype(np.int32)


def _check_label(uri: str, reader: Reader) -> None:
    if reader.num_bands != 1:
        raise LabelError(
            f"{uri}: the label has {reader.num_bands} bands", "a label is one band of class values, not colours"
        )
    if np.dtype(reader.dtype).kind not in "iub":
        raise LabelError(f"{uri}: label values of type {reader.dtype}", "a label holds integers")


def session() -> AbstractContextManager[None]:
    """Set up GDAL once for many reads in one thread."""
    return gdal_env.environment(fast_png=True)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """GDAL set up as the store says, and its errors as ours."""
    with gdal_env.environment(fast_png=store.is_local(uri)), _named(uri):
        yield


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Errors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise SceneError(f"{uri}: no such file", "check the path") from error
    except gdal_env.READ_ERRORS as error:
        for handles in _handles.values():
            handles.forget(uri)
        if not store.is_local(uri):
            raise gdal_env.failure(uri, error) from error
        raise SceneError(f"{uri}: cannot be read ({gdal_env.reason(error)})", DAMAGED) from error


@contextmanager
def _opened(uri: str, label: bool, reading: Reading) -> Iterator[Reader]:
    """A reader that is not kept."""
    with _translated(uri):
        parts: list[Reader] = []
        try:
            for part in uri.split(_BETWEEN):
                with _named(part):
                    parts.append(open_reader(part, label=label, reading=_of_file(reading)))
            yield choose(uri, parts[0] if len(parts) == 1 else _combined(uri, parts, label, reading), reading.bands)
        finally:
            for reader in parts:
                reader.close()


def _open(uri: str, *, label: bool, reading: Reading) -> Reader:
    with _named(uri):
        reader = open_reader(uri, label=label, reading=_of_file(reading))
        try:
            return choose(uri, reader, reading.bands)
        except BaseException:
            reader.close()
            raise


@lru_cache(maxsize=64)
def _of_file(reading: Reading) -> Reading:
    """The `reading` section for opening one file: bands are chosen among those of all files of an image."""
    return reading if reading.bands is None else reading.model_copy(update={"bands": None})


def _combined(uri: str, parts: list[Reader], label: bool, reading: Reading) -> Reader:
    return BandsReader(tuple(uri.split(_BETWEEN)), tuple(parts), label, reading.nodata_rule)


def _reader(uri: str, label: bool, reading: Reading) -> Reader:
    """This thread's reader of a file, or of several as one."""
    apart = _BETWEEN in uri
    bands, reading = reading.bands, _of_file(reading) if apart else reading
    key = (label, apart, reading)
    handles = _handles.get(key)
    if handles is None:
        limits = (_PARTS_PER_THREAD, _PARTS) if apart else (_HANDLES_PER_THREAD, _HANDLES)
        handles = _handles.setdefault(key, DatasetPool(partial(_open, label=label, reading=reading), *limits))
    if not apart:
        return handles.get(uri)
    return choose(uri, _combined(uri, [handles.get(part) for part in uri.split(_BETWEEN)], label, reading), bands)


_handles: dict[tuple[bool, bool, Reading], DatasetPool[Reader]] = {}
