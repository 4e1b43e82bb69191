"""The verb `index`: discover and inspect scenes, divide them into splits, write the manifest."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from pipeline import store
from pipeline.data.labels import consistency
from pipeline.data.labels import summary as label_summary
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.scenes import band_matching, discovery, file_notices, inspection, staleness
from pipeline.data.scenes.inspection import Inspection
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene, SceneFiles
from pipeline.data.scenes.splits import assign
from pipeline.data.scenes.splits.assign import ScenePart
from pipeline.errors import DataError, ManifestError, PipelineError
from pipeline.log import Advance
from pipeline.recipe import Data, Recipe
from pipeline.recipe.data import BEFORE, Quarantine
from pipeline.recipe.sampling import BlocksSplit, HashSplit
from pipeline.redaction import redacted_tree
from pipeline.text import some

logger = logging.getLogger(__name__)

# Changing these does not change what the manifest says; changing the others but these and the split means that every
# scene must be looked at again.
_NOT_INDEXED: Final = ("root", "augment", "sampling", "normalise", "statistics_pixels", "on_error")
_POINTER: Final = "manifest.json"


def index(recipe: Recipe, *, progress: Advance | None = None) -> Manifest:
    """Look at all scenes and write the manifest to <output>/<name>/manifests/, unless it is there already.

    Headers, the first, middle and last block of every image, and the whole of every label are read. Scenes whose
    files are those of the last manifest (size and date, or ETag) are not read again. What was added, removed and
    changed since is said in the log.

    Args:
        recipe: its data section says where the scenes are and what their labels mean.
        progress: is called with the number of scenes done and of all scenes.

    Raises:
        ManifestError, SceneError, LabelError: everything that is wrong with the scenes, at once.
    """
    store.configure(recipe.compute.storage)
    data = recipe.data
    classes = Classes.from_section(data)
    survey = discovery.survey(data)
    found = list(survey.found)
    before, seen = _before(recipe), _seen(found)
    known = _known(before, found, seen)
    inspections = _remembered(before, known)
    inspections |= inspection.inspect_scenes([f for f in found if f.id not in known], classes, data, progress)
    found, quarantined, unreadable = _sorted_out(found, inspections, data.on_error)
    problems: list[DataError] = [*survey.errors(), *unreadable]
    infos = {f.id: info for f in found if (info := inspections[f.id].info) is not None}
    assigned: dict[str, tuple[str, str]] = {}
    by_blocks = isinstance(data.split, BlocksSplit)
    if not by_blocks:  # needs no file to be readable: what is wrong with it is said along with the rest
        try:
            assigned = assign.assign([f.id for f in found], data, kept_splits(recipe))
        except DataError as error:
            problems.insert(0, error)
    bands = band_matching.matched(infos, data)
    if before is not None and known and (bands.file_bands or bands.bands) != (before.file_bands or before.bands):
        # The last manifest does not know all bands that their files hold.
        inspections |= inspection.inspect_scenes([f for f in found if f.id in known], classes, data, progress)
        problems += [problem for i in known if i in inspections for problem in inspections[i].problems]
        infos = {f.id: info for f in found if (info := inspections[f.id].info) is not None}
        bands = band_matching.matched(infos, data)
    problems += bands.problems
    seen_labels = {f.id: inspections[f.id].label for f in found}
    if any(seen.palette for seen in seen_labels.values()):
        seen_labels |= {
            f.id: label_summary.remembered(f.label, inspections[f.id].class_counts, classes, data)
            for f in found
            if f.id in known
        }
    problems += consistency.contradictions(seen_labels, {f.id: inspections[f.id].class_counts for f in found}, classes)
    headers = {i: info for i, info in infos.items() if i not in known}
    said = (*bands.warnings, *file_notices.warnings({i: inspections[i].notices for i in infos}, headers, data))
    for warning in (*said, consistency.declared_nodata(seen_labels, classes, planes=data.task == "multilabel")):
        if warning:  # before any error, which it may explain
            logger.warning("%s", warning)
    if problems:
        raise inspection.all_of(problems)
    files = {f.id: f for f in found}
    grids = {i: info.grid for i, info in infos.items()}
    parts = assign.divide(grids, data) if by_blocks else [ScenePart.whole(i, grids[i], *assigned[i]) for i in grids]
    if not parts:
        raise ManifestError("the blocks leave nothing of any scene", "choose larger blocks or a smaller buffer")
    numbers = {i: inspection.bands for i, inspection in inspections.items()} | dict(bands.numbers)
    rows = [
        replace(
            _scene(part, files[part.scene], infos[part.scene], inspections[part.scene], seen, recipe),
            bands=numbers[part.scene],
        )
        for part in parts
    ]
    settings = data.model_dump(mode="json")
    manifest = Manifest.of(rows, bands.bands, infos[found[0].id].dtype, classes, settings, quarantined)
    nodata = _common_nodata(headers.values(), before if known else None)
    manifest = replace(manifest, file_bands=bands.file_bands, file_nodata=nodata)
    _publish(recipe, manifest, before)
    _log_summary(recipe, manifest)
    if before is not None:
        _log_changes(before, manifest)
    return manifest


def current(recipe: Recipe) -> Manifest:
    """The manifest of the last `index`; made now if there is none.

    Raises:
        ManifestError: the recipe describes other data than were indexed.
    """
    pointer = store.join(_home(recipe), _POINTER)
    try:
        made_with, path = _pointer(_home(recipe))
    except FileNotFoundError:
        logger.info("no manifest yet: indexing %s", recipe.data.root)
        return index(recipe)
    data = recipe.data.model_dump(mode="json")
    changed = sorted(_differing(made_with, data))
    if changed:
        raise ManifestError(
            f"the manifest in {pointer} was made with other values of {', '.join('data.' + key for key in changed)}",
            "run `segpipe index` again",
        )
    manifest = Manifest.read(store.join(_home(recipe), path), root=recipe.data.root)
    return replace(manifest, data=data)


def _pointer(home: str) -> tuple[dict[str, Any], str]:
    """The data section that the last manifest of a recipe's directory was made with, and the manifest's name in it.

    Raises:
        FileNotFoundError: there was no `index` yet.
        DamagedError: the file that says it is damaged.
    """
    uri = store.join(home, _POINTER)
    return store.read_record(uri, lambda entry: (dict(entry["data"]), str(entry["path"])), "run `segpipe index` again")


def _last(recipe: Recipe) -> Manifest:
    """The last manifest of the recipe's name; where there is none, of another name in the same `compute.output` with
    the same data section, so that a new name alone does not read the scenes again or change their splits.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is damaged.
    """
    home = _home(recipe)
    if not store.exists(store.join(home, _POINTER)):
        home = _home_of_same_data(recipe)
    return Manifest.read(store.join(home, _pointer(home)[1]), root=recipe.data.root)


def _home_of_same_data(recipe: Recipe) -> str:
    data = recipe.data.model_dump(mode="json")
    for name in store.list_dirs(recipe.compute.output):
        home = store.join(recipe.compute.output, name)
        with suppress(FileNotFoundError, DataError):
            if not _differing(_pointer(home)[0], data):
                return home
    raise FileNotFoundError(_POINTER)


def kept_splits(recipe: Recipe) -> dict[str, str]:
    """Splits that groups have in the last manifest, whatever else has changed since, if it was divided by the same
    hash split: what was tested on must not train because scenes were added."""
    if not isinstance(recipe.data.split, HashSplit):
        return {}
    try:
        before = _last(recipe)
        split = HashSplit.model_validate(before.data["split"])
    except FileNotFoundError:
        return {}
    except PipelineError as error:
        logger.warning("the last manifest cannot be read, so groups may change their split: %s", error.message)
        return {}
    except store.NOT_AS_WRITTEN:  # divided by another kind of split
        return {}
    return {scene.group: scene.split for scene in before.scenes} if split == recipe.data.split else {}


def _before(recipe: Recipe) -> Manifest | None:
    """The last manifest, if it can be read and its recipe meant the same by the files."""
    try:
        before = _last(recipe)
    except (FileNotFoundError, PipelineError):
        return None
    return None if _differing(before.data, recipe.data.model_dump(mode="json")) - {"split"} else before


def _seen(found: Sequence[SceneFiles]) -> dict[str, str]:
    """16 hex digits of the sizes and dates, or ETags, of each scene's files; "" where one is missing."""

    stamps = staleness.stamps(file for f in found for file in f.files)
    return {
        f.id: staleness.digest(stamps[file] for file in f.files) if all(file in stamps for file in f.files) else ""
        for f in found
    }


