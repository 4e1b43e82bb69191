"""URIs: which kinds there are, how they are joined, what S3 and GDAL call them. Pure text; nothing is read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pipeline.errors import StorageError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ENDPOINT: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")


def is_local(uri: str) -> bool:
    """True for a path or file:// URI of this machine."""
    return _SCHEME.match(uri) is None or uri.startswith("file://")


def join(uri: str, *parts: str) -> str:
    """Append parts. As in os.path.join an absolute local path or a whole URI replaces what stands before it."""
    for part in parts:
        if _SCHEME.match(part) or (part.startswith("/") and is_local(uri)):
            uri = part
        elif part.strip("/"):
            base = uri.rstrip("/") if uri.strip("/") else uri
            uri = f"{base}{'' if base in ('', '/') else '/'}{part.lstrip('/')}"
    return uri


def gdal_path(uri: str) -> str:
    """What GDAL calls this URI: s3://bucket/key is /vsis3/bucket/key, a local path stays as it is.

    Raises:
        StorageError: the URI has another scheme, or is one of GDAL's own virtual paths, which could reach anywhere.
    """
    if is_local(uri):
        path = str(local_path(uri))
        if path.startswith("/vsi"):
            raise StorageError(f"{uri}: GDAL's virtual paths are not allowed", "give a local path or an s3:// URI")
        return path
    return "/vsis3/" + s3_path(uri)


def gdal_env() -> dict[str, str]:
    """GDAL options for windowed reading, local and from the same S3 endpoint that the rest of the program uses."""
    options = {
        # Do not list the folder (buckets can hold millions of files), but still look for mask and metadata files.
        "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "GDAL_HTTP_MAX_RETRY": "5",
        "GDAL_HTTP_RETRY_DELAY": "0.5",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        "GDAL_HTTP_TIMEOUT": "60",
        "GDAL_CACHEMAX": "256",  # MB; the default is 5 % of the machine for each of many processes
        "GDAL_NUM_THREADS": "1",
    }
    if area := region():
        options["AWS_REGION"] = area
    if server := endpoint():
        parts = urlsplit(server if "://" in server else f"https://{server}")
        options["AWS_S3_ENDPOINT"] = parts.netloc + parts.path.rstrip("/")
        options["AWS_HTTPS"] = "NO" if parts.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    return Path(uri.removeprefix("file://"))


def s3_path(uri: str) -> str:
    """Bucket and key of an s3:// URI, as s3fs wants them."""
    scheme, _, rest = uri.partition("://")
    if scheme != "s3":
        raise StorageError(f"{uri}: {scheme}:// is not supported", "give a local path or an s3:// URI")
    return rest.rstrip("/")


def endpoint() -> str | None:
    """The S3 endpoint that the environment names; None means AWS."""
    return _first(_ENDPOINT)


def region() -> str | None:
    """The S3 region that the environment names."""
    return _first(_REGION)


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
