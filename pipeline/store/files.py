"""List and read files by URI."""

from __future__ import annotations

import glob as globbing
import json
import stat as stat_module
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from pipeline.errors import DamagedError, DataError, PipelineError, StorageError
from pipeline.store import http, s3, settings
from pipeline.store.errors import translated
from pipeline.uris import is_local, is_web, join, local_path, s3_path

T = TypeVar("T")

NOT_AS_WRITTEN: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
"""What the parser of a record raises where the record has other types, keys, lengths or depth."""
_MANY_READERS: Final = 16
_SIDECARS: Final = (".msk", ".ovr", ".aux.xml")


def exists(uri: str) -> bool:
    """True if there is a file or a directory (on S3: anything under the prefix; on the web: an answer)."""
    with translated(uri, "look at"):
        if is_local(uri):
            return local_path(uri).exists()
        if is_web(uri):
            try:
                http.head(uri)
            except FileNotFoundError:
                return False
            return True
        return s3.exists(uri)


def regular_file(uri: str) -> Path:
    """The path of a local file that can be opened: opening a pipe would wait for a writer.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is a directory, a pipe or a device, or cannot be looked at.
    """
    path = local_path(uri)
    with translated(uri, "read"):
        mode = path.stat().st_mode
    if not stat_module.S_ISREG(mode):
        kind = "a directory" if stat_module.S_ISDIR(mode) else "a pipe, socket or device"
        raise DataError(f"{uri} is {kind}, not a regular file", "give the path of a file")
    return path


def other_spelling(path: str) -> str | None:
    """A local path that differs from this one only in how Unicode writes its letters (NFC or NFD), if there is one."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if other != path and Path(other).exists():
            return other
    return None


def read_bytes(uri: str) -> bytes:
    """The whole content.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with translated(uri, "read"):
        if is_local(uri):
            return regular_file(uri).read_bytes()
        return http.read(uri) if is_web(uri) else bytes(s3.system().cat_file(s3_path(uri)))