def _known(before: Manifest | None, found: Sequence[SceneFiles], seen: Mapping[str, str]) -> dict[str, Scene]:
    """Scenes of the last manifest whose files are the same."""
    if before is None:
        return {}
    rows = {s.id: s for s in before.scenes}
    return {
        f.id: row
        for f in found
        if (row := rows.get(f.id)) is not None
        and seen[f.id] == row.seen != ""
        and (f.uris(), (0, 0)) == (row.uris(), row.origin)
    }


def _remembered(before: Manifest | None, known: Mapping[str, Scene]) -> dict[str, Inspection]:
    """Inspections of scenes that have not changed, made from the last manifest."""
    if before is None:
        return {}
    bands = before.file_bands or before.bands
    return {
        i: Inspection(
            RasterInfo(s.grid, bands, before.dtype, s.slices),
            s.stamp,
            s.class_counts,
            (),
            s.bands,
        )
        for i, s in known.items()
    }


def _common_nodata(headers: Iterable[RasterInfo], before: Manifest | None) -> float | None:
    """The finite nodata value that all images declare in all bands, those of the last manifest included."""
    declared = {value for info in headers for value in info.nodata or (None,)}
    if before is not None:
        declared.add(before.file_nodata)
    (value,) = declared if len(declared) == 1 else (None,)
    return value if value is not None and math.isfinite(value) else None


