"""Bytes by URI: local paths, file:// and s3://. The only file that knows fsspec and s3fs.

Credentials and endpoint come from the usual environment: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, a profile or
a role of the machine.

A missing file is a FileNotFoundError, because only the caller knows what it was; every other failure is a StorageError.
"""

from __future__ import annotations

import atexit
import glob as globbing
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec

from pipeline.errors import PipelineError, StorageError
from pipeline.uris import endpoint, local_path, region, s3_path
from pipeline.uris import gdal_env as gdal_env
from pipeline.uris import gdal_path as gdal_path
from pipeline.uris import is_local as is_local
from pipeline.uris import join as join

_S3_CONFIG: Final = {
    # botocore's standard mode retries throttling, timeouts and 5xx with exponential waiting;
    # s3fs does so on top of it where a server asks to slow down.
    "retries": {"max_attempts": 3, "mode": "standard"},
    "connect_timeout": 5,
    "read_timeout": 60,
}

_systems: dict[tuple[str | None, ...], Any] = {}
_downloads: dict[str, Path] = {}


# --- reading


def exists(uri: str) -> bool:
    """True if there is a file or a directory (on S3: anything under the prefix)."""
    with _translated(uri, "look at"):
        if is_local(uri):
            return local_path(uri).exists()
        bucket, _, key = s3_path(uri).partition("/")
        with suppress(FileNotFoundError):
            # One key is enough; asking s3fs would list them all, and some servers keep directories without files.
            prefix = f"{key}/" if key else ""
            found = _s3().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            return bool(found.get("KeyCount")) or bool(key and _s3().isfile(s3_path(uri)))
        return False


def read_bytes(uri: str) -> bytes:
    """The whole content.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with _translated(uri, "read"):
        system, path = _at(uri)
        return bytes(system.cat_file(path))


def read_json(uri: str) -> Any:
    """The content as JSON.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise StorageError(f"{uri} is not JSON: {error}", "the file is damaged; remove it and make it again") from error


def glob(pattern: str, *, root: str = "") -> list[str]:
    """Files that match, sorted; `**` reaches into sub-directories and hidden files are left out.

    Args:
        pattern: a URI with `*`, `?`, `[..]`, or the name of one file.
        root: put before the pattern; what looks like a wildcard in it is meant literally.

    Returns:
        full URIs for s3://, paths as given (absolute or relative) for local ones.
    """
    literal = join(root, pattern)
    whole = join(globbing.escape(root), pattern)
    with _translated(literal, "list"):
        system, path = _at(literal)
        if system.isfile(path):
            return [path if is_local(literal) else f"s3://{path}"]
        if is_local(literal):
            found = globbing.glob(str(local_path(whole)), recursive=True)  # noqa: PTH207 - Path.glob finds hidden files
            return sorted(path for path in found if Path(path).is_file())
        if not globbing.has_magic(pattern):
            return []
        entries = system.glob(s3_path(whole), detail=True)
        files = [PurePosixPath(name) for name, entry in entries.items() if entry["type"] == "file"]
        return sorted(f"s3://{path}" for path in files if not path.name.startswith("."))


def list_dirs(uri: str) -> list[str]:
    """Sorted names of the sub-directories; none if there is no such directory."""
    with _translated(uri, "list"):
        system, path = _at(uri)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(e["name"]).name for e in entries if e["type"] == "directory")


def list_files(uri: str) -> list[str]:
    """Sorted names, relative to `uri`, of all files under it; none if there is no such directory."""
    if not is_local(uri):
        return sorted(_stamps(uri))
    base = local_path(uri)
    return sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())


def size_of(uri: str) -> int:
    """Size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with _translated(uri, "look at"):
        system, path = _at(uri)
        return int(system.info(path)["size"])


def stamp(uri: str) -> str:
    """Changes whenever the file is written anew: size and time locally, the ETag on S3. Reads no content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with _translated(uri, "look at"):
        system, path = _at(uri)
        return _stamp(system.info(path))


