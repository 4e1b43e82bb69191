"""Whole slides and microscopy in TIFF: SVS, NDPI, OME-TIFF, ImageJ, and TIFFs in compressions that GDAL here lacks.

tifffile finds the pages, imagecodecs decodes single tiles. The levels are the format's own, without label and
thumbnail; `data.reading.mpp` makes the nearest one the finest.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import slide_metadata, slide_pages
from pipeline.data.rasters.formats.slide_pages import Level
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

# How descriptions of those begin whose pages mean something that GDAL does not know.
_VENDORS: Final = ("Aperio", "ImageJ=", "<OME", "<PerkinElmer", "<scn")
_XML_VENDORS: Final = ("<OME", "<scn", "<PerkinElmer", "<DataObject")
_SOFTWARE: Final = ("NDP.scan", "Philips")
_KEPT_BYTES: Final = 32 << 20


def is_slide(description: str, software: str) -> bool:
    """Whether a TIFF's description or software is that of a slide scanner or microscope."""
    if software.startswith(_SOFTWARE):
        return True
    if description.startswith("<?xml"):
        return any(mark in description[:2000] for mark in _XML_VENDORS)
    return description.startswith(_VENDORS)


@dataclass(frozen=True)
class SlideReader(raster_reader.ReaderBase):
    """An open slide. Tiles decoded last are kept, for the next window."""

    uri: str
    file: Any
    levels: tuple[Level, ...]
    info: RasterInfo
    palette: NDArray[np.uint8] | None
    _kept: OrderedDict[tuple[int, int, int], NDArray[Any] | None] = field(default_factory=OrderedDict)

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        self.file.close()

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values; tiles that the scanner left out and transparent pixels are invalid."""
        with raster_reader.parsing(self.uri):
            source = self.levels[level]
            wanted = list(range(self.num_bands)) if bands is None else list(bands)
            stored = [0] if self.palette is not None else wanted
            valid = np.ones((window.height, window.width), np.bool_)
            pixels = np.zeros((len(stored), window.height, window.width), source.dtype)
            for plane in dict.fromkeys(source.plane(band, window.slice) for band in stored):
                own = [n for n, band in enumerate(stored) if source.plane(band, window.slice) == plane]
                samples = [source.sample(stored[n]) for n in own]
                self._read_plane(level, plane, window, (pixels, own, samples), valid)
        if self.palette is not None:
            pixels = self.palette[wanted][:, pixels[0]]
        valid &= raster_reader.finite(pixels)
        return Pixels(pixels, valid)

    def _read_plane(
        self,
        level: int,
        plane: int,
        window: Window,
        target: tuple[NDArray[Any], list[int], list[int]],
        valid: NDArray[np.bool_],
    ) -> None:
        """Put samples of one page into some bands of the target."""
        pixels, own, samples = target
        source = self.levels[level]
        for position in source.tiles(window):
            top, left = position[0] * source.tile[0], position[1] * source.tile[1]
            r0, r1 = max(top, window.row), min(top + source.tile[0], window.row + window.height)
            c0, c1 = max(left, window.col), min(left + source.tile[1], window.col + window.width)
            rows, cols = slice(r0 - window.row, r1 - window.row), slice(c0 - window.col, c1 - window.col)
            parts = {s: self._tile(level, plane, source.number(position, s)) for s in samples}
            for band, sample in zip(own, samples, strict=True):
                part = parts[sample]
                if part is None:
                    valid[rows, cols] = False
                    continue
                here = part[r0 - top : r1 - top, c0 - left : c1 - left]
                pixels[band, rows, cols] = here[..., source.channel(sample)]
            if source.alpha is not None:
                part = self._tile(level, plane, source.number(position, source.alpha))
                if part is not None:
                    here = part[r0 - top : r1 - top, c0 - left : c1 - left]
                    valid[rows, cols] &= here[..., source.channel(source.alpha)] > 0

    def _tile(self, level: int, plane: int, number: int) -> NDArray[Any] | None:
        key = (level, plane, number)
        if key not in self._kept:
            self._kept[key] = slide_pages.decode(self.uri, self.file, self.levels[level], plane, number)
            while sum(t.nbytes for t in self._kept.values() if t is not None) > _KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def open_slide(uri: str, path: Path, *, label: bool, reading: Reading) -> SlideReader:
    """Open a TIFF by tifffile.

    Raises:
        SceneError: damaged, of axes that are no image's, without the resolution that the recipe asks for, or in a
            compression that needs imagecodecs where that is missing.
    """
    tifffile = raster_reader.library("tifffile", extra="wsi", uri=uri)
    raster_reader.library("imagecodecs", extra="wsi", uri=uri)
    with raster_reader.parsing(uri):
        file = tifffile.TiffFile(path)
        try:
            return _reader(uri, file, label, reading)
        except BaseException:
            file.close()
            raise


def _reader(uri: str, file: Any, label: bool, reading: Reading) -> SlideReader:
    levels = slide_pages.levels(uri, file, reading)
    mpp = slide_metadata.micrometers(file)
    first = 0
    if reading.mpp is not None:
        if mpp is None:
            raise SceneError(
                f"{uri}: it does not say how many micrometres a pixel is, so data.reading.mpp cannot choose a level",
                "leave data.reading.mpp out for such files",
            )
        steps = [mpp[1] * levels[0].width / level.width for level in levels]
        first = min(range(len(levels)), key=lambda n: abs(math.log(steps[n] / (reading.mpp or 1))))
    chosen = levels[first:]
    finest = chosen[0]
    transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    if mpp is not None:
        down, across = mpp[0] * levels[0].height / finest.height, mpp[1] * levels[0].width / finest.width
        transform = (across, 0.0, 0.0, 0.0, down, 0.0)
    palette = None if label else slide_pages.palette(finest)
    count = 3 if palette is not None else finest.num_bands
    info = RasterInfo(
        Grid(finest.height, finest.width, None, transform),
        slide_metadata.band_names(file, count),
        "uint8" if palette is not None else finest.dtype,
        finest.slices,
        finest.tile,
        tuple((level.height, level.width) for level in chosen),
        _format(file, finest, mpp, first),
        alpha=() if finest.alpha is None else (count,),
        hides=finest.alpha is not None,
        finest=(levels[0].height, levels[0].width) if first else (),
    )
    return SlideReader(uri, file, tuple(chosen), info, palette)


def _format(file: Any, level: Level, mpp: tuple[float, float] | None, first: int) -> str:
    kind = {"svs": "SVS", "ome": "OME-TIFF", "ndpi": "NDPI", "imagej": "ImageJ TIFF"}.get(
        str(file.series[0].kind), "TIFF by tifffile"
    )
    compression = getattr(level.page.compression, "name", str(level.page.compression)).lower()
    parts = [f"{kind} {compression}"]
    if mpp is not None:
        parts.append(f"{mpp[1]:.4g} µm per pixel")
    if first:
        parts.append(f"level {first}")
    return ", ".join(parts)