def read_start(uri: str, length: int) -> bytes:
    """The first `length` bytes; fewer of a shorter file.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with translated(uri, "read"):
        if is_local(uri):
            with regular_file(uri).open("rb") as file:
                return file.read(length)
        if is_web(uri):
            return http.read(uri, length)[:length]
        return bytes(s3.system().cat_file(s3_path(uri), start=0, end=length)) if size_of(uri) else b""


def read_json(uri: str) -> Any:
    """The content as JSON.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not JSON, or nested too deeply.
        StorageError: it cannot be read.
    """
    return read_record(uri, lambda tree: tree)


def read_record(
    uri: str, build: Callable[[Any], T], hint: str = "remove it, and make it again", *, most_bytes: int | None = None
) -> T:
    """The content as JSON, and what `build` makes of it.

    Args:
        uri: of a file that this program wrote.
        build: takes the parsed JSON; it may raise any of NOT_AS_WRITTEN where that has another form.
        hint: what to do about a damaged file.
        most_bytes: a larger file is damaged; it is not read.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not JSON, nested too deeply, or not of the form that `build` takes.
        StorageError: it cannot be read.
        PipelineError: what else `build` raises.
    """
    if most_bytes is not None and (size := size_of(uri)) > most_bytes:
        raise DamagedError(f"{uri} is damaged (it has {size} bytes, more than {most_bytes})", hint)
    content = read_bytes(uri)
    try:
        return build(json.loads(content))
    except PipelineError:
        raise
    except NOT_AS_WRITTEN as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise DamagedError(f"{uri} is damaged ({what:.300})", hint) from error


def glob(pattern: str, *, root: str = "") -> list[str]:
    """Files that match, sorted; `**` reaches into sub-directories and hidden files are left out.

    Args:
        pattern: a URI with `*`, `?`, `[..]`, or the name of one file.
        root: put before the pattern; what looks like a wildcard in it is meant literally.

    Returns:
        full URIs for s3:// and https://, paths as given (absolute or relative) for local ones.

    Raises:
        StorageError: a pattern for an https:// server, which cannot list.
    """
    literal = join(root, pattern)
    whole = join(globbing.escape(root), pattern)
    with translated(literal, "list"):
        if is_web(literal):
            if any(sign in pattern for sign in "*["):
                raise _no_listing(literal)
            return [literal] if exists(literal) else []
        if is_local(literal):
            path = str(local_path(literal))
            if Path(path).is_file():
                return [path]
            if not globbing.has_magic(path) and Path(path).exists() and not Path(path).is_dir():
                regular_file(path)  # says what else it is
            found = globbing.glob(str(local_path(whole)), recursive=True)  # noqa: PTH207 - Path.glob finds hidden files
            folder = Path(path).parent
            if not found and globbing.has_magic(str(folder)) and folder.is_dir():  # called so, such as scans[1]
                found = globbing.glob(str(Path(globbing.escape(str(folder))) / Path(path).name))  # noqa: PTH207
            return sorted(path for path in found if Path(path).is_file())
        if s3.system().isfile(s3_path(literal)):
            return [f"s3://{s3_path(literal)}"]
        if not globbing.has_magic(pattern):
            return []
        entries = s3.system().glob(s3_path(whole), detail=True)
        files = [PurePosixPath(name) for name, entry in entries.items() if entry["type"] == "file"]
        return sorted(f"s3://{path}" for path in files if not path.name.startswith("."))


def list_dirs(uri: str) -> list[str]:
    """Sorted names of the sub-directories; none if there is no such directory."""
    with translated(uri, "list"):
        if is_web(uri):
            raise _no_listing(uri)
        if is_local(uri):
            base = local_path(uri)
            return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
        with suppress(FileNotFoundError):
            entries = s3.system().ls(s3_path(uri), detail=True)
            return sorted(PurePosixPath(e["name"]).name for e in entries if e["type"] == "directory")
        return []


def list_files(uri: str) -> list[str]:
    """Sorted names, relative to `uri`, of all files under it; none if there is no such directory."""
    if is_web(uri):
        raise _no_listing(uri)
    if not is_local(uri):
        return sorted(s3.stamps_under(uri))
    base = local_path(uri)
    return sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())


def size_of(uri: str) -> int:
    """Size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the store does not answer.
    """
    with translated(uri, "look at"):
        if is_local(uri):
            return local_path(uri).stat().st_size
        return http.size(uri) if is_web(uri) else int(s3.system().info(s3_path(uri))["size"])


def stamp(uri: str) -> str:
    """Changes whenever the file is written again: size and time locally, the ETag remotely. Reads no content.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the store does not answer.
    """
    with translated(uri, "look at"):
        if is_local(uri):
            found = local_path(uri).stat()
            return f"{found.st_size}-{found.st_mtime!r}"
        return http.stamp(uri) if is_web(uri) else s3.stamp(s3.system().info(s3_path(uri)))


def stamps(uris: Iterable[str]) -> dict[str, str]:
    """The stamps of many files, with one listing per folder of a bucket. A missing file has none.

    Raises:
        StorageError: a store does not answer.
    """
    distinct = dict.fromkeys(uris)
    found = s3.stamps(uri for uri in distinct if not is_local(uri) and not is_web(uri))
    found |= _each([uri for uri in distinct if is_web(uri)], _MANY_READERS)
    found |= _each([uri for uri in distinct if is_local(uri)], 1)
    return {uri: found[uri] for uri in distinct if uri in found}


def sidecar_endings(uri: str) -> frozenset[str] | None:
    """Endings of the files that accompany a remote one: `.tif.msk`, `.tif.aux.xml`, `.tfw`. None if unknown.

    One request, where a library that tries each possible name makes a dozen.

    Raises:
        StorageError: the store does not answer.
    """
    with translated(uri, "list"):
        if is_web(uri):
            if "?" in uri:
                return frozenset()  # signed for this file alone
            return frozenset(PurePosixPath(uri).suffix + end for end in _SIDECARS if exists(uri + end))
        name = s3_path(uri).rpartition("/")[2]
        try:
            found = s3.sidecar_endings(uri)
        except PermissionError:
            return None  # reading is allowed, listing is not
        stem = name.rpartition(".")[0] or name
        return frozenset(other.removeprefix(stem) for other in found if other != name)


def concurrency(uris: Iterable[str], threads: int) -> int:
    """Number of threads for reading: as given where all is local, enough to hide latency where not."""
    if all(is_local(uri) for uri in uris):
        return threads
    return max(threads, min(_MANY_READERS, settings.current().max_connections))


def _each(uris: list[str], threads: int) -> dict[str, str]:
    def look(uri: str) -> str | None:
        with suppress(FileNotFoundError):
            return stamp(uri)
        return None

    return {uri: tag for uri, tag in _mapped(look, uris, threads) if tag is not None}


def _mapped(function: Callable[[str], str | None], items: list[str], threads: int) -> Iterable[tuple[str, str | None]]:
    if threads == 1 or len(items) < 2:
        return [(item, function(item)) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(zip(items, pool.map(function, items), strict=True))


def _no_listing(uri: str) -> StorageError:
    return StorageError(
        f"{uri}: a web server cannot be listed", "name the files one by one, in a table or a STAC item collection"
    )
