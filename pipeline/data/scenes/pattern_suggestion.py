"""Suggest the pattern that pairs labels with images of other names, found by trying."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from pipeline import store
from pipeline.data.scenes import pairing

_PARTS: Final = (
    r"^[0-9]+",
    r"[0-9]+$",
    r"0*([0-9]+)$",
    r"^[^0-9]*0*([0-9]+)",
    r"[0-9]+",
    r"^[^_]+",
    r"[^_]+$",
    r"^[^_]+_(.+)$",
    r"^(.+)_[^_]+$",
    r"^[^-]+-(.+)$",
    r"^(.+)-[^-]+$",
    r"^[^.]+",
)
"""What may be the same in the names of an image and its label: numbers, and all but the first or the last word."""

_TRIED: Final = 4
_MOST_FILES: Final = 20_000


def pattern(images: Sequence[str], labels_pattern: str, root: str) -> str:
    """A pattern for `data.labels` that gives each image one label of its own; empty if none is found.

    Labels are looked for where the given pattern looks, then in the folders under the root. What is returned was tried:
    every image has exactly one file, and no two images have the same.

    Args:
        images: their files.
        labels_pattern: what the recipe says now.
        root: of both.
    """
    if len(images) < 2 or not store.is_local(root):
        return ""
    for folder, files in _folders(labels_pattern, root):
        for candidate in _candidates([PurePosixPath(i).stem for i in images], folder, files, set(images)):
            if _pairs_all(images, candidate, files, root):
                return candidate
    return ""


def line(images: Sequence[str], labels_pattern: str, root: str) -> str:
    """The line of the recipe that pairs everything, empty if none is found."""
    found = pattern(images, labels_pattern, root)
    return f"labels: '{found}'" if found else ""


def _folders(labels_pattern: str, root: str) -> Iterator[tuple[str, list[str]]]:
    """Folders, relative to the root ("" is the root itself), with their files."""
    given = pairing.of_any(labels_pattern).rpartition("/")[0]
    own = [given] if not glob.has_magic(given) else []
    others = [name for name in store.list_dirs(root) if name not in own]
    for folder in dict.fromkeys([*own, *others, ""]):
        files = pairing.files(f"{glob.escape(folder)}/*" if folder else "*", root)
        if 0 < len(files) <= _MOST_FILES:
            yield folder, files


def _candidates(stems: Sequence[str], folder: str, files: Sequence[str], images: set[str]) -> Iterator[str]:
    """Patterns that fit the first image, for each part of its name that may be the same."""
    names = [PurePosixPath(f).name for f in files if f not in images] or [PurePosixPath(f).name for f in files]
    seen = set()
    for part in (*_shared(stems), *_PARTS):
        found = [m[1] if (m := re.search(part, stem)) and m.re.groups else m and m[0] for stem in stems]
        if not all(found) or len(set(found)) < len(found):
            continue
        value = str(found[0])
        fitting = [(name, at.start()) for name in names for at in re.finditer(re.escape(value), name)]
        for name, start in itertools.islice(sorted(fitting, key=lambda f: (len(f[0]), f)), _TRIED * 4):
            before, after = name[:start], name[start + len(value) :]
            template = f"{glob.escape(before)}{{id:{part}}}{glob.escape(after)}"
            whole = f"{folder}/{template}" if folder else template
            if whole not in seen:
                seen.add(whole)
                yield whole


def _shared(stems: Sequence[str]) -> list[str]:
    """The names without the beginning and the end that all of them share."""
    prefix = _beginning(list(stems))
    suffix = _beginning([stem[::-1] for stem in stems])[::-1]
    prefix, suffix = re.sub(r"[0-9]+$", "", prefix), re.sub(r"^[0-9]+", "", suffix)
    if "{" in prefix + suffix or "}" in prefix + suffix or not prefix + suffix:
        return []
    return [f"^{_literal(prefix)}(.+){_literal(suffix)}$"]


def _beginning(names: Sequence[str]) -> str:
    """The common beginning of all names."""
    first, last = min(names), max(names)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same)


def _literal(text: str) -> str:
    return re.sub(r"([\\.^$*+?()\[\]|])", r"\\\1", text)


def _pairs_all(images: Iterable[str], candidate: str, files: Sequence[str], root: str) -> bool:
    every = re.compile(re.escape(pairing.of_any(candidate)).replace(r"\*", "[^/]*") + "$")
    ids = [PurePosixPath(i).stem for i in images if not every.search(i)]
    if len(ids) < 2 or len(set(ids)) < len(ids):
        return False
    found = pairing.files_of(ids, files, candidate, root)
    used = [of[0] for of in found.values() if len(of) == 1]
    return len(used) == len(ids) == len(set(used)) and not set(used) & {i for i in images if not every.search(i)}
