"""Local copies of remote files, for readers that need a whole file or directory."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.errors import StorageError
from pipeline.store import http, s3, settings
from pipeline.store.disk_cache import Cache
from pipeline.store.errors import translated
from pipeline.store.files import stamp
from pipeline.uris import is_local, is_web, join, local_path, s3_path

_PRIVATE_BYTES: Final = 4 << 30

_downloads: dict[str, Path] = {}


def local_file(uri: str) -> Path:
    """A local file with the content of a URI: itself, or a copy on the node's disk.

    Copies lie in the cache that the recipe asks for; without one, in a folder of this process that holds the last
    4 GiB. Open it soon: a copy goes when others need its place.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    if is_local(uri):
        return local_path(uri)
    # GDAL and others look at the ending.
    name = json.dumps(["file", uri, stamp(uri)])
    suffix = PurePosixPath(uri.partition("?")[0]).suffix
    return (shared_cache() or _private_cache(os.getpid())).file(name, lambda target: _fetch(uri, target), suffix=suffix)


def shared_cache() -> Cache | None:
    """The cache on the node's disk, if the recipe asks for one."""
    section = settings.current()
    if not section.cache:
        return None
    folder = section.cache_dir or str(Path(tempfile.gettempdir()) / f"segpipe-cache-{os.getuid()}")
    return _cache(folder, section.cache)


def download_dir(uri: str, *, names: Sequence[str] | None = None) -> Path:
    """A local directory with the files under `uri`: itself, or a copy that lives as long as this process.

    Args:
        uri: a local directory or an s3:// prefix.
        names: only these files, relative to `uri`; by default all.

    Raises:
        FileNotFoundError: there is nothing, or one of `names` is missing.
    """
    if is_local(uri):
        missing = [name for name in ("", *(names or ())) if not (local_path(uri) / name).exists()]
        if missing:
            raise FileNotFoundError(join(uri, missing[0]))
        return local_path(uri)
    stamps = s3.stamps_under(uri) if names is None else {name: stamp(join(uri, name)) for name in names}
    if not stamps:
        raise FileNotFoundError(uri)
    version = json.dumps([uri, sorted(stamps.items())])
    if version not in _downloads:
        _downloads.setdefault(version, _download(uri, sorted(stamps)))
    return _downloads[version]


def remove_at_exit(directory: Path) -> None:
    """Remove a temporary directory when this process ends; its forked children leave it alone."""
    owner = os.getpid()

    def clean() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(clean)


def _download(uri: str, names: Sequence[str]) -> Path:
    target = Path(tempfile.mkdtemp(prefix="segpipe-"))
    remove_at_exit(target)
    for name in names:
        path = target / _inside(name, uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(join(uri, name), path)
    return target


def _fetch(uri: str, target: Path) -> None:
    with translated(uri, "read"):
        if is_web(uri):
            http.download(uri, target)
        else:
            s3.system().get_file(s3_path(uri), str(target))


def _inside(name: str, uri: str) -> Path:
    """A relative name as a path that cannot leave its directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise StorageError(
            f"{uri} holds a file named {name!r}, which would be written outside the folder", "do not use it"
        )
    return Path(path)


@lru_cache(maxsize=8)
def _cache(folder: str, limit: int) -> Cache:
    return Cache(Path(folder), limit)


@lru_cache(maxsize=2)
def _private_cache(_process: int) -> Cache:
    folder = Path(tempfile.mkdtemp(prefix="segpipe-"))
    remove_at_exit(folder)
    return Cache(folder, _PRIVATE_BYTES)
