"""Pair files by patterns with {id}: which files of a list belong to which scene.

`{id:^[a-z]+}` stands for what the regular expression finds in the id (its first bracket, if it has one): scenes of
which it is the same share a file.
"""

from __future__ import annotations

import bisect
import fnmatch
import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from pipeline import store
from pipeline.errors import ManifestError, PipelineError

# GDAL and QGIS put these next to a raster; a glob such as images/* finds them, too.
_SIDECARS: Final = (".aux.xml", ".ovr", ".msk", ".tfw", ".pgw", ".jgw", ".wld", ".prj", ".txt", ".csv", ".json", ".db")
# And people these.
_HEAD_BYTES: Final = 512
_PAPERS: Final = (".md", ".rst", ".html", ".pdf", ".docx", ".xlsx", ".yaml", ".yml", ".py", ".ipynb", ".ini", ".log")
# A shapefile is several files; the first is its name.
_PARTS: Final = (".shx", ".dbf", ".cpg", ".sbn", ".sbx", ".qix", ".qmd")
_WILDCARD: Final = re.compile(r"(\*\*/|\*|\?|\[!?\]?[^\]]*\])")
_ID: Final = "{id}"
_PLACE: Final = re.compile(r"\{id(?::(?P<part>(?:[^{}]|\{[0-9,]+\})+))?\}")


def has_id(pattern: str) -> bool:
    """Whether a pattern depends on the scene."""
    return _PLACE.search(pattern) is not None


def of_any(pattern: str) -> str:
    """The pattern as a glob that finds the files of all scenes."""
    return _PLACE.sub("*", pattern)


def files(pattern: str, root: str) -> list[str]:
    """Files that a pattern finds; folders, if it ends with a slash: a DICOM series or Zarr is one."""
    if pattern.endswith("/"):
        above, _, last = pattern.rstrip("/").rpartition("/")
        home = store.join(root, above)
        return [store.join(home, name) for name in store.list_dirs(home) if fnmatch.fnmatchcase(name, last)]
    return found(pattern, root)[0]


def found(pattern: str, root: str = "") -> tuple[list[str], list[str]]:
    """Files that a pattern finds, and those that a wildcard of it finds though they are no rasters or labels: what
    programs and people put next to images."""
    everything = store.glob(pattern, root=root)
    odd = [file for file in everything if not _is_usable(file)]
    if odd:
        raise ManifestError(
            f"{len(odd)} name{'s' if len(odd) > 1 else ''} with line ends or not in UTF-8, such as {odd[0]!r}",
            "rename these files; no table could hold their names",
        )
    if not glob.has_magic(pattern):
        return everything, []
    sidecars = tuple(ending for ending in (*_SIDECARS, *_PAPERS, *_PARTS) if not pattern.lower().endswith(ending))
    passed = {file for file in everything if file.lower().endswith(sidecars) or _is_note(file)}
    return [file for file in everything if file not in passed], sorted(passed)


def _is_usable(file: str) -> bool:
    """Whether a path can be written into tables, logs and reports, and be one of several in a line each."""
    return file.isprintable() or not any(sign in "\n\r" or "\ud800" <= sign <= "\udfff" for sign in file)


def _is_note(file: str) -> bool:
    """Whether a local file without an ending is text, such as README."""
    if not store.is_local(file) or PurePosixPath(file).suffix:
        return False
    try:
        head = store.read_start(file, _HEAD_BYTES)
        return b"\0" not in head and bool(head.decode())
    except (PipelineError, FileNotFoundError, UnicodeDecodeError):
        return False


def files_of(ids: Iterable[str], files: Sequence[str], pattern: str, root: str) -> dict[str, list[str]]:
    """The files that match the pattern with each id in it, sorted.

    Candidates come from sorted names, so that a hundred thousand scenes are paired in seconds.
    """
    base = _base(pattern, root)
    names = {file[base:]: file for file in files}
    forward, backward = sorted(names), sorted(name[::-1] for name in names)
    id_is_first = not _WILDCARD.search(_PLACE.split(pattern, maxsplit=1)[0])
    found: dict[str, list[str]] = {}
    for i in ids:
        filled = _filled(pattern, i)
        if filled is None:
            found[i] = []
            continue
        parts = _WILDCARD.split(filled)
        if id_is_first:
            near = _beginning(parts[0], forward)
        else:
            near = [name[::-1] for name in _beginning(parts[-1][::-1], backward)]
        matches = re.compile("".join(map(_regex, parts))).fullmatch
        found[i] = sorted(names[name] for name in near if matches(name))
    return found


def ids_in(files: Iterable[str], pattern: str, root: str) -> dict[str, list[str]]:
    """The files of each id that the pattern finds in their names: what stands for the first {id}."""
    base = _base(pattern, root)
    before, _, after = pattern.partition(_ID)
    parts = ["".join(map(_regex, _WILDCARD.split(part))) for part in (before, after.replace(_ID, "\0"))]
    matches = re.compile(parts[0] + "(?P<id>[^/]+?)" + parts[1].replace("\0", "(?P=id)")).fullmatch
    found: dict[str, list[str]] = {}
    for file in files:
        match = matches(file[base:])
        if match:
            found.setdefault(match["id"], []).append(file)
    return found


def _filled(pattern: str, scene: str) -> str | None:
    """The pattern with an id in it; None if an expression finds nothing in the id."""
    found = {}
    for place in _PLACE.finditer(pattern):
        match = re.search(place["part"] or ".*", scene, re.DOTALL)
        part = match and match[1 if match.re.groups else 0]
        if not part:
            return None
        found[place[0]] = glob.escape(part)
    return _PLACE.sub(lambda place: found[place[0]], pattern)


def _base(pattern: str, root: str) -> int:
    """Length of the part of a file's path that the pattern does not cover."""
    return len(root) + 1 if store.join(root, pattern) != pattern else 0


def _beginning(prefix: str, names: list[str]) -> list[str]:
    first = bisect.bisect_left(names, prefix)
    return names[first : bisect.bisect_right(names, prefix, lo=first, key=lambda name: name[: len(prefix)])]


def _regex(part: str) -> str:
    """A piece of a glob, split at its wildcards, as a regular expression."""
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    if part in known or not _WILDCARD.fullmatch(part):
        return known.get(part) or re.escape(part)
    inside = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
