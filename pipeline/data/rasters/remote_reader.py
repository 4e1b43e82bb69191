"""Remote rasters: reads are retried after transient failures, and cached on the node's disk."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.rasters import gdal_env, raster_reader
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.tile_cache import TileCache
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import StorageError

_log: Final = logging.getLogger(__name__)
_TRIES: Final = 3
_STAMP_S: Final = 300

ResultT = TypeVar("ResultT")


class RemoteReader:
    """A reader (`readers.protocol.Reader`) of a file in a bucket or on a web server; of one thread, like any other.

    It opens the file at once, and again after a failure that passes: throttling, a broken connection, credentials
    that have expired. Where the recipe asks for a cache, windows come from the node's disk as far as they are there.
    """

    def __init__(self, uri: str, opener: Callable[[], Reader], *, variant: str = "") -> None:
        """Open it.

        Args:
            uri: s3:// or https://.
            opener: opens it; GDAL is set up around the call.
            variant: everything besides the file that its pixels depend on, such as the recipe's `reading`.

        Raises:
            SceneError: there is no such file, or it is damaged.
            StorageError: the store forbids it or does not answer, also after several tries.
        """
        self.uri, self._opener, self._variant = uri, opener, variant
        self._reader = with_retries(uri, opener)

    @cached_property
    def height(self) -> int:
        """Rows of the finest level."""
        return self._reader.height

    @cached_property
    def width(self) -> int:
        """Columns of the finest level."""
        return self._reader.width

    @cached_property
    def slices(self) -> int:
        """Slices of a volume; 1 of everything else."""
        return self._reader.slices

    @cached_property
    def num_bands(self) -> int:
        """Bands, alpha left out."""
        return self._reader.num_bands

    @cached_property
    def dtype(self) -> str:
        """Data type of the values as delivered."""
        return self._reader.dtype

    @cached_property
    def grid(self) -> Grid:
        """Grid of the finest level."""
        return with_retries(self.uri, lambda: self._reader.grid, self._reopen)

    @cached_property
    def info(self) -> RasterInfo:
        """The header."""
        return with_retries(self.uri, lambda: self._reader.info, self._reopen)

    def read(self, window: Window, bands: Sequence[int] | None = None, level: int = 0) -> Pixels:
        """Values as delivered [C, h, w] and validity [h, w] of a window inside the raster, in pixels of `level`.

        Raises:
            SceneError: the file is damaged or gone.
            StorageError: the store forbids it or does not answer, also after several tries.
        """

        def source(area: Window) -> Pixels:
            return with_retries(self.uri, lambda: self._reader.read(area, bands, level), self._reopen)

        cache = store.shared_cache()
        if cache is None:
            return source(window)
        return self._cells(level, tuple(bands) if bands is not None else None).read(window, cache, source)

    def present(self, window: Window) -> NDArray[np.bool_]:
        """Pixels [h, w] that the file holds, whatever their value is.

        Raises:
            SceneError, StorageError: as for `read`.
        """
        return with_retries(self.uri, lambda: raster_reader.present(self._reader, window), self._reopen)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def _cells(self, level: int, bands: tuple[int, ...] | None) -> TileCache:
        stamp = _stamp(self.uri, os.getpid(), int(time.monotonic() // _STAMP_S))
        height, width = self.info.levels[level] if self.info.levels else (self.height, self.width)
        name = json.dumps(["cell", self.uri, stamp, self._variant, level, bands])
        return TileCache(name, height, width, self.info.tile)

    def _reopen(self) -> None:
        try:
            self._reader.close()
        except gdal_env.READ_ERRORS:
            _log.debug("closing %s failed", self.uri)
        self._reader = self._opener()


def with_retries(uri: str, attempt: Callable[[], ResultT], again: Callable[[], Any] | None = None) -> ResultT:
    """`attempt`, with GDAL set up, and a few times more where a store was throttling, away, or only seemed damaged.

    Args:
        uri: what is read.
        attempt: what to do; it may raise GDAL's errors.
        again: called before each further attempt.

    Raises:
        SceneError: there is no such file, or it is damaged.
        StorageError: the store forbids it, or did not answer at all attempts.
    """
    for number in range(1, _TRIES + 1):
        try:
            with gdal_env.environment(uri=uri, anew=number > 1):
                if number > 1:
                    gdal_env.forget(uri)
                    if again is not None:
                        again()
                return attempt()
        except gdal_env.READ_ERRORS as error:
            found = gdal_env.failure(uri, error)
            # What was cut off on the way looks like a damaged file: that is tried once more, without waiting.
            if number == _TRIES or (number > 1 and not isinstance(found, StorageError)):
                raise found from error
            _log.info("%s (try %d of %d)", found.message, number, _TRIES)
            if isinstance(found, StorageError):
                store.pause(number)
    raise AssertionError("not reached")


@lru_cache(maxsize=4096)
def _stamp(uri: str, _process: int, _minutes: int) -> str:
    """The stamp of a file, checked every few minutes: a replaced file must not be combined with cached pixels."""
    return store.stamp(uri)
