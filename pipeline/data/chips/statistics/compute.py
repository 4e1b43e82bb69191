"""Statistics of the train split: moments and distribution of the bands over valid pixels, labelled pixels per class."""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Final

import numpy as np

from pipeline import store
from pipeline.data.chips import raw_chip
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.parallel import local
from pipeline.data.parallel.local import Map
from pipeline.data.rasters.windows import Window, num_windows, spread, window_at
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DamagedError, ManifestError
from pipeline.recipe import Data, Recipe

logger = logging.getLogger(__name__)

STATISTICS_VERSION: Final = 2
_WINDOW: Final = 512
_JOB_WINDOWS: Final = 16
_SKETCHED: Final = 2_000_000
"""So many pixels at least go into the sketches, or all if there are fewer; this moves ranks by less than 0.1 %."""


@dataclass(frozen=True)
class MeasureJob:
    """Some windows of one scene to measure: what one thread, or one task of a cluster, does at a time."""

    scene: Scene
    windows: tuple[Window, ...]
    sketch_every: int
    """One of so many pixels goes into the sketches."""


def compute(manifest: Manifest, data: Data, mapped: Map = local.mapped) -> Statistics:
    """Read about `data.statistics_pixels` pixels of the train split, spread evenly, or all if there are fewer.

    Equal arguments give equal statistics, to the bit, whatever `mapped` does the work. Class counts are those of the
    pixels read that are labelled and valid in the image.

    Raises:
        ManifestError: there is no train split, or no valid pixel in it.
        SceneError, LabelError: a scene cannot be read any more.
    """
    work = partial(measure, classes=manifest.classes, data=data)
    return total(manifest, mapped(work, jobs(manifest, data)))


def jobs(manifest: Manifest, data: Data) -> list[MeasureJob]:
    """Split the measurement into jobs.

    Raises:
        ManifestError: there is no train split.
    """
    scenes = manifest.split("train")
    windows = _windows([(s.height, s.width, s.slices) for s in scenes], data.statistics_pixels)
    every = max(1, sum(w.height * w.width for _, w in windows) // _SKETCHED)
    # Neighbouring windows stay in one job: a PNG can only be read from its beginning.
    return [
        MeasureJob(scenes[scene], tuple(window for _, window in windows_of[i : i + _JOB_WINDOWS]), every)
        for scene, windows_of in ((k, list(g)) for k, g in itertools.groupby(windows, key=lambda w: w[0]))
        for i in range(0, len(windows_of), _JOB_WINDOWS)
    ]


def measure(job: MeasureJob, classes: Classes, data: Data) -> Statistics:
    """The statistics of one job's pixels.

    Raises:
        SceneError, LabelError: the scene cannot be read any more.
    """
    return reduce(Statistics.merge, (_measure(job, window, classes, data) for window in job.windows))


def total(manifest: Manifest, parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all jobs; the same to the bit if the parts are in the jobs' order, wherever they were measured.

    Raises:
        ManifestError: there is no valid pixel.
    """
    whole = reduce(Statistics.merge, parts)
    if whole.count == 0:
        num_scenes = len(manifest.split("train"))
        raise ManifestError(
            f"no valid pixel among {num_scenes} scenes of the train split", "check the images' nodata and data.nodata"
        )
    for name, std in zip(manifest.bands, whole.std, strict=True):
        if std == 0:
            logger.warning("band %s has the same value in every pixel read", name)
    return whole


def cached(recipe: Recipe, manifest: Manifest, mapped: Map = local.mapped) -> Statistics:
    """The statistics in <output>/<name>/statistics/; computed by `mapped` and put there if they are not yet."""
    name = f"{manifest.digest[:12]}.json"
    uri = store.join(recipe.compute.output, recipe.name, "statistics", name)
    made_of = {
        "version": STATISTICS_VERSION,
        "manifest": manifest.digest,
        "statistics_pixels": recipe.data.statistics_pixels,
        # Which pixels are valid is no part of the manifest's digest.
        "reading": recipe.data.reading.model_dump(mode="json"),
    }
    try:
        found = store.read_record(uri, lambda entry: _statistics(entry, made_of))
        if found is not None:
            return found
    except FileNotFoundError:
        pass
    except DamagedError as error:
        logger.warning("%s; the statistics are computed again", error.message)
    statistics = compute(manifest, recipe.data, mapped)
    store.write_json(uri, {"made_of": made_of, "statistics": statistics.to_json()})
    logger.info("statistics of %d pixels written to %s", statistics.count, uri)
    return statistics


def _statistics(entry: Mapping[str, Any], made_of: Mapping[str, Any]) -> Statistics | None:
    """Those of an entry, if it was made of the same."""
    return Statistics.from_json(entry["statistics"]) if entry["made_of"] == made_of else None


def _windows(sizes: Sequence[tuple[int, int, int]], num_pixels: int) -> list[tuple[int, Window]]:
    """Disjoint windows, as (position of the scene, window), with about `num_pixels` pixels together, spread evenly."""
    ends = list(itertools.accumulate(num_windows(h, w, _WINDOW, _WINDOW, slices) for h, w, slices in sizes))
    share = min(1.0, num_pixels / sum(h * w * slices for h, w, slices in sizes))
    out = []
    for number in spread(ends[-1], max(1, round(ends[-1] * share))):
        scene = bisect.bisect_right(ends, number)
        height, width, _ = sizes[scene]
        first = ends[scene - 1] if scene else 0
        out.append((scene, window_at(number - first, height, width, _WINDOW, _WINDOW)))
    return out


def _measure(job: MeasureJob, window: Window, classes: Classes, data: Data) -> Statistics:
    found = raw_chip.read(job.scene, window, classes, data=data)
    masked = np.where(found.valid, found.mask, IGNORE)
    if masked.ndim == 2:
        counts = np.bincount(masked.ravel(), minlength=256)[: len(classes)]
    else:
        counts = (masked == 1).sum(axis=(1, 2))
    return Statistics.of(found.image[:, found.valid], tuple(counts.tolist()), sketch_every=job.sketch_every)
