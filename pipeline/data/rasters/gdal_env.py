"""GDAL's options, error messages and CRS comparison, shared by reading and writing."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession

from pipeline import store
from pipeline.data.rasters import horizontal_crs
from pipeline.errors import PipelineError, SceneError

READ_ERRORS: Final[tuple[type[Exception], ...]] = (RasterioError, CPLE_BaseError, ValueError, MemoryError)
"""What rasterio and GDAL raise over a damaged file."""
WRITE_ERRORS: Final[tuple[type[Exception], ...]] = (RasterioError, CPLE_BaseError, OSError)
"""What they raise when a file cannot be written."""

_DAMAGED: Final = "the file is damaged or of an unknown format; make or fetch it again"

# Scans and microscopy have no coordinates, and that is fine.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_inside = threading.local()
"""What the environment that this thread is in was asked for."""


@contextmanager
def environment(*, fast_png: bool = False, uri: str = "", anew: bool = False) -> Iterator[None]:
    """Context manager: GDAL set up for this process, and for the buckets that the store reaches.

    Inside another one that asks for the same, it costs nothing: to set GDAL up takes a third of a millisecond.

    Args:
        fast_png: halves the time for a whole PNG, but returns noise for one that was cut off.
        uri: what will be read; of an s3:// URI GDAL gets the same credentials as the rest of the program.
        anew: forget what GDAL remembers of this URI, such as that it was not there.
    """
    wanted = (fast_png, "" if not uri or store.is_local(uri) else uri, anew)
    outside = getattr(_inside, "wanted", None)
    if outside == wanted:
        yield
        return
    _inside.wanted = wanted
    try:
        with _fresh_environment(*wanted):
            yield
    finally:
        _inside.wanted = outside


def _fresh_environment(fast_png: bool, uri: str, anew: bool) -> rasterio.Env:
    options: dict[str, Any] = dict(store.gdal_env())
    if options["GDAL_CACHEMAX"].isdigit():
        options["GDAL_CACHEMAX"] = int(options["GDAL_CACHEMAX"]) << 20  # rasterio wants bytes
    # Otherwise GDAL fills the rest of a JPEG that was cut off with grey, and says nothing.
    options["GDAL_ERROR_ON_LIBJPEG_WARNING"] = "YES"
    options["GDAL_PNG_WHOLE_IMAGE_OPTIM"] = "YES" if fast_png else "NO"
    if uri:
        options |= _sidecar_files(uri, os.getpid())
    if uri and anew:
        options["CPL_VSIL_CURL_NON_CACHED"] = store.gdal_path(uri)
    # Without a session rasterio asks boto3 for credentials each time.
    session = _Credentials() if uri.startswith("s3://") else DummySession()
    return rasterio.Env(session=session, **options)


@lru_cache(maxsize=16384)
def _sidecar_files(uri: str, _process: int) -> dict[str, str]:
    """Options that keep GDAL from asking for each file that could accompany this one: one request instead of 15.

    What is more, GDAL takes a mask that it could not fetch for one that does not exist.
    """
    # The files that a VRT names are not its sidecars.
    found = None if uri.lower().endswith(".vrt") else store.sidecar_endings(uri)
    if found is None:
        return {}
    if not found:
        return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    path = uri.partition("?")[0]
    return {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ",".join(sorted({PurePosixPath(path).suffix, *found}))}


class _Credentials(DummySession):  # type: ignore[misc]
    """The store's credentials, fetched when the environment is entered, so that they are never too old."""

    def get_credential_options(self) -> dict[str, str]:
        """As GDAL options."""
        return store.gdal_credentials()


def reason(error: BaseException) -> str:
    """GDAL's own words, which rasterio hides behind 'see previous exception'."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def failure(uri: str, error: BaseException) -> PipelineError:
    """The error that GDAL's failure means: damaged, missing, forbidden, or the store is unavailable.

    GDAL says "not recognized" of whatever it could not open, so for a remote file the store is asked, too.

    Returns:
        SceneError or StorageError, to be raised from `error`.

    Raises:
        StorageError: the store does not answer this question either, also after several tries.
    """
    damaged = SceneError(f"{uri}: cannot be read ({reason(error)})", _DAMAGED)
    if store.is_local(uri):
        return damaged
    what = store.meaning(_all_words(error))
    try:
        store.size_of(uri)
    except FileNotFoundError:
        return SceneError(f"{uri}: no such file", "check the path")
    if what in ("throttled", "away", "forbidden"):
        return store.failure(uri, "read", error, what)
    return damaged


def _all_words(error: BaseException | None) -> str:
    words = []
    while error is not None:
        words.append(f"{type(error).__name__} {error}")
        error = error.__cause__ or error.__context__
    return "; ".join(words)


def forget(uri: str) -> None:
    """Make GDAL forget what it has read of a remote file, inside `environment(uri=..., anew=True)`."""
    with suppress(*READ_ERRORS):
        # That it was not to be kept is acted upon when the file is closed.
        DatasetReader(store.gdal_path(uri), driver=["GTiff"]).close()


def same_crs(ours: str, theirs: str) -> bool:
    """Whether two descriptions (WKT, EPSG:1234 ...) mean the same horizontal CRS."""
    return horizontal_crs.same(ours, theirs)


def short_crs(crs: str) -> str:
    """A CRS for a message: its code if it has one."""
    return str(rasterio.CRS.from_user_input(crs).to_string())
