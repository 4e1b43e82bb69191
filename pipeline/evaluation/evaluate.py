"""The verb evaluate: bundle × split -> report. Whole scenes are predicted and compared with their labels by strips.

Memory does not grow with the scenes: predictions come as finished rows, labels are read for just these rows, and only
counts are kept, and the masks of the few windows that get pictured.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import metrics, store
from pipeline.data.chips import quarantine
from pipeline.data.chips.quarantine import FailureTally, LeftOut
from pipeline.data.feed import batch_diversity
from pipeline.data.feed.shards import use_shards
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import BundleError, ManifestError, OutputExists
from pipeline.evaluation import figures, report
from pipeline.evaluation.eval_reader import EvalReader
from pipeline.evaluation.gallery import Candidate, Gallery, confusion_of
from pipeline.evaluation.report import Counts, Example, Report, SceneResult
from pipeline.log import Advance
from pipeline.model.bundle import Bundle
from pipeline.model.device import device_of
from pipeline.model.networks import Network
from pipeline.prediction import blend, bundle_inputs
from pipeline.recipe import Recipe
from pipeline.registry.open_uri import open_bundle
from pipeline.text import some
from pipeline.train.host import run_name
from pipeline.train.on_mlflow import METRICS, read_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _EvaluateJob:
    """What is constant over the scenes of a split."""

    recipe: Recipe
    bundle: Bundle
    network: Network
    manifest: Manifest
    gallery: Gallery
    device: torch.device
    reading: EvalReader

    @property
    def num_classes(self) -> int:
        return len(self.manifest.classes)

    @property
    def task(self) -> metrics.Task:
        return self.recipe.data.task

    def in_order(self, read: Read) -> Read:
        """A reader of the manifest's bands, as the bundle orders them."""
        places = bundle_inputs.positions(self.bundle, self.manifest.bands, self.manifest.file_bands)
        if places in (None, tuple(range(len(self.manifest.bands)))):
            return read

        def ordered(window: Window) -> Pixels:
            image, valid = read(window)
            return Pixels(image[list(places or ())], valid)

        return ordered


def evaluate(
    recipe: Recipe,
    bundle: Bundle | str,
    *,
    manifest: Manifest | None = None,
    split: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    source: str | None = None,
    progress: Advance | None = None,
) -> Report:
    """Score a bundle on the labelled scenes of a split; writes report.json and report.html.

    Args:
        recipe: its data, predict and evaluate sections are used, and compute's output and device.
        bundle: a bundle, or its URI (directory, s3://, runs:/, models:/).
        manifest: by default the recipe's current one.
        split: by default `evaluate.split`.
        out: directory of the report; by default `report_uri`.
        overwrite: replace a report that is there already.
        source: where the bundle came from, if it is a local copy; by default the URI that was given.
        progress: called as progress(scenes done, scenes, note).

    Raises:
        OutputExists: there is a report already; nothing was computed.
        ManifestError: the split is empty, or a scene of it has no label, or none has a labelled pixel.
        SceneError: the scenes have other bands than the bundle was trained on, or more windows of them cannot be read
            than `data.on_error` tolerates.
        BundleError: the bundle was trained for other classes.
    """
    store.configure(recipe.compute.storage)
    source = source or (bundle if isinstance(bundle, str) else bundle.uri)
    bundle = open_bundle(bundle, recipe=recipe)
    manifest = manifest if manifest is not None else current(recipe)
    split = split or recipe.evaluate.split
    uri = out or report_uri(recipe, bundle, manifest, split)
    if not overwrite and store.exists(store.join(uri, report.JSON_NAME)):
        raise OutputExists(f"{uri}: there is a report already", "pass --overwrite to replace it, or --out")
    scenes = manifest.split(split)
    check(bundle, manifest, scenes, recipe.data.task)
    for key, ours, theirs in bundle_inputs.other_ways(bundle, recipe.data.reading):
        logger.warning("data.reading.%s is %s here, and was %s in the training of the bundle", key, theirs, ours)

    started = time.monotonic()
    device = device_of(recipe.compute.device)
    gallery = Gallery(recipe.evaluate.examples, recipe.data.sampling.size, len(manifest.classes))
    prepared = use_shards.at_hand(recipe, manifest, split)
    logger.info("the %s split is read from %s", split, prepared or "the files")
    reading = EvalReader(
        manifest, recipe.data, bundle.normalisation, FailureTally(quarantine.limit(recipe.data)), prepared
    )
    job = _EvaluateJob(recipe, bundle, bundle.network.to(device), manifest, gallery, device, reading)
    counts = _confusions(job, scenes, progress or (lambda *_: None))
    found = _summary(job, split, scenes, counts)
    chosen = [(kind, c) for kind, side in zip(("best", "worst"), gallery.chosen(), strict=True) for c in side]
    result = Report(
        uri=uri,
        bundle_uri=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        examples=tuple(Example(kind, c.scene.id, c.window, c.miou, c.error_share) for kind, c in chosen),
        **found,
    )
    report.write(result, [_pictures(job, c) for _, c in chosen])
    logger.info("%s split: mean IoU %.4f over %d scenes; %s", split, result.scores["miou"], len(scenes), uri)
    return result


