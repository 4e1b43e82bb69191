"""A reader of some of a raster's bands, in any order; other bands are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.data.rasters import band_names
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError


@dataclass(frozen=True)
class ChosenReader:
    """A reader (`protocol.Reader`) of the bands at some positions of another."""

    reader: Reader
    positions: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def height(self) -> int:
        """Rows of the finest level."""
        return self.reader.height

    @property
    def width(self) -> int:
        """Columns of the finest level."""
        return self.reader.width

    @property
    def slices(self) -> int:
        """Slices of a volume; 1 of everything else."""
        return self.reader.slices

    @property
    def num_bands(self) -> int:
        """Of those that are read."""
        return len(self.positions)

    @property
    def dtype(self) -> str:
        """Data type of the values as delivered."""
        return self.reader.dtype

    @property
    def grid(self) -> Grid:
        """Where the pixels of the finest level lie."""
        return self.reader.grid

    @cached_property
    def info(self) -> RasterInfo:
        """What the header says of these bands."""
        info = self.reader.info
        nodata = tuple(info.nodata[p] for p in self.positions) if info.nodata else ()
        return replace(info, bands=self.names, nodata=nodata)

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered [C, h, w] and validity [h, w] of these bands."""
        positions = self.positions if bands is None else [self.positions[band] for band in bands]
        return self.reader.read(window, list(positions), level)

    def close(self) -> None:
        """Release the file."""
        self.reader.close()


def choose(uri: str, reader: Reader, bands: Sequence[str | int] | None) -> Reader:
    """The reader itself, or of some of its bands; those that are asked for by name are called as they are asked for.

    Raises:
        SceneError: a band is not there.
    """
    if bands is None:
        return reader
    names, alpha = reader.info.bands, reader.info.alpha
    try:
        positions = band_names.chosen(uri, bands, names)
    except SceneError as error:
        if not alpha:
            raise
        numbers = ", ".join(str(position + 1) for position in alpha)
        hint = f"its band {numbers} is tagged as alpha, which is no band; `data.reading.alpha: band` makes it one"
        raise SceneError(error.message, hint) from None
    called = tuple(names[p] if isinstance(b, int) else b for p, b in zip(positions, bands, strict=True))
    if positions == tuple(range(len(names))) and called == names:
        return reader
    return ChosenReader(reader, positions, called)
