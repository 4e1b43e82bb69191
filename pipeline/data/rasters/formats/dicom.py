"""DICOM: one file, or a folder with the files of one series, as slices in the order of their positions.

Slices are shown as they were acquired, and run towards the left, the back or the head, whichever their direction is
nearest to. The grid has no CRS; its transform is in millimetres.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import dicom_header
from pipeline.data.rasters.formats.dicom_header import Header
from pipeline.data.rasters.formats.rescale import Rescale, result_dtype
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

_SAME_POSITION_MM: Final = 1e-3


class Frame(NamedTuple):
    """One slice: its file, its number in it, and how its values are measured."""

    path: Path
    number: int
    rescale: Rescale


@dataclass(frozen=True)
class DicomReader(raster_reader.ReaderBase):
    """A series. The frame read last is kept, for the next window of it."""

    uri: str
    info: RasterInfo
    frames: tuple[Frame, ...]
    colors: bool
    _last: dict[int, NDArray[Any]] = field(default_factory=dict)

    @property
    def slices(self) -> int:
        """Of all files."""
        return len(self.frames)

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Measured values, and what is no padding."""
        with raster_reader.parsing(self.uri):
            if window.slice not in self._last:
                self._last.clear()
                self._last[window.slice] = self._decode(self.frames[window.slice])
        rows, cols = raster_reader.cut(window)
        whole = self._last[window.slice]
        stored = np.array(whole[:, rows, cols] if bands is None else whole[list(bands), rows, cols])
        return self.frames[window.slice].rescale(stored)

    def close(self) -> None:
        """Nothing stays open."""
        self._last.clear()

    def _decode(self, frame: Frame) -> NDArray[Any]:
        pixels = dicom_header.decode(self.uri, frame.path, frame.number, colors=self.colors)
        array = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
        expected = (self.num_bands, self.height, self.width)
        if array.shape != expected:
            raise SceneError(
                f"{self.uri}: the pixels of {frame.path.name} have the shape {array.shape}, its header says {expected}",
                raster_reader.DAMAGED,
            )
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def open_dicom(uri: str, path: Path, *, label: bool, reading: Reading) -> DicomReader:
    """Open a file, or a folder that holds one series.

    Raises:
        SceneError: no pixels, several series or sizes, two slices at one place, or a compression that cannot be read.
    """
    raster_reader.library("pydicom", extra="medical", uri=uri)
    with raster_reader.parsing(uri):
        headers = _headers(uri, path)
        _check(uri, headers, reading)
        order = _order(uri, headers)
        limits = None if label else reading.hounsfield
        first = headers[0]
        colors = first.palette and not label
        kind = result_dtype(
            np.dtype(first.dtype),
            [scale for header in headers for scale in header.scales],
            limits=limits,
            stored_range=first.stored_range,
            hounsfield=first.modality == "CT",
        )
        if colors:
            kind = first.palette_dtype
        frames = [
            Frame(headers[n].path, i, Rescale(uri, *headers[n].scales[i], kind, limits, headers[n].padding))
            for n, i in order
        ]
        info = _info(first, kind, len(frames), 3 if colors else first.samples)
        return DicomReader(uri, info, tuple(frames), colors)


def _headers(uri: str, path: Path) -> list[Header]:
    if not path.is_dir():
        return [dicom_header.read(uri, path)]
    files = sorted(p for p in path.iterdir() if p.is_file() and p.name != "DICOMDIR" and not p.name.startswith("."))
    headers = [dicom_header.read(uri, file) for file in files if dicom_header.is_dicom_file(file)]
    if not headers:
        raise SceneError(
            f"{uri}: a folder without DICOM files or Zarr metadata", "name a file, or a folder of one series"
        )
    series = sorted({header.series for header in headers})
    if len(series) > 1:
        raise SceneError(
            f"{uri}: the folder holds {len(series)} DICOM series: {', '.join(series[:5])}",
            "put each into its own folder",
        )
    return headers


def _check(uri: str, headers: Sequence[Header], reading: Reading) -> None:
    first = headers[0]
    for header in headers:
        raster_reader.check_size(uri, header.rows, header.columns, max(1, header.frames), reading)
        raster_reader.check_block(uri, header.rows, header.columns, header.samples * np.dtype(header.dtype).itemsize)
        if header.layout != first.layout:
            raise SceneError(
                f"{uri}: {first.path.name} and {header.path.name} differ: {first.described} against {header.described}",
                "keep the slices of one volume in the folder",
            )
    if first.plane and reading.axis != "axial" and first.plane != reading.axis:
        raise SceneError(
            f"{uri}: its slices are {first.plane}, but data.reading.axis asks for {reading.axis}",
            "DICOM is read slice by slice as it was acquired; convert it to NIfTI to cut it another way",
        )


def _order(uri: str, headers: Sequence[Header]) -> list[tuple[int, int]]:
    """Positions (header, frame) of the slices in space, else by instance number, else by name."""
    frames = [(n, i) for n, header in enumerate(headers) for i in range(header.frames)]
    where = [headers[n].positions[i] if headers[n].positions else None for n, i in frames]
    if len(frames) > 1 and all(w is not None for w in where):
        placed = sorted(zip([w for w in where if w is not None], frames, strict=True))
        for (here, a), (there, b) in itertools.pairwise(placed):
            if there - here < _SAME_POSITION_MM:
                if len(headers) == 1:
                    return frames  # several segments or times in one file: in its own order
                names = f"{headers[a[0]].path.name} and {headers[b[0]].path.name}"
                raise SceneError(f"{uri}: {names} lie at the same place", "keep one time or phase in the folder")
        return [frame for _, frame in placed]
    numbers = [headers[n].number for n, _ in frames]
    if len(headers) > 1 and all(n is not None for n in numbers):
        return [frame for _, frame in sorted(zip([n for n in numbers if n is not None], frames, strict=True))]
    return frames


def _info(first: Header, dtype: str, slices: int, bands: int) -> RasterInfo:
    size = (first.rows, first.columns)
    notes = [first.syntax, *((first.photometric,) if first.photometric == "MONOCHROME1" else ())]
    return RasterInfo(
        Grid(*size, None, first.transform),
        tuple(f"band_{i}" for i in range(1, bands + 1)),
        dtype,
        slices,
        size,
        (size,),
        f"DICOM {first.modality} ({', '.join(notes)})" + (f", {first.plane} slices" if first.plane else ""),
        hides=first.padding is not None,
    )