def report_uri(recipe: Recipe, bundle: Bundle, manifest: Manifest, split: str) -> str:
    """Default directory of the report of a bundle on a split of a manifest."""
    name = f"{bundle.digest}-{split}-{manifest.digest[:8]}"
    return store.join(recipe.compute.output, recipe.name, "reports", name)


def split_digest(scenes: Sequence[Scene], classes: Classes) -> str:
    """64 hex digits of what a split is judged by: its scenes, as they are now, and the classes."""
    rows = [[s.id, s.group, s.height, s.width, s.stamp, list(s.class_counts)] for s in scenes]
    return hashlib.sha256(json.dumps([rows, classes.to_json()], sort_keys=True).encode()).hexdigest()


def check(bundle: Bundle, manifest: Manifest, scenes: Sequence[Scene], task: metrics.Task = "multiclass") -> None:
    """Refuse a bundle that cannot be judged on these scenes.

    Raises:
        SceneError: a band is missing, or unnamed bands are not as many.
        BundleError: other classes, or another task.
        ManifestError: scenes without a label.
    """
    ours, theirs = bundle.bands, manifest.bands
    if bundle_inputs.positions(bundle, theirs, manifest.file_bands) is None and ours != theirs:
        logger.warning(
            "the scenes' bands are called %s, the bundle's %s: they are taken in this order",
            ", ".join(theirs),
            ", ".join(ours),
        )
    if bundle.dtype != manifest.dtype:
        logger.warning("the scenes are %s, the bundle was trained on %s", manifest.dtype, bundle.dtype)
    if bundle.classes.names != manifest.classes.names:
        raise BundleError(
            f"bundle {bundle.uri} predicts the classes {', '.join(bundle.classes.names)}; "
            f"the recipe has {', '.join(manifest.classes.names)}",
            "evaluate with the recipe it was trained for, or train again",
        )
    if bundle.task != task:
        raise BundleError(
            f"bundle {bundle.uri} was trained for the task {bundle.task}, the recipe's data.task is {task}",
            "evaluate with the recipe it was trained for, or train again",
        )
    bare = [scene.id for scene in scenes if scene.label is None]
    if bare:
        raise ManifestError(
            f"{len(bare)} of {len(scenes)} scenes of the split have no label: {some(bare)}",
            "only labelled scenes can be evaluated; give labels, or take these scenes out of the split",
        )


def _confusions(job: _EvaluateJob, scenes: Sequence[Scene], progress: Advance) -> list[NDArray[np.int64]]:
    out = []
    for done, scene in enumerate(scenes):
        side = (2, 2) if job.task == "multilabel" else (job.num_classes,)
        total = np.zeros((job.num_classes, *side), np.int64)
        for number in range(scene.slices):
            job.gallery.begin(scene, number)
            for row, truth, prediction in _strips(job, scene, number):
                share = (number + row / scene.height) / scene.slices
                progress(done, len(scenes), f"{scene.id} {share:.0%}")
                total += confusion_of(prediction, truth, job.num_classes)
                job.gallery.add(truth, prediction)
        out.append(total)
        progress(done + 1, len(scenes))
    return out


