"""A cache on the node's disk: entries by name, bounded in bytes, shared by any number of processes.

An entry is one file that appears by renaming. It carries its name, its length and a checksum, so that one that was cut
off, or is another's, is noticed, removed and fetched again. The sum of all entries is kept in another file, under a
lock held for microseconds; who finds it above the limit removes the entries that were not used for longest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from pipeline.errors import StorageError

_log: Final = logging.getLogger(__name__)
_MAGIC: Final = b"segpipe1"
_HEAD: Final = struct.Struct("<8s16sQI")  # magic, digest of the name, length, checksum of the content
_KEEP: Final = 0.9
_FRESH_S: Final = 60.0
_STALE_TEMPORARY_S: Final = 3600.0


class Cache:
    """Entries in a folder, together at most `limit` bytes, and one entry more for each process that is writing."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._writes = True
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / "total").touch(exist_ok=True)
            mine = folder.stat().st_uid == os.getuid()
        except OSError as error:
            raise StorageError(f"{folder} cannot hold a cache: {error}", "change compute.storage.cache_dir") from error
        if not mine:
            raise StorageError(f"{folder} belongs to another user", "change compute.storage.cache_dir")

    def get(self, name: str) -> bytes | None:
        """The content of an entry, or None if there is none that is whole."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if not self._is_whole(name, data):
            self._drop(path)
            return None
        self._touch(path)
        return data[_HEAD.size :]

    def put(self, name: str, content: bytes) -> None:
        """Keep an entry. A disk that is full ends the writing, not the work."""
        head = _HEAD.pack(_MAGIC, _digest(name), len(content), zlib.crc32(content))
        self._place(self._path(name), lambda target: _write(target, head, content))

    def file(self, name: str, fetch: Callable[[Path], None], *, suffix: str = "") -> Path:
        """A file of its own, whose content `fetch` writes where it is not there yet.

        Its length is part of its name on the disk, so that one that was cut off is noticed.

        Raises:
            StorageError: the disk is full.
            whatever `fetch` raises.
        """
        stem = self._path(name)
        for found in stem.parent.glob(f"{stem.name}-*{suffix}"):
            with suppress(OSError, ValueError):
                if found.stat().st_size == int(found.name.removeprefix(f"{stem.name}-").removesuffix(suffix)):
                    self._touch(found)
                    return found
            self._drop(found)
        temporary = stem.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            stem.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fetch(temporary)
            size = temporary.stat().st_size
            path = stem.with_name(f"{stem.name}-{size}{suffix}")
            temporary.replace(path)
        except FileNotFoundError:  # where it should come from
            raise
        except OSError as error:
            raise StorageError(
                f"{self.folder}: {error}", "free some space, or change compute.storage.cache_dir"
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()
        self._added(size)
        return path

    def total(self) -> int:
        """Bytes of all entries, by looking at them."""
        return sum(size for _, size, _ in self._entries())

    def _place(self, path: Path, write: Callable[[Path], None]) -> None:
        if not self._writes:
            return
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(temporary)
            size = temporary.stat().st_size
            temporary.replace(path)
        except OSError as error:
            self._writes = False
            with suppress(OSError):
                temporary.unlink()
            _log.warning("the cache in %s takes no more: %s", self.folder, error)
            return
        self._added(size)

    def _path(self, name: str) -> Path:
        digest = _digest(name).hex()
        return self.folder / digest[:2] / digest[2:]

    @staticmethod
    def _is_whole(name: str, data: bytes) -> bool:
        if len(data) < _HEAD.size:
            return False
        magic, digest, length, checksum = _HEAD.unpack_from(data)
        content = memoryview(data)[_HEAD.size :]
        right = (magic, digest, length) == (_MAGIC, _digest(name), len(content))
        return right and zlib.crc32(content) == checksum

    @staticmethod
    def _touch(path: Path) -> None:
        """Used now. Once a minute is enough to know what was not used for long."""
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _FRESH_S:
                os.utime(path)

    def _drop(self, path: Path) -> None:
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            self._added(-size)

    def _added(self, size: int) -> None:
        with suppress(OSError), self._counter() as counter:
            total = counter.value() + size
            counter.set(total)
        if total > self.limit:
            self._evict()

    def _evict(self) -> None:
        """Remove what was not used for longest; if another process is at it, leave it to that one."""
        with suppress(OSError), (self.folder / "evicting").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            for _, size, path in entries:
                if total <= _KEEP * self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= size
            with self._counter() as counter:
                counter.set(total)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When used, how large, and where; what killed processes have left half written is removed."""
        for folder in os.scandir(self.folder):
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder.path):
                with suppress(OSError):
                    found = entry.stat()
                    if not entry.name.endswith(".tmp"):
                        yield found.st_mtime, found.st_size, Path(entry.path)
                    elif time.time() - found.st_mtime > _STALE_TEMPORARY_S:
                        Path(entry.path).unlink()

    @contextmanager
    def _counter(self) -> Iterator[_Counter]:
        with (self.folder / "total").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield _Counter(file.fileno())


class _Counter:
    """A number in a file that is locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def value(self) -> int:
        text = os.pread(self._descriptor, 32, 0).strip(b"\0 \n")
        return int(text) if text.lstrip(b"-").isdigit() else 0

    def set(self, value: int) -> None:
        os.pwrite(self._descriptor, b"%-31d\n" % value, 0)


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def _write(target: Path, *parts: bytes) -> None:
    with target.open("xb", buffering=0) as file:
        for part in parts:
            file.write(part)