def _sorted_out(
    found: Sequence[SceneFiles], inspections: Mapping[str, Inspection], on_error: Any
) -> tuple[list[SceneFiles], list[tuple[str, str]], list[DataError]]:
    """Scenes to use, id and reason of those to leave out, and what is wrong if they must not be left out."""
    problems = {f.id: inspections[f.id].problems for f in found if inspections[f.id].problems}
    if not isinstance(on_error, Quarantine) or len(problems) > on_error.max or len(problems) == len(found):
        return list(found), [], [problem for of_one in problems.values() for problem in of_one]
    reasons = [(i, "; ".join(p.message for p in of_one)) for i, of_one in problems.items()]
    for i, reason in reasons:
        logger.warning("scene %s is left out: %s", i, reason)
    return [f for f in found if f.id not in problems], reasons, []


def _scene(
    part: ScenePart,
    found: SceneFiles,
    info: RasterInfo,
    inspection: Inspection,
    seen: Mapping[str, str],
    recipe: Recipe,
) -> Scene:
    box = (*part.origin, part.height, part.width)
    counts = inspection.class_counts
    if found.label is not None and (part.height, part.width) != (info.grid.height, info.grid.width):
        classes = Classes.from_section(recipe.data)
        counts = label_summary.summarise(found, info, classes, recipe.data, part=box).class_counts
    return Scene.of(
        found,
        info,
        origin=part.origin,
        size=(part.height, part.width),
        id=part.id,
        split=part.split,
        group=part.group,
        stamp=inspection.stamp,
        class_counts=counts,
        seen=seen[part.scene],
    )


def _home(recipe: Recipe) -> str:
    return store.join(recipe.compute.output, recipe.name)


def _indexed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data section that a manifest depends on."""
    return {key: value for key, value in data.items() if key not in _NOT_INDEXED}


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """The keys that mean something else; what an older version did not know was as if it were not given."""
    # What is stored has no secrets.
    old, new = (redacted_tree(_indexed(data)) for data in (_completed(then), now))
    return {key for key in old | new if old.get(key) != new.get(key)}


def _completed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A data section of an older version with the keys that it did not know, as they were meant."""
    try:
        return Data.model_validate({**data, "reading": BEFORE | data.get("reading", {})}).model_dump(mode="json")
    except ValidationError:
        return data


def _publish(recipe: Recipe, manifest: Manifest, before: Manifest | None) -> None:
    """Write the manifest if there is none with this digest, or files were only touched; let the pointer name it."""
    path = f"manifests/{manifest.digest[:12]}.parquet"
    uri = store.join(_home(recipe), path)
    same = store.exists(uri)
    if not same or (before is not None and before.scenes != manifest.scenes):
        manifest.write(uri)
    if same:
        logger.info("manifest %s: unchanged", manifest.digest[:12])
    else:
        logger.info("manifest %s: written to %s", manifest.digest[:12], uri)
    pointer = {"digest": manifest.digest, "path": path, "data": redacted_tree(manifest.data)}
    store.write_json(store.join(_home(recipe), _POINTER), pointer)


def _log_summary(recipe: Recipe, manifest: Manifest) -> None:
    summary = manifest.summary()
    counts = ", ".join(f"{split['scenes']} {name}" for name, split in summary["splits"].items() if split["scenes"])
    shares = ", ".join(f"{name} {share:.1%}" for name, _, share in manifest.shares())
    logger.info("%d scenes (%s) of %d bands %s", len(manifest.scenes), counts, len(manifest.bands), manifest.dtype)
    if any(scene.label is not None for scene in manifest.scenes):
        logger.info("labelled pixels: %s", shares)
        for name in (name for name, pixels, _ in manifest.shares() if not pixels):
            logger.warning("no label holds a pixel of class %s: check the values in data.classes", name)
    for warning in assign.far_off([scene.split for scene in manifest.scenes], recipe.data):
        logger.warning("%s", warning)
    for name in {"train", recipe.evaluate.split}:
        if not summary["splits"][name]["scenes"]:
            logger.warning("the split %r is empty", name)


def _log_changes(before: Manifest, after: Manifest) -> None:
    then, now = ({s.id: s for s in m.scenes} for m in (before, after))
    changes = {
        "added": sorted(now.keys() - then.keys()),
        "removed": sorted(then.keys() - now.keys()),
        "changed": sorted(i for i in now.keys() & then.keys() if now[i].stamp != then[i].stamp),
        "moved to another split": sorted(i for i in now.keys() & then.keys() if now[i].split != then[i].split),
    }
    changed = [f"{len(ids)} {what} ({some(ids)})" for what, ids in changes.items() if ids]
    logger.info("since manifest %s: %s", before.digest[:12], "; ".join(changed) or "no scene has changed")
