"""The verb `doctor`: read the data, judge them, write the report and its page."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import numpy as np

from pipeline import store
from pipeline.data.doctor import (
    access,
    checks_files,
    checks_labels,
    checks_pixels,
    checks_recipe,
    checks_splits,
    checks_storage,
    distributions,
    gather,
    page,
)
from pipeline.data.doctor import read_plan as planning
from pipeline.data.doctor.findings import (
    HTML_NAME,
    JSON_NAME,
    Audit,
    BandRow,
    ClassRow,
    Entry,
    Finding,
    SceneRow,
    in_order,
)
from pipeline.data.doctor.gather import Gathered
from pipeline.data.scenes.splits.assign import SPLITS
from pipeline.log import Advance
from pipeline.recipe import Recipe

logger = logging.getLogger(__name__)

_CHECKS: Final = (checks_files, checks_labels, checks_pixels, checks_recipe, checks_splits, checks_storage)
_FIRST: Final = 5


def examine(recipe: Recipe, out: str, *, progress: Advance | None = None) -> Audit:
    """Audit a recipe's data and write report.html and report.json into `out`; and groups.csv if splits share scenes.

    Headers of all scenes are read, labels whole up to a billion pixels, images in samples; the report says which.
    Nothing that is wrong with the data is raised: it is a finding. The same data give the same findings, except for
    measured times.

    Args:
        recipe: what is to be trained.
        out: directory or s3:// prefix; the files of these names in it are replaced.
        progress: is called with what is done and what there is to do, several times from the beginning.

    Raises:
        StorageError: `out` cannot be written.
    """
    begin = time.monotonic()
    seen = replace(gather.gather(recipe, progress), out=out)
    findings = in_order(itertools.chain.from_iterable(check.findings(seen) for check in _CHECKS))
    audit = Audit(
        uri=out,
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - begin,
        root=recipe.data.root,
        findings=findings,
        first=tuple(dict.fromkeys(f.kind for f in findings if f.severity != "note"))[:_FIRST],
        splits=_splits(seen),
        scenes=tuple(_scene(e, seen, findings) for e in seen.entries),
        bands=_bands(seen),
        classes=_classes(seen),
        estimates=_estimates(seen),
        looked=_looked(seen),
    )
    store.write_bytes(store.join(out, HTML_NAME), page.html(audit, seen).encode())
    store.write_json(store.join(out, JSON_NAME), audit.to_json())
    logger.info("%d errors, %d warnings; report in %s", len(audit.errors), len(audit.of("warning")), out)
    return audit


def _splits(seen: Gathered) -> dict[str, dict[str, int]]:
    out = {}
    for name in (*SPLITS, ""):
        members = seen.split(name)
        if members:
            out[name or "none"] = {
                "scenes": len(members),
                "groups": len({e.group for e in members}),
                "pixels": sum(e.num_pixels for e in members),
            }
    return out


def _scene(entry: Entry, seen: Gathered, findings: Sequence[Finding]) -> SceneRow:
    sample = seen.samples.get(entry.id)
    read = sample.num_pixels if sample and sample.problem is None else 0
    info = entry.info
    return SceneRow(
        id=entry.id,
        split=entry.split,
        group=entry.group,
        size=f"{info.grid.width} × {info.grid.height}" + (f" × {info.slices}" if info.slices > 1 else "")
        if info
        else "",
        crs=access.short_crs(info.grid.crs) if info else "",
        pixel=_pixel(entry),
        bands=f"{len(info.bands)} × {info.dtype}" if info else "",
        storage=_storage(entry),
        num_bytes=entry.num_bytes,
        valid=sample.num_valid / read if sample and read else None,
        annotated=sample.num_annotated / read if sample and read and entry.label else None,
        medians=tuple(sample.medians.tolist()) if sample and read else (),
        flags=tuple(dict.fromkeys(f.kind for f in findings if entry.id in f.scenes and _tells(f, seen))),
    )


def _tells(finding: Finding, seen: Gathered) -> bool:
    """Whether a finding makes its scenes special: one about most of them does not."""
    return finding.severity != "note" and len(finding.scenes) <= max(1, len(seen.entries) / 2)


def _pixel(entry: Entry) -> str:
    if entry.info is None or not entry.info.georeferenced:
        return ""
    across, shear, _, turn, down, _ = entry.grid.transform
    return f"{(across**2 + turn**2) ** 0.5:.4g} × {(shear**2 + down**2) ** 0.5:.4g}"


def _storage(entry: Entry) -> str:
    if entry.info is None:
        return ""
    levels = len(entry.info.levels)
    parts = [entry.info.format]
    if min(entry.info.tile) > 0:
        parts.append(f"{entry.info.tile[1]} × {entry.info.tile[0]}")
    if levels > 1:
        parts.append(f"{levels} levels")
    return ", ".join(part for part in parts if part)


def _bands(seen: Gathered) -> tuple[BandRow, ...]:
    values_of = {
        name: [s.values for e, s in seen.usable if e.split == split and s.values.shape[1]]
        for split, name in ((*((s, s) for s in SPLITS), ("", "all")))
    }
    return distributions.band_rows(values_of, seen.bands)


def _classes(seen: Gathered) -> tuple[ClassRow, ...]:
    counts = checks_labels.class_counts(seen)
    rows = []
    for position, name in enumerate(seen.classes.names):
        in_scenes = {
            split: sum(bool(seen.tallies[e.id].counts[position]) for e in seen.split(split) if e.id in seen.tallies)
            for split in counts
        }
        rows.append(
            ClassRow(
                name=name,
                color="#{:02x}{:02x}{:02x}".format(*seen.classes.colors[position]),
                pixels={split: of[position] for split, of in counts.items()},
                share={split: of[position] / max(1, sum(of)) for split, of in counts.items()},
                scenes=in_scenes,
            )
        )
    return tuple(rows)


def _estimates(seen: Gathered) -> dict[str, float | str]:
    """Numbers by name; seconds and bytes carry their unit."""
    recipe = seen.recipe
    size, batch = recipe.data.sampling.size, recipe.train.global_batch
    dtypes = [e.info.dtype for e in seen.entries if e.info is not None]
    if not dtypes or not seen.bands:
        return {}
    dtype = max(set(dtypes), key=dtypes.count)
    chip = size * size * (len(seen.bands) * np.dtype(dtype).itemsize + 1)
    epoch = _epoch_size(seen)
    threads = recipe.compute.feed_threads * recipe.compute.num_workers
    return {
        "chips_per_epoch": epoch,
        "steps_per_epoch": epoch / batch,
        "epochs": recipe.train.steps * batch / max(epoch, 1),
        "read_seconds_per_chip": seen.timing.mean,
        "read_seconds_per_epoch": seen.timing.mean * epoch,
        "feed_threads": threads,
        "read_seconds_per_epoch_threads": seen.timing.mean * epoch / threads,
        "read_seconds_in_all_threads": seen.timing.mean * recipe.train.steps * batch / threads,
        "chip_bytes": chip,
        "batch_bytes": chip * batch,
        "input_bytes_on_device": size * size * len(seen.bands) * 4 * batch,
        "image_bytes": sum(e.num_bytes for e in seen.entries),
    }


def _epoch_size(seen: Gathered) -> int:
    """Chips in an epoch: what the recipe says, or as many as cover the train split once."""
    size = seen.recipe.data.sampling.size
    return seen.recipe.data.sampling.epoch_size or sum(-(-e.num_pixels // size**2) for e in seen.split("train"))


def _looked(seen: Gathered) -> tuple[str, ...]:
    if not seen.entries:
        return ("No scene could be listed, so nothing was read.",)
    entries, chosen = len(seen.entries), len(seen.plan.chosen)
    total = sum(e.num_pixels for e in seen.entries)
    read = sum(s.num_pixels for s in seen.samples.values())
    whole = sum(planning.whole(e, seen.plan) is not None for e in seen.plan.chosen)
    marked = sum(len(s.marks) > 0 for s in seen.samples.values())
    pictured = sum(s.thumbnail is not None and s.thumbnail.whole for s in seen.samples.values())
    says = [
        f"Headers of {entries:,} scenes were read.",
        f"Pixels were read of {chosen:,} scenes, {whole:,} of them whole: {read:,} of {total:,} pixels.",
        "Labels were counted whole."
        if seen.plan.labels_whole
        else f"Labels are too large to count whole; about {planning.LABEL_PIXELS:,} pixels were.",
        f"Equal content was searched among {len(seen.stamps):,} files and, by blocks of pixels, among {marked:,} "
        f"scenes that were read whole; near duplicates among {pictured:,} small views.",
        f"Reading was timed on {len(seen.timing.seconds)} scenes, one window after another, with nothing decoded "
        "before, as in a set much larger than memory. Files that the operating system holds in memory are faster than "
        "a disk or a bucket.",
    ]
    return tuple(says)
