"""Statistics of the train split: moments of the bands over valid pixels, and labelled pixels per class."""

from __future__ import annotations

import bisect
import itertools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Final

import numpy as np

from pipeline import store
from pipeline.data import rasters
from pipeline.data.classes import Classes
from pipeline.data.manifest import Manifest
from pipeline.data.moments import Statistics
from pipeline.data.scenes import Scene
from pipeline.data.windows import Window
from pipeline.errors import ManifestError
from pipeline.recipe import Data, Recipe

logger = logging.getLogger(__name__)

_WINDOW: Final = 512
_JOB_WINDOWS: Final = 16
_THREADS: Final = min(16, 2 * (os.cpu_count() or 1))


def compute(manifest: Manifest, data: Data) -> Statistics:
    """Read about `data.statistics_pixels` pixels of the train split, spread evenly, or all if there are fewer.

    Equal arguments give equal statistics, to the bit. Class counts are those of the pixels read that are labelled
    and valid in the image.

    Raises:
        ManifestError: there is no train split, or no valid pixel in it.
        SceneError, LabelError: a scene cannot be read any more.
    """
    scenes = manifest.split("train")
    windows = _windows([(s.height, s.width) for s in scenes], data.statistics_pixels)
    # Neighbouring windows stay in one thread: a PNG can only be read from its beginning.
    jobs = [
        (scenes[scene], [window for _, window in windows_of[i : i + _JOB_WINDOWS]])
        for scene, windows_of in ((k, list(g)) for k, g in itertools.groupby(windows, key=lambda w: w[0]))
        for i in range(0, len(windows_of), _JOB_WINDOWS)
    ]

    def measure(job: tuple[Scene, list[Window]]) -> Statistics:
        return reduce(Statistics.merge, (_measure(job[0], w, manifest.classes, data.nodata) for w in job[1]))

    with ThreadPoolExecutor(_THREADS) as pool:
        total = reduce(Statistics.merge, pool.map(measure, jobs))
    if total.count == 0:
        raise ManifestError(
            f"no valid pixel among {len(scenes)} scenes of the train split", "check the images' nodata and data.nodata"
        )
    for name, std in zip(manifest.bands, total.std, strict=True):
        if std == 0:
            logger.warning("band %s has the same value in every pixel read", name)
    return total


def cached(recipe: Recipe, manifest: Manifest) -> Statistics:
    """The statistics in <output>/<name>/statistics/; computed and put there if they are not yet."""
    name = f"{manifest.digest[:12]}.json"
    uri = store.join(recipe.compute.output, recipe.name, "statistics", name)
    made_of = {"manifest": manifest.digest, "statistics_pixels": recipe.data.statistics_pixels}
    try:
        entry: dict[str, Any] = store.read_json(uri)
        if entry["made_of"] == made_of:
            return Statistics.from_json(entry["statistics"])
    except FileNotFoundError:
        pass
    statistics = compute(manifest, recipe.data)
    store.write_json(uri, {"made_of": made_of, "statistics": statistics.to_json()})
    logger.info("statistics of %d pixels written to %s", statistics.count, uri)
    return statistics


def _windows(sizes: Sequence[tuple[int, int]], num_pixels: int) -> list[tuple[int, Window]]:
    """Disjoint windows, as (position of the scene, window), with about `num_pixels` pixels together.

    They are drawn from all windows of all scenes by stratified sampling: one at random of every n. A plain stride
    could fall in step with the columns of windows and see one side of the scenes only.
    """
    ends = list(itertools.accumulate(-(-h // _WINDOW) * -(-w // _WINDOW) for h, w in sizes))
    share = min(1.0, num_pixels / sum(h * w for h, w in sizes))
    count = max(1, round(ends[-1] * share))
    jitter = np.random.default_rng(0).random(count) if count < ends[-1] else np.zeros(count)
    chosen = ((np.arange(count) + jitter) * (ends[-1] / count)).astype(np.int64).tolist()
    out = []
    for number in chosen:
        scene = bisect.bisect_right(ends, number)
        height, width = sizes[scene]
        columns = -(-width // _WINDOW)
        row, col = divmod(number - ends[scene] + columns * -(-height // _WINDOW), columns)
        top, left = row * _WINDOW, col * _WINDOW
        out.append((scene, Window(top, left, min(_WINDOW, height - top), min(_WINDOW, width - left))))
    return out


def _measure(scene: Scene, window: Window, classes: Classes, nodata: float | None) -> Statistics:
    pixels, valid = rasters.read(scene.image, window, nodata=nodata)
    counts = np.zeros(len(classes), np.int64)
    if scene.label is not None:
        label, labelled = rasters.read_label(scene.label, window)
        mask = classes.encode(label, scene.id, labelled & valid)
        counts = np.bincount(mask.ravel(), minlength=256)[: len(classes)]
    return Statistics.of(pixels[:, valid], tuple(int(c) for c in counts))
