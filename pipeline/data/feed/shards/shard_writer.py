"""Write shards: one file at a time, by threads; each file is read back and verified."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline import store, uris
from pipeline.data.chips import raw_chip
from pipeline.data.feed.shards import layout
from pipeline.data.feed.shards.layout import CHUNK, PlacedScene
from pipeline.data.feed.shards.shard_reader import File
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.windows import Window, divide
from pipeline.data.scenes import staleness
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DataError, PipelineError, SceneError
from pipeline.recipe import Data
from pipeline.recipe.data import Quarantine

# A whole number of chunks and of the usual storage tiles: 256 and 512.
_SIDE: Final = 12 * CHUNK
_READ_PIXELS: Final = 1 << 23
_THREADS: Final = min(8, os.cpu_count() or 1)

_Chunk = tuple[tuple[int, int], bytes, tuple[Any, ...]]


@dataclass(frozen=True)
class ShardJob:
    """One shard."""

    scenes: tuple[Scene, ...]
    classes: Classes
    data: Data
    digest: str

    @property
    def key(self) -> bytes:
        """Identifies a finished shard of these scenes; the folder's name identifies the rest."""
        text = "\n".join([self.digest, *(s.id for s in self.scenes)])
        return blake2b(text.encode(), digest_size=8).hexdigest().encode()


def placed(groups: Sequence[Sequence[Scene]]) -> dict[str, PlacedScene]:
    """Places of scenes when each group is stored in one shard."""
    found = {}
    for number, group in enumerate(groups):
        first = 0
        for scene in group:
            found[scene.id] = PlacedScene(number, first, scene.height, scene.width, scene.slices)
            first += found[scene.id].num_chunks
    return found


@dataclass(frozen=True)
class Written:
    """A shard that is whole: its bytes, and scenes that could not be read whole."""

    size: int
    unreadable: tuple[str, ...]


def known(job: ShardJob, uri: str) -> Written | None:
    """The shard of a job if it exists already, by its JSON file."""
    try:
        note = store.read_json(_note(uri))
        if note["job"] != job.key.decode() or store.size_of(uri) != note["size"]:
            return None
        if store.is_local(uri):
            File.open(uri)  # its table is whole; of one in a bucket, that would fetch it all
        return Written(note["size"], tuple(note["unreadable"]))
    except (FileNotFoundError, PipelineError, *store.NOT_AS_WRITTEN):
        return None


def write(job: ShardJob, uri: str) -> Written:
    """Write one shard, by threads of its own; it and its JSON file appear at once."""
    local = store.is_local(uri)
    folder = uris.local_path(uri).parent if local else Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.part"
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="prepare") as pool:
            broken = _fill(job, temporary, pool)
        _check(temporary)
        written = Written(temporary.stat().st_size, tuple(broken))
        if local:
            temporary.replace(uris.local_path(uri))
        else:
            store.upload_file(temporary, uri)
        store.write_json(_note(uri), {"job": job.key.decode()} | asdict(written))
        return written
    finally:
        temporary.unlink(missing_ok=True)


def _note(uri: str) -> str:
    return f"{uri}.json"


def _fill(job: ShardJob, path: Path, pool: ThreadPoolExecutor) -> list[str]:
    where_of = placed([job.scenes])
    table = np.zeros(sum(p.num_chunks for p in where_of.values()), layout.ROW)
    offset, broken = 0, dict[str, None]()
    with path.open("xb") as file:
        for scene, window, chunks in _read_ahead(job, pool):
            where = where_of[scene.id]
            rows, cols = where.grid
            corner = where.first + (window.slice * rows + window.row // CHUNK) * cols + window.col // CHUNK
            for (row, col), content, entry in chunks:
                table[corner + row * cols + col] = (offset, *entry)
                if entry[-1] == layout.UNREADABLE:
                    broken[scene.id] = None
                file.write(content)
                offset += len(content)
        file.write(layout.end(table, offset, job.key))
        file.flush()
        os.fsync(file.fileno())
    return list(broken)


def _read_ahead(job: ShardJob, pool: ThreadPoolExecutor) -> Iterator[tuple[Scene, Window, list[_Chunk]]]:
    """The chunks of all windows of a job, in order, made by threads."""
    pending: deque[tuple[Scene, Window, Future[list[_Chunk]]]] = deque()
    try:
        for scene in job.scenes:
            for window in _windows(scene):
                pending.append((scene, window, pool.submit(_chunks, job, scene, window)))
                if len(pending) > 2 * _THREADS:
                    yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())
    finally:
        for _, _, future in pending:
            future.cancel()


def _result(scene: Scene, window: Window, future: Future[list[_Chunk]]) -> tuple[Scene, Window, list[_Chunk]]:
    return scene, window, future.result()


def _windows(scene: Scene) -> Iterator[Window]:
    """Windows that begin at corners of chunks, wide rather than tall: some files can only be read by rows."""
    wide = max(_SIDE, _READ_PIXELS // _SIDE // _SIDE * _SIDE)
    return divide(scene.height, scene.width, _SIDE, wide, scene.slices)


def _chunks(job: ShardJob, scene: Scene, window: Window) -> list[_Chunk]:
    staleness.check(scene, job.classes, job.data)
    try:
        cut = raw_chip.read(scene, window, job.classes, data=job.data)
    except DataError:
        if not isinstance(job.data.on_error, Quarantine):
            raise
        return _readable_chunks(job, scene, window)
    return list(layout.encode(cut))


def _readable_chunks(job: ShardJob, scene: Scene, window: Window) -> list[_Chunk]:
    """Read a damaged window chunk by chunk, and keep what can be read."""
    made = []
    for row in range(0, window.height, CHUNK):
        for col in range(0, window.width, CHUNK):
            tall, wide = min(CHUNK, window.height - row), min(CHUNK, window.width - col)
            part = Window(window.row + row, window.col + col, tall, wide, window.slice)
            try:
                cut = raw_chip.read(scene, part, job.classes, data=job.data)
                ((_, content, entry),) = layout.encode(cut)
            except DataError:
                ((_, content, entry),) = layout.unreadable(tall, wide)
            made.append(((row // CHUNK, col // CHUNK), content, entry))
    return made


def _check(path: Path) -> None:
    """Read a new shard back."""
    if File.open(str(path)).damaged() is not None:
        raise SceneError(f"{path}: what was written cannot be read back", "check the disk, and try again")
