"""Reading rasters: pixels and their validity travel together.

Only GeoTIFF, PNG and JPEG are opened, whatever the file is called: GDAL's other formats can point at foreign files and
servers. GDAL's handles are not safe to share, so every thread keeps its own, and few of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window as GdalWindow

from pipeline import store
from pipeline.data import gdal
from pipeline.data.grids import Grid, RasterInfo
from pipeline.data.handles import Handles
from pipeline.data.raster_writer import Writer, write_cog
from pipeline.data.windows import Window
from pipeline.errors import LabelError, SceneError

__all__ = ["DTYPES", "Grid", "RasterInfo", "Writer", "describe", "probe", "read", "read_label", "write_cog"]

DTYPES: Final = ("uint8", "uint16", "int16", "float32")
"""Data types of images; labels may have any integer type."""

_DRIVERS: Final = ("GTiff", "PNG", "JPEG")
# Legitimate rasters are smaller; a header beyond it is damaged or made to exhaust memory.
_MAX_PIXELS: Final = 600_000_000_000
_MAX_BLOCK_BYTES: Final = 2 << 30
_HANDLES_PER_THREAD: Final = 32
_DAMAGED: Final = "the file is damaged or is no GeoTIFF, PNG or JPEG; make or fetch it again"
_PNG_BEGIN: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"IEND\xaeB`\x82"
_PNG_TAIL_BYTES: Final = 4096


def describe(uri: str, *, label: bool = False) -> RasterInfo:
    """Read the header.

    Args:
        uri: local path or s3:// URI.
        label: check it as a label (one band of integers) instead of as an image.

    Raises:
        SceneError: missing, empty, not a raster, damaged, or of a data type that images cannot have.
        LabelError: the label has several bands or no integers.
    """
    with _translated(uri), closing(_open(uri)) as handle:
        if label:
            _check_label(handle)
        elif handle.dtype not in DTYPES:
            raise SceneError(
                f"{uri}: bands of type {handle.dtype}; images are {', '.join(DTYPES)}",
                "convert it, for instance with `gdal_translate -ot Float32`",
            )
        return handle.info


def read(uri: str, window: Window, *, nodata: float | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of an image.

    Args:
        uri: local path or s3:// URI.
        window: may reach outside the raster.
        nodata: pixels of this value are invalid, in addition to what the file says.

    Returns:
        Pixels [C, h, w] in the file's dtype, without an alpha band, and validity [h, w]: every band of the pixel is
        finite and not nodata, and neither mask nor alpha hide it. Outside the raster pixels are 0 and invalid.

    Raises:
        SceneError: the file is missing or cannot be read.
    """
    with _translated(uri):
        return _read(_handles.get(uri), window, nodata)


def read_label(uri: str, window: Window) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Read a window of a label: values as delivered [h, w] (of a palette the indices) and validity [h, w].

    Invalid is what the file marks as nodata or masks out, and what lies outside the raster.

    Raises:
        SceneError: the file is missing or cannot be read.
        LabelError: it has several bands, or no integers.
    """
    with _translated(uri):
        handle = _handles.get(uri)
        _check_label(handle)
        pixels, valid = _read(handle, window, None)
    limits = np.iinfo(np.int32)
    if pixels.dtype.itemsize >= 4 and (pixels.min() < limits.min or pixels.max() > limits.max):
        raise LabelError(f"{uri}: label values beyond 32 bits: {pixels.min()} to {pixels.max()}", "use smaller values")
    return pixels[0].astype(np.int32), valid


def probe(uri: str) -> str:
    """Read the first, the middle and the last block, to find files that were cut off.

    Returns:
        16 hex digits of the pixels read, of the header and of the file's size: another content has other digits,
        whatever the file's date. (Of a large file that is rewritten in place, pixel by pixel, it may miss a change.)

    Raises:
        SceneError: a block cannot be read.
    """
    with _translated(uri), closing(_open(uri)) as handle:
        dataset = handle.dataset
        digest = blake2b(f"{store.size_of(uri)} {handle.info}".encode(), digest_size=8)
        height, width = dataset.block_shapes[0]
        down, right = (dataset.height - 1) // height, (dataset.width - 1) // width
        for row, col in sorted({(0, 0), (down // 2 * height, right // 2 * width), (down * height, right * width)}):
            window = Window(row, col, min(height, dataset.height - row), min(width, dataset.width - col))
            for array in _read(handle, window, None):
                digest.update(array.tobytes())
        return digest.hexdigest()


def _read(handle: _Handle, window: Window, nodata: float | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    dataset = handle.dataset
    row, col = max(window.row, 0), max(window.col, 0)
    height = min(window.row + window.height, dataset.height) - row
    width = min(window.col + window.width, dataset.width) - col
    inside = Window(row, col, height, width)
    if inside == window:
        return _read_inside(handle, window, nodata)
    pixels = np.zeros((len(handle.bands), window.height, window.width), handle.dtype)
    valid = np.zeros((window.height, window.width), np.bool_)
    if height > 0 and width > 0:
        rows = slice(row - window.row, row - window.row + height)
        cols = slice(col - window.col, col - window.col + width)
        pixels[:, rows, cols], valid[rows, cols] = _read_inside(handle, inside, nodata)
    return pixels, valid


def _read_inside(handle: _Handle, window: Window, nodata: float | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    area = GdalWindow(window.col, window.row, window.width, window.height)
    pixels = handle.dataset.read(list(handle.bands), window=area)
    valid = np.ones(pixels.shape[1:], np.bool_)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    for band, declared in zip(pixels, handle.nodata, strict=True):
        for value in {declared, nodata}:
            stored = None if value is None else _stored(float(value), band.dtype)
            if stored is not None:
                valid &= band != stored
    if handle.masked:
        valid &= (handle.dataset.read_masks(list(handle.masked), window=area) > 0).all(axis=0)
    if handle.alpha:
        valid &= (handle.dataset.read(list(handle.alpha), window=area) > 0).all(axis=0)
    return pixels, valid


def _stored(value: float, dtype: np.dtype[Any]) -> Any:
    """A nodata value as the raster holds it, or None if its dtype cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value) if math.isfinite(value) else None
    if dtype.kind not in "iu" or not value.is_integer():
        return None
    limits = np.iinfo(dtype)
    return dtype.type(int(value)) if limits.min <= value <= limits.max else None


