"""Files whose content was not fetched: dangling links, and pointer files of git-annex, Git LFS and DVC.

git-annex leaves a link into `.git/annex/objects` or a file with such a path; Git LFS and DVC leave a small text file.
"""

from __future__ import annotations

import glob as globbing
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline import store

_ANNEX: Final = "/annex/objects/"
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_MOST_BYTES: Final = 1024
_SHOWN: Final = 5
_FETCH: Final = {
    "git-annex": "git annex get {path}",
    "Git LFS": "git lfs pull",
    "DVC": "dvc pull {path}",
}


@dataclass(frozen=True)
class Pointer:
    """A file whose content was not fetched: its path, the program that left it (`link` if unknown), and its target."""

    path: str
    kind: str
    target: str = ""

    @property
    def command(self) -> str:
        """The command that fetches the content; empty for a link to nothing."""
        return _FETCH.get(self.kind, "").format(path=shlex.quote(self.path))


def pointer(path: str) -> Pointer | None:
    """The pointer that a local file is, if its content was not fetched; None for other files and for URIs."""
    if not store.is_local(path):
        return None
    file = Path(path)
    if file.is_symlink() and not file.exists():
        target = str(file.readlink())
        return Pointer(path, "git-annex" if _ANNEX in f"/{target}" else "link", target)
    if not file.exists():
        tracked = file.with_name(file.name + ".dvc")
        return Pointer(path, "DVC", tracked.name) if tracked.is_file() else None
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        content = file.read_bytes()
    except OSError:
        return None
    if content.startswith(_LFS):
        return Pointer(path, "Git LFS")
    if content.startswith((b"/annex/objects/", b".git/annex/objects/")):
        return Pointer(path, "git-annex", content.decode(errors="replace").strip())
    return None


def said(found: Sequence[Pointer]) -> str:
    """A sentence about files that are not there, and how to get them."""
    shown = ", ".join(f"{each.path} -> {each.target}" if each.target else each.path for each in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
    commands = list(dict.fromkeys(each.command for each in found if each.command))
    rest = f"; {commands[0]}" if commands else ""
    what = "file points to content that is not there" if len(found) == 1 else "files point to content that is not there"
    return f"{len(found)} {what}: {shown}{more}{rest}"


def unfetched(pattern: str, root: str) -> list[Pointer]:
    """Files that a glob under a local folder would find if they were there, and pointers that it finds; sorted.

    A folder that DVC tracks as a whole and that is not there is one of them.
    """
    if not store.is_local(root):
        return []
    wanted = store.join(globbing.escape(root), pattern)
    if wanted == pattern:  # absolute
        root = ""
    with_dvc = [path.removesuffix(".dvc") for path in globbing.glob(wanted + ".dvc", recursive=True)]  # noqa: PTH207
    paths = {*globbing.glob(wanted, recursive=True), *with_dvc, *_folders(pattern, root)}  # noqa: PTH207
    return [found for path in sorted(paths) if (found := pointer(path)) is not None]


def _folders(pattern: str, root: str) -> list[str]:
    """Folders that the pattern names, from the outermost, up to the first wildcard."""
    parts = list(itertools.takewhile(lambda part: not globbing.has_magic(part), Path(pattern).parts[:-1]))
    return [str(Path(root, *parts[:number])) for number in range(1, len(parts) + 1)]
