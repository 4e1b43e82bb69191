"""What reading and writing of rasters share: GDAL's options, its error messages, and what only it knows about CRS."""

from __future__ import annotations

import warnings
from typing import Any, Final

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession

from pipeline import store

READ_ERRORS: Final[tuple[type[Exception], ...]] = (RasterioError, CPLE_BaseError, ValueError, MemoryError)
"""What rasterio and GDAL raise over a damaged file."""
WRITE_ERRORS: Final[tuple[type[Exception], ...]] = (RasterioError, CPLE_BaseError, OSError)
"""What they raise when a file cannot be written."""


# Scans and microscopy have no coordinates, and that is fine.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def environment(*, fast_png: bool = False) -> Any:
    """Context manager: GDAL set up for this process, and for the buckets that the store reaches.

    `fast_png` halves the time for a whole PNG, but returns noise for one that was cut off.
    """
    options: dict[str, Any] = dict(store.gdal_env())
    options["GDAL_CACHEMAX"] = int(options["GDAL_CACHEMAX"]) << 20  # rasterio wants bytes
    # Otherwise GDAL fills the rest of a JPEG that was cut off with grey, and says nothing.
    options["GDAL_ERROR_ON_LIBJPEG_WARNING"] = "YES"
    options["GDAL_PNG_WHOLE_IMAGE_OPTIM"] = "YES" if fast_png else "NO"
    # Without a session rasterio asks boto3 for credentials each time; GDAL finds the same ones by itself.
    return rasterio.Env(session=DummySession(), **options)


def reason(error: BaseException) -> str:
    """GDAL's own words, which rasterio hides behind 'see previous exception'."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def same_crs(ours: str, theirs: str) -> bool:
    """Whether two descriptions (WKT, EPSG:1234 ...) mean the same CRS."""
    return ours == theirs or bool(rasterio.CRS.from_user_input(ours) == rasterio.CRS.from_user_input(theirs))


def short_crs(crs: str) -> str:
    """A CRS for a message: its code if it has one."""
    return str(rasterio.CRS.from_user_input(crs).to_string())
