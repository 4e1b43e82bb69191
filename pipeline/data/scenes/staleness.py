"""Refuse files that changed after they were indexed: the manifest would name other data than were used.

Each process asks for size and date (or ETag) of a scene's files when it first reads it; of local files again each time,
which costs microseconds, so that one that is replaced while training runs is noticed. Only where these differ, as after
copying a folder, the content is looked at again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from pipeline import store
from pipeline.data.labels.classes import Classes
from pipeline.data.scenes import inspection
from pipeline.data.scenes.scene import Scene
from pipeline.errors import SceneError
from pipeline.recipe import Data
from pipeline.uris import local_path

logger = logging.getLogger(__name__)

Date = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""

_HINT: Final = "run `segpipe index` again; it reads only what changed"
# One entry is some hundred bytes. What is forgotten is asked for again, nothing more.
_REMEMBERED: Final = 100_000

_checked: dict[tuple[str, ...], dict[str, Date | None]] = {}
_warned: list[str] = []


def seen(files: Iterable[str]) -> str:
    """16 hex digits of the sizes and dates, or ETags, of files; their content is not read.

    Raises:
        FileNotFoundError: one is missing.
    """
    files = list(files)
    found = stamps(files)
    for file in files:
        if file not in found:
            raise FileNotFoundError(file)
    return digest(found[file] for file in files)


def stamps(files: Iterable[str]) -> dict[str, str]:
    """Size and date, or ETag, of every file that is there; of a local folder one of all that is in it."""
    distinct = list(dict.fromkeys(files))
    folders = [f for f in distinct if store.is_local(f) and local_path(f).is_dir()]
    found = store.stamps(f for f in distinct if f not in folders)
    for folder in folders:
        inside = store.stamps(store.join(folder, name) for name in store.list_files(folder))
        found[folder] = digest(f"{name} {stamp}" for name, stamp in sorted(inside.items()))
    return found


def digest(stamps: Iterable[str]) -> str:
    """16 hex digits of stamps, in their order."""
    return blake2b("\n".join(stamps).encode(), digest_size=8).hexdigest()


def forget() -> None:
    """Ask for everything again."""
    _checked.clear()
    _warned.clear()


def check(scene: Scene, classes: Classes, data: Data) -> None:
    """Refuse a scene whose files are not those that the manifest describes.

    Remote files are checked once per process and scene, local ones each time. Of a local folder, what changes
    inside a file of it after the first time is not seen.

    Raises:
        SceneError: a file is missing, or has another content than when it was indexed.
    """
    key = (scene.id, scene.image, scene.label or "", scene.footprint or "", scene.seen)
    if not scene.seen:
        return  # a manifest of an older version
    known = _checked.get(key)
    if known is not None and all(_date(path) == date for path, date in known.items()):
        return
    dates = {path: _date(path) for path in (str(local_path(f)) for f in scene.files if store.is_local(f))}
    _compare(scene, classes, data)
    if len(_checked) >= _REMEMBERED:
        _checked.clear()
    _checked[key] = dates


def _date(path: str) -> Date | None:
    """None: it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path costs more than the call)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _compare(scene: Scene, classes: Classes, data: Data) -> None:
    try:
        if seen(scene.files) == scene.seen:
            return
    except FileNotFoundError as error:
        raise SceneError(f"{error}: no such file; it belongs to scene {scene.id}", "check the path") from error
    found = inspection.inspect_scene(scene, classes, data)
    if found.problems:
        raise found.problems[0]
    if found.stamp != scene.stamp:
        names = ", ".join(scene.files)
        raise SceneError(f"scene {scene.id} has changed since it was indexed ({names})", _HINT)
    _warn(scene)


def _warn(scene: Scene) -> None:
    """Once per process, since all scenes of a copied folder have other dates. Blocks and labels were compared, and
    pixels that were edited in place may lie between."""
    if not _warned:
        _warned.append(scene.id)
        logger.warning(
            "scene %s has other dates than when it was indexed, and the same content as far as it was compared; "
            "if pixels were edited, or to end this warning, run `segpipe index`",
            scene.id,
        )