# --- writing


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file at once: whoever looks sees the old content or the new one, never a part."""
    with _translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary, temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        else:
            _s3().pipe_file(s3_path(uri), data)


def write_json(uri: str, value: Any) -> None:
    """Write JSON at once, readable by people. NaN and infinity are refused: other readers would not take them."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def nan_to_null(value: Any) -> Any:
    """The same plain tree with null where a number is NaN or infinite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(uri: str, text: str) -> None:
    """Append one line to a local file.

    Raises:
        StorageError: the file is on S3, whose objects cannot grow.
    """
    if not is_local(uri):
        raise StorageError(f"{uri}: an object cannot be appended to", "write the lines to a local file first")
    with _translated(uri, "write"):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")


def remove(uri: str) -> None:
    """Remove a file, or a directory with all that is in it; nothing happens if there is none."""
    with _translated(uri, "remove"):
        system, path = _at(uri)
        with suppress(FileNotFoundError):
            system.rm(path, recursive=True)


def upload_file(local: Path, uri: str) -> None:
    """Copy one local file, at once, without reading it into memory."""
    with _translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary:
                shutil.copyfile(local, temporary)
        else:
            _s3().put_file(str(local), s3_path(uri))


def upload_dir(local: Path, uri: str, *, last: str | None = None) -> None:
    """Copy every file of a local directory, replacing what was there.

    Locally the directory appears at once. S3 cannot do that: there `last` names the file to write after all
    others, so that its presence says that the rest is whole.
    """
    with _translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary:
                shutil.copytree(local, temporary)
            return
    files = sorted(p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file())
    remove(uri)
    for name in sorted(files, key=lambda name: name == last):
        upload_file(local / name, join(uri, name))


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
    stamps = _stamps(uri) if names is None else {name: stamp(join(uri, name)) for name in names}
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


# --- inside


@contextmanager
def _translated(uri: str, verb: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PipelineError):
        raise
    except OSError as error:
        hint = "check the path and its permissions" if is_local(uri) else _s3_hint()
        raise StorageError(f"cannot {verb} {uri}: {error}", hint) from error
    except Exception as error:
        # botocore's own errors (no credentials, no connection) have no common base that could be named without
        # importing it; a defect of ours on a local path must not be dressed up as a failing store.
        if is_local(uri):
            raise
        raise StorageError(f"cannot {verb} {uri}: {error}", _s3_hint()) from error


def _s3_hint() -> str:
    server = endpoint() or "not set, so AWS"
    return f"check the bucket, the credentials and the endpoint (AWS_ENDPOINT_URL is {server}), then try again"


def _at(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and what it calls the file."""
    return (fsspec.filesystem("file"), str(local_path(uri))) if is_local(uri) else (_s3(), s3_path(uri))


def _s3() -> Any:
    """The s3fs instance of this process: they hold a thread and sockets, which do not survive a fork."""
    key = (str(os.getpid()), endpoint(), region(), os.environ.get("AWS_ACCESS_KEY_ID"))
    if key not in _systems:
        options = {"config_kwargs": _S3_CONFIG, "use_listings_cache": False, "skip_instance_cache": True}
        _systems.setdefault(key, fsspec.filesystem("s3", **options))
    return _systems[key]


def _stamps(uri: str) -> dict[str, str]:
    """Relative name -> stamp of all objects under an s3:// prefix."""
    with _translated(uri, "list"):
        prefix = s3_path(uri) + "/"
        entries = _s3().find(prefix, detail=True)
        return {n.removeprefix(prefix): _stamp(entry) for n, entry in entries.items() if n.startswith(prefix)}


def _stamp(entry: Mapping[str, Any]) -> str:
    return str(entry["ETag"]).strip('"') if "ETag" in entry else f"{entry['size']}-{entry['mtime']!r}"


def _download(uri: str, names: Sequence[str]) -> Path:
    target = Path(tempfile.mkdtemp(prefix="segpipe-"))
    remove_at_exit(target)
    with _translated(uri, "read"):
        for name in names:
            path = target / _inside(name, uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            _s3().get_file(f"{s3_path(uri)}/{name}", str(path))
    return target


def _inside(name: str, uri: str) -> Path:
    """A relative name as a path that cannot leave its directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise StorageError(f"{uri} holds a file named {name!r}, which would be written elsewhere", "do not use it")
    return Path(path)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new name beside the target, on the same disk, that takes the target's place if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{end}") for end in ("tmp", "old"))
    try:
        yield temporary
        if target.is_dir():  # a directory cannot be replaced by another one in a single step
            target.replace(old)
        try:
            temporary.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    finally:
        for rest in (temporary, old):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink(missing_ok=True)