def _strips(job: _EvaluateJob, scene: Scene, number: int) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """First row, label and prediction [h,W] or [K,h,W] of finished rows of a slice; IGNORE in both where there is no
    measurement."""
    read = job.in_order(job.reading.image(scene))
    strips = blend.stream(
        job.network,
        lambda window: read(window._replace(slice=number)),
        scene.height,
        scene.width,
        num_classes=job.num_classes,
        section=job.recipe.predict,
        fill=job.bundle.fill,
        device=job.device,
        task=job.task,
    )
    for row, prediction, valid in strips:
        window = Window(row, 0, len(valid), scene.width, number)
        truth = job.reading.truth(scene, window, prediction)
        truth[..., ~valid] = IGNORE
        yield row, truth, prediction


def _summary(
    job: _EvaluateJob, split: str, scenes: Sequence[Scene], counts: Sequence[NDArray[np.int64]]
) -> dict[str, Any]:
    """The fields of a report that follow from the counts and say what was judged."""
    recipe, bundle, manifest = job.recipe, job.bundle, job.manifest
    total = sum(counts, np.zeros_like(counts[0]))
    if not total.any():
        raise ManifestError(
            f"the {len(scenes)} scenes of the {split} split have no labelled pixel", "look at their labels and nodata"
        )
    groups: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros_like(total))
    for scene, found in zip(scenes, counts, strict=True):
        groups[scene.group] = groups[scene.group] + found
    names = manifest.classes.names
    return {
        "name": recipe.name,
        "split": split,
        "bundle_digest": bundle.digest,
        "manifest_digest": manifest.digest,
        "split_digest": split_digest(scenes, manifest.classes),
        "fingerprint": bundle.fingerprint,
        "step": bundle.step,
        "run_id": bundle.run_id,
        "classes": manifest.classes,
        "confusion": _plain(total),
        "scores": _scores(total, names),
        "groups": {group: _scores(found, names) for group, found in sorted(groups.items())},
        "scenes": tuple(
            SceneResult(s.id, s.group, _plain(n), _scores(n, names)) for s, n in zip(scenes, counts, strict=True)
        ),
        "left_out": LeftOut(manifest.quarantined, job.reading.tally.windows),
        **_training(recipe, bundle),
        "predict": recipe.predict.model_dump(mode="json"),
        "task": job.task,
        # Where it ran is left out: it changes no number, and addresses may hold passwords.
        "recipe": {key: value for key, value in bundle.recipe.items() if key != "compute"},
    }


def _scores(counts: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, float]:
    return metrics.scores(torch.from_numpy(counts), names)


def _plain(counts: NDArray[np.int64]) -> Counts:
    return report.as_counts(counts.tolist())


def _training(recipe: Recipe, bundle: Bundle) -> dict[str, Any]:
    """Rows that the bundle's run recorded; the run of a copied bundle may be under this output."""
    run = run_name(bundle.fingerprint, bundle.manifest_digest)
    parent = bundle.uri.rstrip("/").rpartition("/")[0] or "."
    for home in (parent, store.join(recipe.compute.output, recipe.name, "runs", run)):
        rows = read_rows(store.join(home, METRICS))
        if rows:
            found = {"left_out_of_training": quarantine.read(home), "mixing": batch_diversity.read(home)}
            return {"curves": tuple(map(_numbers, rows)), **found}
    return {"curves": ()}


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "time"}


def _pictures(job: _EvaluateJob, candidate: Candidate) -> dict[str, str]:
    image, valid = job.reading.picture(candidate.scene, candidate.window)
    bands, classes = job.manifest.bands, job.manifest.classes
    return figures.window_pictures(image, valid, bands, candidate.truth, candidate.prediction, classes)
