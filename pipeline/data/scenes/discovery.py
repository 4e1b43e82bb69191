"""Discover the files of scenes: images, labels, areas and footprints, by patterns or from a list."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from pipeline import store
from pipeline.data.scenes import listings, pairing, pattern_suggestion
from pipeline.data.scenes.pointer_files import said, unfetched
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import ManifestError
from pipeline.recipe import Data
from pipeline.recipe.data import STAC
from pipeline.text import some
from pipeline.uris import FILE_SEPARATOR, absolute

logger = logging.getLogger(__name__)

PAIR_BY: Final = "pair all of them by data."
"""How a hint begins that ends with the line of the recipe by which every image has a label."""


@dataclass(frozen=True)
class Discovery:
    """Result of discovery: scenes by id, of which some may lack a label or have two, and all problems.

    `unmatched` says which labels belong to no image, "" if none; it is among the problems if there are others.
    """

    root: str
    found: tuple[SceneFiles, ...]
    problems: tuple[str, ...]
    hint: str
    unmatched: str = ""

    def errors(self) -> list[ManifestError]:
        """One for each problem."""
        return [ManifestError(problem, self.hint) for problem in self.problems]

    def error(self) -> ManifestError:
        """One for all."""
        said = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''} with the files in {self.root}"
        return ManifestError("\n  ".join([said, *self.problems]), self.hint)


def find(data: Data) -> list[SceneFiles]:
    """The scenes of a data section, sorted by id. Local paths are absolute.

    Raises:
        ManifestError: no image is found, images lack a label or a band or have two, ids occur twice; all at once.
    """
    seen = survey(data)
    if seen.problems:
        raise seen.error()
    return list(seen.found)


def survey(data: Data) -> Discovery:
    """As `find`, but problems are returned with the scenes, so that the scenes can be inspected all the same.

    Labels without an image are only said in the log if nothing else is wrong: the others can be used without them.

    Raises:
        ManifestError: no image is found, none has a label, or the list of scenes cannot be read.
    """
    root = absolute(data.root)
    labels = _labels(data, root)
    drawn = _footprint_files(data, root)
    _say_unfetched(data, root)
    images, listed, problems = _images(data, root, {*labels, *drawn})
    own = {i: entry.label for i, entry in listed.items() if entry.label is not None}
    label_of = {i: [label] for i, label in own.items()}
    if data.labels is not None:
        more, wrong = _partners([i for i in images if i not in own], "label", data.labels, labels, root)
        label_of |= more
        problems += wrong
    areas: dict[str, list[str]] = {}
    if data.aoi is not None:
        files = pairing.files(pairing.of_any(data.aoi), root)
        areas, wrong = _partners(images, "area of interest", data.aoi, files, root)
        problems += wrong
    footprint_of, wrong = _footprints(data, root, images, listed, drawn)
    problems += wrong
    unmatched = _unmatched(labels, set().union(*label_of.values()))
    if unmatched and problems:
        problems.append(unmatched)
    elif unmatched:
        logger.warning("%s", unmatched)
    others: dict[str, Any] = {
        i: {
            "label": label_of.get(i, [None])[0],
            "aoi": areas.get(i, [None])[0],
            "footprint": footprint_of.get(i),
        }
        for i in images
    }
    found = tuple(SceneFiles(i, images[i], **others[i]) for i in sorted(images) if images[i])
    hint, paired = f"check {_looked_at(data)}", ""
    if data.labels is not None and any(i not in label_of for i in images) and data.bands_apart is None:
        paired = pattern_suggestion.line(
            [image.split(FILE_SEPARATOR)[0] for image in images.values()], data.labels, root
        )
    seen = Discovery(root, found, tuple(problems), f"{PAIR_BY}{paired}" if paired else hint, unmatched)
    if problems and data.labels is not None and not label_of:
        raise seen.error()  # a pattern is wrong, not the files: they need not be opened
    return seen


def _say_unfetched(data: Data, root: str) -> None:
    """Warn of images and labels that are links to nothing or stand for files that were not fetched."""
    patterns = [data.images, *(data.bands_apart or {}).values(), data.labels]
    found = [p for pattern in patterns if pattern for p in unfetched(pairing.of_any(pattern).rstrip("/"), root)]
    if found:
        logger.warning("%s", said(found))


def _unmatched(labels: Iterable[str], used: Container[str]) -> str:
    """Message about labels that belong to no image."""
    names = sorted(_name(label) for label in labels if label not in used)
    if len(names) > 1:
        return f"{len(names)} labels belong to no image: {some(names)}"
    return f"label {names[0]} belongs to no image" if names else ""


def _looked_at(data: Data) -> str:
    """The settings that say where files are."""
    way = next(name for name in ("images", "bands_apart", "scenes") if getattr(data, name) is not None)
    return f"data.{way} and data.labels" + (", and data.footprint" if data.footprint is not None else "")


def _labels(data: Data, root: str) -> list[str]:
    return [] if data.labels is None else pairing.files(pairing.of_any(data.labels), root)


def _footprint_files(data: Data, root: str) -> list[str]:
    return [] if data.footprint in (None, STAC) else pairing.files(pairing.of_any(str(data.footprint)), root)


def _footprints(
    data: Data, root: str, ids: Mapping[str, str], listed: Mapping[str, SceneFiles], files: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Footprint of each id that has one, and what is wrong. A scene without is valid all over."""
    found = {i: entry.footprint for i, entry in listed.items() if entry.footprint is not None}
    if data.footprint is None and not found:
        return {}, []
    others, what = [i for i in ids if i not in found], f"footprint in {data.scenes}"
    problems: list[str] = []
    if data.footprint not in (None, STAC):
        what = f"footprint {data.footprint!r}"
        more, problems = _partners(others, "footprint", str(data.footprint), files, root, needed=False)
        found |= {i: paths[0] for i, paths in more.items()}
    missing = sorted(i for i in others if i not in found)
    if missing and not found and not problems:
        return {}, [f"no scene has a {what}"]
    if missing and not problems:
        number, names = len(missing), some(missing)
        logger.warning("%d of %d scenes without a %s, so valid all over: %s", number, len(ids), what, names)
    return found, problems


