"""URIs: their kinds, how they are joined, and their names in S3 and GDAL. Pure text; nothing is read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pipeline.errors import StorageError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KINDS: Final = "give a local path, an s3:// URI, or an https:// address to read from"


FILE_SEPARATOR: Final = "\n"
"""Between the URIs of an image whose bands are in files of their own: a line feed, which no URI holds."""


def is_local(uri: str) -> bool:
    """True for a path or file:// URI of this machine."""
    return _SCHEME.match(uri) is None or uri.startswith("file://")


def is_web(uri: str) -> bool:
    """True for an address that can only be read: https:// or http://."""
    return uri.startswith(("https://", "http://"))


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
    """GDAL's name of a URI: s3://bucket/key is /vsis3/bucket/key, https:// gets /vsicurl/, a local path stays.

    Raises:
        StorageError: the URI has another scheme, or is one of GDAL's own virtual paths, which could reach anywhere.
    """
    if is_local(uri):
        path = str(local_path(uri))
        if path.startswith("/vsi"):
            raise StorageError(f"{uri}: GDAL's virtual paths are not allowed", _KINDS)
        return path
    return "/vsicurl/" + uri if is_web(uri) else "/vsis3/" + s3_path(uri)


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    return Path(uri.removeprefix("file://"))


def s3_path(uri: str) -> str:
    """Bucket and key of an s3:// URI, as s3fs wants them.

    Raises:
        StorageError: the URI has another scheme.
    """
    scheme, _, rest = uri.partition("://")
    if is_web(uri):
        raise StorageError(f"{uri}: {scheme}:// can only be read", "write to a local path or an s3:// URI")
    if scheme != "s3":
        raise StorageError(f"{uri}: {scheme}:// is not supported", _KINDS)
    return rest.rstrip("/")


def absolute(root: str) -> str:
    """Make a local folder absolute, since workers have other working directories; of a URI remove the last slash."""
    return os.path.abspath(os.path.expanduser(root)) if is_local(root) else root.rstrip("/")  # noqa: PTH100, PTH111
