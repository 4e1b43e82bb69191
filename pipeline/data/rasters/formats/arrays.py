"""NumPy files: .npy, mapped so that only what is read is loaded, and .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

NPY_BEGIN: Final = b"\x93NUMPY"
ZIP_BEGIN: Final = b"PK\x03\x04"
IMAGE_KEYS: Final = ("image",)
LABEL_KEYS: Final = ("label", "mask")
_MAX_HEADER_BYTES: Final = 10_000


@dataclass(frozen=True)
class ArrayReader(raster_reader.ReaderBase):
    """An array [slices, C, H, W], in memory or mapped.

    `change` makes the values that are delivered out of those that are stored, and says which are valid.
    """

    info: RasterInfo
    array: NDArray[Any]
    change: Callable[[NDArray[Any]], Pixels] | None = None

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """A copy of the window."""
        rows, cols = raster_reader.cut(window)
        part = self.array[window.slice]
        pixels = np.array(part[:, rows, cols] if bands is None else part[list(bands), rows, cols])
        if self.change is not None:
            return self.change(pixels)
        pixels = pixels.astype(self.dtype, copy=False)  # the byte order of this machine
        return Pixels(pixels, raster_reader.finite(pixels))

    def close(self) -> None:
        """Nothing: the map goes with the array."""


def open_npy(uri: str, path: Path, *, label: bool, reading: Reading) -> ArrayReader:
    """Open a .npy file.

    Raises:
        SceneError: it is cut off, holds objects, or its shape is not that of an image.
    """
    with raster_reader.parsing(uri):
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file)
            offset = file.tell()
        _check(uri, shape, dtype, reading)
        have = path.stat().st_size - offset
        want = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if have < want:
            raise SceneError(f"{uri}: cannot be read (it has {have} of {want} bytes)", raster_reader.DAMAGED)
        array = np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
        return _reader(uri, array, "npy")


def open_npz(uri: str, path: Path, *, label: bool, reading: Reading) -> ArrayReader:
    """Open a .npz file with one array, or one called `image` (for a label: `label` or `mask`).

    Raises:
        SceneError: it is damaged, too large to be taken whole, or does not say which array is meant.
    """
    with raster_reader.parsing(uri), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        keys = [key for key in (LABEL_KEYS if label else IMAGE_KEYS) if key in names]
        if not keys and len(names) != 1:
            found = f"arrays {', '.join(names[:20])}" if names else "no arrays"
            raise SceneError(f"{uri}: a ZIP archive with {found}", "an .npz holds one array, or one called `image`")
        key = keys[0] if keys else names[0]
        with archive.open(f"{key}.npy") as file:
            shape, fortran, dtype = _header(file)
            _check(uri, shape, dtype, reading)
            want = int(np.prod(shape, dtype=object)) * dtype.itemsize
            raster_reader.check_whole(uri, want, "an array in an .npz", "save it as .npy, which is read in parts")
            data = file.read(want)
            if len(data) < want or file.read(1):
                raise SceneError(f"{uri}: cannot be read ({key} is not as long as it says)", raster_reader.DAMAGED)
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return _reader(uri, array, f"npz ({key})")


def as_bands(shape: tuple[int, ...]) -> tuple[int, str]:
    """Axis of an array of two or three that holds the bands (-1 if none), and its name.

    Of three axes the smaller outer one is bands; of equal ones the first.
    """
    if len(shape) == 2:
        return -1, "[H,W]"
    return (0, "[C,H,W]") if shape[0] <= shape[2] else (2, "[H,W,C]")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file, _MAX_HEADER_BYTES)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file, _MAX_HEADER_BYTES)
    raise ValueError(f"version {version} of the format")


def _check(uri: str, shape: tuple[int, ...], dtype: np.dtype[Any], reading: Reading) -> None:
    if dtype.hasobject or dtype.names or dtype.kind not in "buifc":
        raise SceneError(f"{uri}: an array of {dtype}", "an image holds numbers")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise SceneError(f"{uri}: an array of shape {shape}", "an image is [H,W], [H,W,C] or [C,H,W]")
    axis, _ = as_bands(shape)
    height, width = (size for number, size in enumerate(shape) if number != axis)
    raster_reader.check_size(uri, height, width, 1, reading)


def _reader(uri: str, array: NDArray[Any], kind: str) -> ArrayReader:
    axis, order = as_bands(array.shape)
    stack = (array[None] if axis < 0 else np.moveaxis(array, axis, 0))[None]
    _, bands, height, width = stack.shape
    names = tuple(f"band_{i}" for i in range(1, bands + 1))
    dtype = str(array.dtype.newbyteorder("="))
    grid = Grid(height, width)
    info = RasterInfo(grid, names, dtype, 1, (1, width), ((height, width),), f"{kind} {order}")
    return ArrayReader(info, stack)
