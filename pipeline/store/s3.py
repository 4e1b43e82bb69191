"""Access to S3 buckets through s3fs; the only file that imports it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from os.path import commonprefix
from typing import Any

import fsspec

from pipeline.store import settings
from pipeline.store.errors import translated
from pipeline.uris import s3_path

_systems: dict[tuple[str | None, ...], Any] = {}


def system() -> Any:
    """The s3fs instance of this process: they hold a thread and sockets, which do not survive a fork."""
    key = settings.key()
    if key not in _systems:
        options = {"use_listings_cache": False, "skip_instance_cache": True, **settings.s3_options()}
        _systems.setdefault(key, fsspec.filesystem("s3", **options))
    return _systems[key]


def exists(uri: str) -> bool:
    """True if there is an object, or anything under the prefix."""
    bucket, _, key = s3_path(uri).partition("/")
    with suppress(FileNotFoundError):
        # One key is enough; asking s3fs would list them all, and some servers keep directories without files.
        prefix = f"{key}/" if key else ""
        found = system().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(found.get("KeyCount")) or bool(key and system().isfile(s3_path(uri)))
    return False


def stamp(entry: Mapping[str, Any]) -> str:
    """The ETag of an object that s3fs has looked at."""
    return str(entry["ETag"]).strip('"')


def stamps_under(uri: str) -> dict[str, str]:
    """Relative name -> stamp of all objects under a prefix."""
    with translated(uri, "list"):
        prefix = s3_path(uri) + "/"
        entries = system().find(prefix, detail=True)
        return {n.removeprefix(prefix): stamp(entry) for n, entry in entries.items() if n.startswith(prefix)}


def stamps(uris: Iterable[str]) -> dict[str, str]:
    """URI -> stamp of those objects that there are, with one listing per folder."""
    folders = defaultdict[str, dict[str, str]](dict)
    for uri in uris:
        path = s3_path(uri)
        folders[path.rpartition("/")[0]][path] = uri
    found: dict[str, str] = {}
    for wanted in folders.values():
        # What the names have in common keeps the listing short where a folder holds much else.
        prefix = commonprefix(list(wanted))  # noqa: RUF071 - of characters, as buckets have it
        with translated(next(iter(wanted.values())), "list"), suppress(FileNotFoundError):
            found |= {wanted[path]: tag for path, tag in _listed(prefix) if path in wanted}
    return found


def sidecar_endings(uri: str) -> list[str]:
    """Names of the objects in the same folder that begin like this one up to its last dot; the first thousand."""
    folder, _, name = s3_path(uri).rpartition("/")
    stem, dot, _ = name.rpartition(".")
    prefix = f"{folder}/{stem}{dot}" if stem else f"{folder}/{name}"
    return [path.rpartition("/")[2] for path, _ in islice(_listed(prefix), 1000)]


def _listed(prefix: str) -> Iterator[tuple[str, str]]:
    """bucket/key and ETag of the objects whose name begins so, without those in deeper folders."""
    bucket, _, key = prefix.partition("/")
    request = {"Bucket": bucket, "Prefix": key, "Delimiter": "/"}
    while True:
        answer = system().call_s3("list_objects_v2", **request)
        for entry in answer.get("Contents", ()):
            yield f"{bucket}/{entry['Key']}", stamp(entry)
        if not answer.get("IsTruncated"):
            return
        request["ContinuationToken"] = answer["NextContinuationToken"]
