"""Write by URI, atomically: a reader sees the old content or the new one."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pipeline.errors import StorageError
from pipeline.store import s3
from pipeline.store.errors import translated
from pipeline.uris import is_local, join, local_path, s3_path

_PART_BYTES: Final = 16 << 20


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one, never a part."""
    with translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary, temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        else:
            path = s3_path(uri)
            s3.system().pipe_file(path, data)


def write_json(uri: str, value: Any) -> None:
    """Write JSON at once, readable by people. NaN and infinity are refused: other readers would not take them."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def nan_to_null(value: Any) -> Any:
    """Replace NaN and infinite numbers in a plain tree by null, since JSON has no such numbers."""
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
    with translated(uri, "write"):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")


def remove(uri: str) -> None:
    """Remove a file, or a directory with all that is in it; nothing happens if there is none."""
    with translated(uri, "remove"), suppress(FileNotFoundError):
        if not is_local(uri):
            path = s3_path(uri)
            s3.system().rm(path, recursive=True)
        elif local_path(uri).is_dir() and not local_path(uri).is_symlink():
            shutil.rmtree(local_path(uri))
        else:
            local_path(uri).unlink()


def upload_file(local: Path, uri: str) -> None:
    """Copy one local file, at once, without reading it into memory."""
    with translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary:
                shutil.copyfile(local, temporary)
        else:
            path = s3_path(uri)
            # In parts of 16 MiB, so that little is sent again when a connection breaks; a server takes 10,000 at most.
            part = max(_PART_BYTES, math.ceil(local.stat().st_size / 9_000))
            s3.system().put_file(str(local), path, chunksize=part)


def upload_dir(local: Path, uri: str, *, last: str | None = None) -> None:
    """Copy every file of a local directory, replacing what was there.

    Locally the directory appears at once. S3 cannot do that: there `last` names the file to write after all
    others, so that its presence says that the rest is whole.
    """
    with translated(uri, "write"):
        if is_local(uri):
            with _replacing(local_path(uri)) as temporary:
                _copy_contents(local, temporary)
            return
    files = sorted(p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file())
    remove(uri)
    for name in sorted(files, key=lambda name: name == last):
        upload_file(local / name, join(uri, name))


def _copy_contents(source: Path, target: Path) -> None:
    """Copy a directory with the permissions that new files get by the umask: those of a temporary one are private."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            shutil.copyfile(path, place)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new name in the folder of the target, on the same disk, that takes the target's place if the block succeeds."""
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
