"""Scenes: what they are, and how images and labels are found and paired."""

from __future__ import annotations

import bisect
import glob
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline import store
from pipeline.data.grids import Grid
from pipeline.errors import ManifestError
from pipeline.recipe import Data

logger = logging.getLogger(__name__)

# GDAL and QGIS put these beside a raster; a glob such as images/* finds them, too.
_SIDECARS = (".aux.xml", ".ovr", ".msk", ".tfw", ".pgw", ".jgw", ".wld", ".prj", ".txt", ".csv", ".json", ".db")
_SHOWN = 5
_WILDCARD = re.compile(r"(\*\*/|\*|\?|\[!?\]?[^\]]*\])")


@dataclass(frozen=True)
class Found:
    """One image and its label, not opened yet."""

    id: str
    image: str
    label: str | None


@dataclass(frozen=True)
class Scene:
    """One area seen once: an image and usually a label on the same grid.

    Attributes:
        id: unique.
        image: URI; of bands in files of their own, their URIs with line feeds between.
        label: URI of a raster or vector file; None without.
        split, group: where it belongs.
        height, width, crs, transform: its grid.
        stamp: identifies the content whatever the files' dates.
        class_counts: labelled pixels per class, () without a label.
        slices: of a volume, 1 otherwise.
        origin: row and column in the file of the scene's first pixel, where a file was cut into several scenes.
        aoi: URI of a vector file, outside whose shapes nothing is annotated.
    """

    id: str
    image: str
    label: str | None
    split: str
    group: str
    height: int
    width: int
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    stamp: str
    class_counts: tuple[int, ...] = ()
    slices: int = 1
    origin: tuple[int, int] = (0, 0)
    aoi: str | None = None

    @property
    def grid(self) -> Grid:
        """Size, CRS and transform."""
        return Grid(self.height, self.width, self.crs, self.transform)


def find(data: Data) -> list[Found]:
    """Pair images with labels, sorted by id. Local paths are absolute.

    Raises:
        ManifestError: the glob finds no image, images lack a label or have two, ids occur twice; all at once.
    """
    root = absolute(data.root)
    labels = [] if data.labels is None else _files(data.labels.replace("{id}", "*"), root)
    matched = _files(data.images or "", root)
    images = sorted(set(matched) - set(labels))
    if not images:
        raise _nothing(data, root, len(matched))
    by_id: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        by_id[PurePosixPath(image).stem].append(image)
    problems = [f"id {i} has several images: {', '.join(paths)}" for i, paths in by_id.items() if len(paths) > 1]
    pairs: dict[str, list[str]] = {i: [] for i in by_id}
    if data.labels is not None:
        pairs = _labels_of(by_id, root, data.labels, labels)
        problems += _unpaired(pairs, data.labels)
    if problems:
        raise ManifestError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} with the files in {root}\n  "
            + "\n  ".join(problems),
            "check data.images and data.labels",
        )
    return [Found(i, by_id[i][0], pairs[i][0] if pairs[i] else None) for i in sorted(by_id)]


def absolute(root: str) -> str:
    """A local folder as an absolute path, since workers run elsewhere; a URI without its last slash."""
    return os.path.abspath(os.path.expanduser(root)) if store.is_local(root) else root.rstrip("/")  # noqa: PTH100, PTH111


def some(names: Iterable[str]) -> str:
    """The first few of many names, and how many there are besides."""
    listed = list(names)
    rest = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _files(pattern: str, root: str) -> list[str]:
    return [f for f in store.glob(pattern, root=root) if not f.lower().endswith(_SIDECARS)]


def _nothing(data: Data, root: str, num_labels: int) -> ManifestError:
    if num_labels:
        return ManifestError(
            f"all {num_labels} files in {root} that data.images {data.images!r} finds are labels by {data.labels!r}",
            "let the two patterns differ",
        )
    if not store.exists(root):
        return ManifestError(f"data.root {root} does not exist", "set data.root to the folder of the data")
    folders = [f"{name}/" for name in store.list_dirs(root)]
    beside = [_name(f) for f in store.glob("*", root=root)]
    there = some(folders + beside) or "nothing"
    return ManifestError(f"data.images {data.images!r} finds no file in {root}; there is {there}", "change data.images")


def _unpaired(pairs: dict[str, list[str]], pattern: str) -> list[str]:
    problems = [f"id {i} has several labels: {', '.join(found)}" for i, found in pairs.items() if len(found) > 1]
    missing = sorted(i for i, found in pairs.items() if not found)
    if missing:
        problems.append(
            f"{len(missing)} of {len(pairs)} images have no label {pattern!r}: {some(missing)}"
            if len(missing) > 1
            else f"image {missing[0]} has no label {pattern.replace('{id}', missing[0])!r}"
        )
    return problems


def _labels_of(ids: Iterable[str], root: str, pattern: str, labels: list[str]) -> dict[str, list[str]]:
    """The labels of each id; files that belong to none are named in the log.

    Candidates come from sorted names, so that a hundred thousand scenes are paired in seconds.
    """
    base = len(root) + 1 if store.join(root, pattern) != pattern else 0
    names = {label[base:]: label for label in labels}
    forward, backward = sorted(names), sorted(name[::-1] for name in names)
    id_is_first = not _WILDCARD.search(pattern.partition("{id}")[0])
    pairs = {}
    for i in ids:
        parts = _WILDCARD.split(pattern.replace("{id}", glob.escape(i)))
        if id_is_first:
            near = _beginning(parts[0], forward)
        else:
            near = [name[::-1] for name in _beginning(parts[-1][::-1], backward)]
        matches = re.compile("".join(map(_regex, parts))).fullmatch
        pairs[i] = sorted(names[name] for name in near if matches(name))
    spare = set(labels) - {label for found in pairs.values() for label in found}
    if spare:
        logger.warning("%d labels belong to no image: %s", len(spare), some(sorted(map(_name, spare))))
    return pairs


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


def _name(path: str) -> str:
    return PurePosixPath(path).name