def _images(data: Data, root: str, labels: Container[str]) -> tuple[dict[str, str], dict[str, SceneFiles], list[str]]:
    """Image of each id, what the list of scenes knows of it, and what is wrong."""
    if data.scenes is not None:
        listed = listings.read(store.join(root, data.scenes), root, data.assets, geometry=data.footprint == STAC)
        times = Counter(entry.id for entry in listed)
        problems = [f"id {i} is in {data.scenes} {n} times" for i, n in sorted(times.items()) if n > 1]
        images = {entry.id: entry.image for entry in listed}
        return images, {entry.id: entry for entry in listed}, problems
    if data.bands_apart is not None:
        images, problems = _bands_apart(data.bands_apart, root)
        return images, {}, problems
    matched = pairing.files(data.images or "", root)
    by_id: dict[str, list[str]] = {}
    for image in sorted(i for i in set(matched) if i not in labels):
        by_id.setdefault(PurePosixPath(image).stem, []).append(image)
    if not by_id:
        raise _nothing(data, root, len(matched))
    problems = [f"id {i} has several images: {', '.join(paths)}" for i, paths in by_id.items() if len(paths) > 1]
    return {i: paths[0] for i, paths in by_id.items()}, {}, problems


def _bands_apart(patterns: dict[str, str], root: str) -> tuple[dict[str, str], list[str]]:
    """The image of each id: its bands' files in the order of the patterns; empty where one is missing."""
    (first, pattern), *others = patterns.items()
    by_id = pairing.ids_in(pairing.files(pattern.replace("{id}", "*"), root), pattern.rstrip("/"), root)
    if not by_id:
        raise ManifestError(
            f"data.bands_apart.{first} {pattern!r} finds no file in {root}; there is {_beside(root)}",
            "change data.bands_apart",
        )
    problems = [f"id {i} has several files of band {first}: {', '.join(p)}" for i, p in by_id.items() if len(p) > 1]
    parts = {i: [paths[0]] for i, paths in by_id.items()}
    for band, wanted in others:
        files = pairing.files(wanted.replace("{id}", "*"), root)
        found, wrong = _partners(by_id, f"file of band {band}", wanted, files, root)
        problems += wrong
        for i, of in found.items():
            parts[i].append(of[0])
    return {i: FILE_SEPARATOR.join(of) if len(of) == len(patterns) else "" for i, of in parts.items()}, problems


def _partners(
    ids: Iterable[str], what: str, pattern: str, files: Sequence[str], root: str, *, needed: bool = True
) -> tuple[dict[str, list[str]], list[str]]:
    """The files of each id that has some, and what is wrong. A pattern without {id} names one file for all."""
    ids = list(ids)
    if not pairing.has_id(pattern):
        if len(files) == 1:
            return {i: list(files) for i in ids}, []
        found = f"finds {len(files)} files" if files else "finds no file"
        return {}, [f"{pattern!r} {found}; without {{id}} it must name one {what} for all scenes"]
    pairs = pairing.files_of(ids, files, pattern.rstrip("/"), root)
    problems = [f"id {i} has several {what}s: {', '.join(f)}" for i, f in pairs.items() if len(f) > 1]
    missing = sorted(i for i, f in pairs.items() if not f)
    if missing and needed:
        problems.append(
            f"{len(missing)} of {len(pairs)} images have no {what} {pattern!r}: {some(missing)}"
            if len(missing) > 1
            else f"image {missing[0]} has no {what} {pattern.replace('{id}', missing[0])!r}"
        )
        other = _other_form(missing, files)
        if other:
            problems[-1] += f" ({other}, whose letters are written in another form of Unicode: rename one of them)"
    return {i: f for i, f in pairs.items() if f}, problems


def _other_form(ids: Sequence[str], files: Sequence[str]) -> str:
    """A file that an id would find if both wrote letters such as é in one form of Unicode; "" without one."""
    names = {unicodedata.normalize("NFC", _name(file)): file for file in files}
    for i in ids:
        form = unicodedata.normalize("NFC", i)
        found = next((file for name, file in names.items() if form in name and i not in file), None)
        if found is not None:
            return f"there is {_name(found)!r}"
    return ""


def _nothing(data: Data, root: str, num_labels: int) -> ManifestError:
    if num_labels:
        return ManifestError(
            f"all {num_labels} files in {root} that data.images {data.images!r} finds are labels by {data.labels!r}",
            "let the two patterns differ",
        )
    if not store.exists(root):
        other = store.other_spelling(root) if store.is_local(root) else None
        hint = f"there is {other!r}, in another form of Unicode; write it so" if other else ""
        return ManifestError(f"data.root {root} does not exist", hint or "set data.root to the folder of the data")
    return ManifestError(
        f"data.images {data.images!r} finds no file in {root}; there is {_beside(root)}", "change data.images"
    )


def _beside(root: str) -> str:
    folders = [f"{name}/" for name in store.list_dirs(root)]
    return some(folders + [_name(f) for f in store.glob("*", root=root)]) or "nothing"


def _name(path: str) -> str:
    return PurePosixPath(path).name