def _check_label(handle: _Handle) -> None:
    if len(handle.bands) != 1:
        raise LabelError(
            f"{handle.uri}: the label has {len(handle.bands)} bands", "a label is one band of class values, not colours"
        )
    if np.dtype(handle.dtype).kind not in "iub":
        raise LabelError(f"{handle.uri}: label values of type {handle.dtype}", "a label holds integers")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """GDAL set up as the store says, and its errors as ours."""
    with gdal.environment(fast_png=store.is_local(uri)):
        try:
            yield
        except FileNotFoundError as error:
            raise SceneError(f"{uri}: no such file", "check the path") from error
        except gdal.READ_ERRORS as error:
            _handles.forget(uri)
            raise SceneError(f"{uri}: cannot be read ({gdal.reason(error)})", _DAMAGED) from error


def _open(uri: str) -> _Handle:
    if store.size_of(uri) == 0:
        raise SceneError(f"{uri}: the file is empty", "make or fetch it again")
    if store.is_local(uri) and _is_cut_off(Path(store.gdal_path(uri))):
        raise SceneError(f"{uri}: cannot be read (the PNG was cut off)", _DAMAGED)
    # rasterio.open takes one driver only.
    handle = _Handle(uri, DatasetReader(store.gdal_path(uri), driver=list(_DRIVERS)))
    try:
        _check(handle)
    except SceneError:
        handle.close()
        raise
    return handle


def _is_cut_off(path: Path) -> bool:
    """True for a PNG without an end. The fast way of reading it does not notice."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_PNG_BEGIN)) != _PNG_BEGIN:
            return False
        file.seek(max(0, path.stat().st_size - _PNG_TAIL_BYTES))  # some programs append something
        return _PNG_END not in file.read()


def _check(handle: _Handle) -> None:
    """Refuse what would exhaust memory or has no meaning here."""
    uri, dataset = handle.uri, handle.dataset
    if dataset.height * dataset.width > _MAX_PIXELS:
        raise SceneError(f"{uri}: its header claims {dataset.width} × {dataset.height} pixels", "the file is damaged")
    if not handle.bands:
        raise SceneError(f"{uri}: it has no band besides alpha", "an image needs at least one band")
    if handle.dtype.startswith("complex"):
        raise SceneError(f"{uri}: pixels are complex numbers", "convert it to amplitudes")
    height, width = dataset.block_shapes[0]
    block = height * width * dataset.count * np.dtype(handle.dtype).itemsize
    if block > _MAX_BLOCK_BYTES:
        raise SceneError(
            f"{uri}: stored in blocks of {width} × {height} pixels, so that any window needs {block >> 30} GiB",
            "rewrite it in tiles, for instance with `gdal_translate -of COG`",
        )


@dataclass(frozen=True)
class _Handle:
    """An open raster, and what is asked of it at every window."""

    uri: str
    dataset: Any

    def close(self) -> None:
        """Give the file back."""
        self.dataset.close()

    @cached_property
    def bands(self) -> tuple[int, ...]:
        """Positions (from 1) of the bands that are no alpha."""
        return tuple(i for i in self.dataset.indexes if i not in self.alpha)

    @cached_property
    def alpha(self) -> tuple[int, ...]:
        pairs = zip(self.dataset.indexes, self.dataset.colorinterp, strict=True)
        return tuple(i for i, meaning in pairs if meaning == ColorInterp.alpha)

    @cached_property
    def dtype(self) -> str:
        # All bands of the formats read here have the same.
        return str(self.dataset.dtypes[self.bands[0] - 1])

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        return tuple(self.dataset.nodatavals[i - 1] for i in self.bands)

    @cached_property
    def masked(self) -> tuple[int, ...]:
        """Bands whose mask must be read: one if they share it, none if values or alpha already tell."""
        flags = {i: self.dataset.mask_flag_enums[i - 1] for i in self.bands}
        told = ([MaskFlags.nodata], [MaskFlags.all_valid])
        own = tuple(i for i, f in flags.items() if f not in told and MaskFlags.alpha not in f)
        return own[:1] if all(MaskFlags.per_dataset in flags[i] for i in own) else own

    @property
    def info(self) -> RasterInfo:
        dataset = self.dataset
        names = (dataset.descriptions[i - 1] or f"band_{n}" for n, i in enumerate(self.bands, 1))
        crs = dataset.crs.to_wkt() if dataset.crs else None
        a, b, c, d, e, f = (float(v) for v in dataset.transform[:6])
        return RasterInfo(Grid(dataset.height, dataset.width, crs, (a, b, c, d, e, f)), tuple(names), self.dtype)


_handles = Handles(_open, _HANDLES_PER_THREAD)
