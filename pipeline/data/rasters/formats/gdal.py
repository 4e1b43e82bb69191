"""Formats that GDAL reads: GeoTIFF, COG, PNG, JPEG, JPEG 2000 and others, through an allow-list of its drivers.

The list holds formats that are complete in themselves. GDAL's others can point at foreign files and servers, whatever
the file is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window as GdalWindow

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.dtypes import Rule, not_nodata, stored_as
from pipeline.data.rasters.formats.gcps import placed
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import DAMAGED
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

DRIVERS: Final = (
    *("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "BMP", "GIF", "BIGGIF", "WEBP", "PNM"),
    *("HFA", "ENVI", "EHdr", "AAIGrid", "SRTMHGT", "DTED", "NITF", "USGSDEM", "SIGDEM"),
    *("SAGA", "RST", "RRASTER", "PCRaster", "GSAG", "GSBG", "GS7BG"),
)
# To reach any row of these everything before it must be decompressed.
_WHOLE: Final = ("PNG", "JPEG", "GIF", "BIGGIF", "WEBP")
# Their frames are bands to GDAL.
_FRAMES: Final = ("GIF", "BIGGIF")
_ANIMATED: Final = ("PNG", "WEBP")
_SAME_SHAPE: Final = 0.02
_MAX_BANDS: Final = 10_000
_MASK_PIXELS: Final = 64 << 20


def open_gdal(uri: str, path: str, *, label: bool, reading: Reading, drivers: Sequence[str] = DRIVERS) -> GdalReader:
    """Open a raster; GDAL is set up already.

    Args:
        uri: for messages.
        path: what GDAL calls it.
        label: a palette's indices are wanted, not its colours.
        reading: limits.
        drivers: GDAL's short names of the formats that are allowed.

    Raises:
        SceneError: it would exhaust memory, or its header has no meaning.
    """
    # rasterio.open takes one driver only.
    dataset = DatasetReader(path, driver=list(drivers))
    alpha = label or reading.alpha == "mask"
    as_stored = label or reading.greys == "stored"
    reader = GdalReader(uri, path, dataset, label, tuple(drivers), alpha, as_stored, reading.nodata_rule)
    try:
        _check(reader, reading)
    except BaseException:
        reader.close()
        raise
    return reader


def _check(reader: GdalReader, reading: Reading) -> None:
    """Refuse what would exhaust memory or has no meaning here."""
    uri, dataset = reader.uri, reader.dataset
    raster_reader.check_size(uri, dataset.height, dataset.width, 1, reading)
    if dataset.count > _MAX_BANDS:
        raise SceneError(f"{uri}: its header claims {dataset.count} bands", DAMAGED)
    if "OVERVIEW_FILE" in dataset.tags(ns="OVERVIEWS"):
        raise SceneError(f"{uri}: its header names another file as its overviews", "remove that entry")
    frames = _frames(dataset, reader.path) if dataset.driver == "WEBP" else 1
    if frames > 1:
        raise SceneError(f"{uri}: an animation of {frames} frames, which GDAL does not read", "save one frame as PNG")
    if not reader.bands:
        raise SceneError(f"{uri}: it has no band besides alpha", "an image needs at least one band")
    if len({dataset.dtypes[i - 1] for i in reader.bands}) > 1:
        raise SceneError(f"{uri}: its bands are of different types: {', '.join(dataset.dtypes)}", "convert it to one")
    if reader.dtype.startswith("complex"):
        raise SceneError(f"{uri}: pixels are complex numbers", "convert it to amplitudes")
    if not all(math.isfinite(v) for v in dataset.transform[:6]):
        raise SceneError(f"{uri}: its transform holds no numbers: {dataset.transform[:6]}", "write it again")
    pixel = dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    if dataset.driver in _WHOLE:
        size = dataset.height * dataset.width * pixel
        raster_reader.check_whole(
            uri, size, f"a {dataset.driver}", "convert it, for instance with `gdal_translate -of COG`"
        )
    height, width = dataset.block_shapes[0]
    raster_reader.check_block(uri, height, width, pixel)


def _frames(dataset: Any, path: str) -> int:
    """How many pictures a file holds that are no pages to GDAL; 1 if that is not known, as of remote files."""
    if dataset.driver in _FRAMES:
        return int(dataset.count)
    if dataset.driver not in _ANIMATED or not Path(path).is_file():
        return 1
    try:
        with Image.open(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1


@dataclass(frozen=True)
class GdalReader:
    """An open dataset, and what is asked of it at every window."""

    uri: str
    path: str
    dataset: Any
    label: bool
    drivers: tuple[str, ...]
    has_alpha: bool
    """What is tagged as alpha is a mask and no band."""
    as_stored: bool
    """Greys in order are positions in their palette, and 0 stays white."""
    rule: Rule

    def close(self) -> None:
        """Give the file back."""
        for level in self.__dict__.get("levels", ()):
            if level is not self:
                level.close()
        self.dataset.close()

    @cached_property
    def height(self) -> int:
        """Rows."""
        return int(self.dataset.height)

    @cached_property
    def width(self) -> int:
        """Columns."""
        return int(self.dataset.width)

    @property
    def slices(self) -> int:
        """A GDAL raster is no volume."""
        return 1

    @cached_property
    def num_bands(self) -> int:
        """Bands without alpha; a palette is one of greys or three of colours."""
        return len(self.bands) if self.palette is None else len(self.palette) - 1

    @cached_property
    def dtype(self) -> str:
        """Of all bands."""
        return "uint8" if self.palette is not None else str(self.dataset.dtypes[self.bands[0] - 1])

    @cached_property
    def bands(self) -> tuple[int, ...]:
        """Positions (from 1) of the bands that are no alpha; of frames, which GDAL takes for bands, the first."""
        found = tuple(i for i in self.dataset.indexes if i not in self.alpha)
        return found[:1] if self.dataset.driver in _FRAMES else found

    @cached_property
    def alpha(self) -> tuple[int, ...]:
        """Positions (from 1) of the bands that are."""
        if not self.has_alpha:
            return ()
        pairs = zip(self.dataset.indexes, self.dataset.colorinterp, strict=True)
        return tuple(i for i, meaning in pairs if meaning == ColorInterp.alpha)

    @cached_property
    def palette(self) -> NDArray[np.uint8] | None:
        """What the values of an image, which are positions in a palette, are shown as: [3, values] or [4, values].

        Grey and alpha, or red, green, blue and alpha. None without a palette, where positions are grey values, and
        where 0 is white, of which GDAL makes a palette (see `top`). Black and white alone are 0 and 1, as in images of
        one bit.
        """
        if self.label or not self._has_palette or self.top is not None:
            return None
        colors = self.dataset.colormap(self.bands[0])
        table = np.zeros((4, 1 << (8 * np.dtype(self.dataset.dtypes[self.bands[0] - 1]).itemsize)), np.uint8)
        for value, color in colors.items():
            table[:, value] = color
        if (table[0] != table[1]).any() or (table[1] != table[2]).any():
            return table
        known = np.array(sorted(colors))
        if self.as_stored:
            steps = np.diff(table[0, known].astype(np.int16))
            in_order = bool((steps >= 0).all() or (steps <= 0).all())
            return None if in_order and (table[3, known] == 255).all() else table
        if sorted(table[0, known]) == [0, 255]:
            table[0] //= 255
        same = (table[0, known] == known).all() and (table[3, known] == 255).all()
        return None if same else table[[0, 3]]

    @property
    def _has_palette(self) -> bool:
        return len(self.bands) == 1 and self.dataset.colorinterp[self.bands[0] - 1] == ColorInterp.palette

    @cached_property
    def top(self) -> Any:
        """Of an image whose 0 is white the value that is black, from which values are subtracted; None of others."""
        dtype = np.dtype(self.dataset.dtypes[self.bands[0] - 1])
        inverted = self.dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        if self.as_stored or not inverted or len(self.bands) != 1 or dtype.kind != "u":
            return None
        bits = int(self.dataset.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8 * dtype.itemsize))
        return dtype.type((1 << bits) - 1)

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        """Of each band."""
        return tuple(self.dataset.nodatavals[i - 1] for i in self.bands)

    @cached_property
    def masked(self) -> tuple[int, ...]:
        """Bands with a mask that must be read: none where values or alpha already say so."""
        flags = {i: self.dataset.mask_flag_enums[i - 1] for i in self.bands}
        known = ([MaskFlags.nodata], [MaskFlags.all_valid])
        return tuple(i for i, f in flags.items() if f not in known and MaskFlags.alpha not in f)

    @cached_property
    def shares_mask(self) -> bool:
        """Whether one mask is that of all bands."""
        return all(MaskFlags.per_dataset in self.dataset.mask_flag_enums[i - 1] for i in self.masked)

    @cached_property
    def levels(self) -> tuple[GdalReader, ...]:
        """This one and its overviews, finest first.

        An overview that lacks the mask that the whole has, or shows something else, is left out. Where the mask
        hides something, but nothing in the coarsest overview, overviews lack it, and none is used.
        """
        found = [self]
        for number in range(len(self.dataset.overviews(self.bands[0]))):
            # GDAL_DISABLE_READDIR_ON_OPEN and the like hold for these, too.
            dataset = DatasetReader(self.path, driver=list(self.drivers), overview_level=number)
            level = replace(self, dataset=dataset)
            ratio = (self.width / level.width) / (self.height / level.height)
            short = min(level.height, level.width) < 16  # where rounding alone changes the ratio
            alike = (level.masked, level.alpha) == (self.masked, self.alpha)
            if alike and (short or abs(ratio - 1) < _SAME_SHAPE):
                found.append(level)
            else:
                level.close()
        found.sort(key=lambda level: -level.width)
        if len(found) > 1 and self.masked and not found[-1]._hides(False) and self._hides(True):
            for level in found[1:]:
                level.close()
            del found[1:]
        return tuple(found)

    def _hides(self, unknown: bool) -> bool:
        """Whether the mask hides any pixel; of a large raster that is not known.

        Of an overview without a mask GDAL says that it has one, and that all is valid.
        """
        if self.height * self.width > _MASK_PIXELS:
            return unknown
        return bool((self.dataset.read_masks(list(self.masked)) == 0).any())

    @property
    def grid(self) -> Grid:
        """By transform or by control points."""
        return self._placed[0]

    @cached_property
    def info(self) -> RasterInfo:
        """What the header says."""
        dataset = self.dataset
        grid, note = self._placed
        names = tuple(self._name(i) or f"band_{n}" for n, i in enumerate(self.bands, 1))
        nodata = self.nodata
        if self.palette is not None:
            names, nodata = tuple(f"band_{n}" for n in range(1, self.num_bands + 1)), (None,) * self.num_bands
            note += ", a palette read as greys" if self.num_bands == 1 else ", a palette read as colours"
        if self.top is not None:
            nodata = tuple(value if value is None else float(self.top) - value for value in nodata)
            note += ", 0 is white and read as the highest value"
        compression = str(getattr(dataset.compression, "value", dataset.compression) or "").lower()
        layout = ("tiled" if dataset.profile.get("tiled") else "strips") if dataset.driver == "GTiff" else ""
        count = len(dataset.subdatasets) or _frames(dataset, self.path)
        pages = f", page 1 of {count}" if count > 1 else ""
        return RasterInfo(
            grid,
            names,
            self.dtype,
            tile=tuple(dataset.block_shapes[0]),
            levels=tuple((level.height, level.width) for level in self.levels),
            format=" ".join(part for part in (dataset.driver, compression, layout) if part) + pages + note,
            nodata=nodata,
            alpha=tuple(i - 1 for i in self.alpha),
            palette=self.label and self._has_palette,
            hides=bool(self.masked or self.alpha or self._has_palette or any(v is not None for v in self.nodata)),
        )

    def _name(self, band: int) -> str:
        """What the file calls a band; of GRIB what it is, where it is, and when."""
        if self.dataset.driver != "GRIB":
            return self.dataset.descriptions[band - 1] or ""
        tags = self.dataset.tags(band)
        parts = [tags.get(f"GRIB_{key}", "") for key in ("ELEMENT", "SHORT_NAME", "VALID_TIME")]
        return "_".join(part.strip().split(" ")[0] for part in parts if part.strip())

    @cached_property
    def _placed(self) -> tuple[Grid, str]:
        return placed(self.dataset)

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered, of a palette its colours, and what nodata, mask and alpha leave valid."""
        source = self.levels[level] if level else self
        area = GdalWindow(window.col, window.row, window.width, window.height)
        if self.palette is not None:
            return source._read_palette(self.palette, area, bands)
        chosen = self.bands if bands is None else tuple(self.bands[b] for b in bands)
        pixels = source.dataset.read(list(chosen), window=area)
        valid = raster_reader.finite(pixels)
        declared = self.nodata if bands is None else tuple(self.nodata[b] for b in bands)
        measured = not_nodata(pixels, declared, self.rule)
        if measured is not None:
            valid &= measured
        return Pixels(pixels if self.top is None else self.top - pixels, source._unmasked(valid, area, chosen))

    def _unmasked(self, valid: NDArray[np.bool_], area: GdalWindow, chosen: Sequence[int]) -> NDArray[np.bool_]:
        asked = self.masked[:1] if self.shares_mask else tuple(i for i in self.masked if i in chosen)
        if asked:
            valid &= (self.dataset.read_masks(list(asked), window=area) > 0).all(axis=0)
        if self.alpha:
            valid &= (self.dataset.read(list(self.alpha), window=area) > 0).all(axis=0)
        return valid

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Pixels [h, w] that no mask band hides, whatever is declared as nodata or transparent."""
        valid = np.ones((window.height, window.width), np.bool_)
        bands = [i for i in self.masked if MaskFlags.nodata not in self.dataset.mask_flag_enums[i - 1]]
        if bands:
            area = GdalWindow(window.col, window.row, window.width, window.height)
            valid &= (self.dataset.read_masks(bands, window=area) > 0).all(axis=0)
        return valid

    def _read_palette(self, palette: NDArray[np.uint8], area: GdalWindow, bands: Sequence[int] | None) -> Pixels:
        values = self.dataset.read(self.bands[0], window=area)
        colors = palette[:, values]
        valid = colors[-1] > 0
        stored = None if self.nodata[0] is None else stored_as(float(self.nodata[0]), values.dtype)
        if stored is not None:
            valid &= values != stored
        return Pixels(
            colors[list(range(len(palette) - 1) if bands is None else bands)], self._unmasked(valid, area, self.bands)
        )
