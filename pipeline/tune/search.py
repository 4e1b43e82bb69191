"""The verb `search`: many fits over `tune.space`, of which the best becomes the challenger.

    <output>/<name>/searches/<fingerprint>-<time>/
        search.json  trials.csv  manifest.parquet  mlflow.json  trials/<trial>/<name>/runs/...

Every trial is a fit like any other, with overrides, in a directory of its own. ASHA stops those that do badly at
their validations (Li et al. 2020), Optuna's TPE draws the next ones (Bergstra et al. 2011).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline import store
from pipeline.data.chips.sampling import class_index
from pipeline.data.chips.statistics import annotation, compute
from pipeline.data.feed.planning import presence_of
from pipeline.data.feed.shards import use_shards as shards
from pipeline.data.parallel import choose
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import RecipeError, TrainingError
from pipeline.log import Advance
from pipeline.model import bundle
from pipeline.recipe import Recipe, absolute, replace
from pipeline.train import on_mlflow
from pipeline.train.payload import MlflowRun, SearchPayload
from pipeline.train.worker import stated_threads
from pipeline.tune import space
from pipeline.tune.results import FINISHED, MANIFEST, STOPPED, SearchResult, Trial, rank, to_csv, words
from pipeline.world import World

logger = logging.getLogger(__name__)


def search(recipe: Recipe, *, manifest: Manifest | None = None, progress: Advance | None = None) -> SearchResult:
    """Try `tune.num_trials` points of `tune.space`, and register the best one's bundle as the challenger.

    Args:
        recipe: what a trial changes; `tune` says how to search, `compute` what one trial gets.
        manifest: the scenes; by default the recipe's current manifest.
        progress: called as progress(trials done, trials, note).

    Raises:
        RecipeError: the space cannot be, or there is no val split to judge by; before anything starts.
        DataError: scenes, labels or splits are not what the recipe says, or shards that are required are not there.
        ClusterError: the cluster is too small for a single trial.
        TrackingError: the MLflow server does not answer, and `compute.tracking_required`.
        TrainingError: not one trial finished.
    """
    space.check(recipe)
    if recipe.compute.runner != "ray":
        raise RecipeError("compute.runner: local, but a search runs on Ray", "set compute.runner=ray")
    threads = stated_threads(recipe.compute, World.detect())
    recipe = replace(absolute(recipe), {"compute.threads_per_worker": threads})
    manifest = manifest or current(recipe)
    if not any(scene.split == "val" for scene in manifest.scenes):
        raise RecipeError(
            f"tune.metric: {recipe.tune.metric} is judged on the val split, and no scene is in it",
            "give data.split.val a share, or name some scenes val in the split table",
        )
    store.configure(recipe.compute.storage)
    on_mlflow.login(recipe.compute)
    platform = _platform("tune.on_ray")
    with _platform("train.on_ray").connected(recipe.compute):
        concurrent = platform.max_concurrent(recipe)
        payload = _open(recipe, manifest)
        status: str = "FAILED"
        trials: list[Trial] = []
        try:
            trials, complete = platform.run(payload, concurrent, progress)
            if not complete:
                raise KeyboardInterrupt
            result = _conclude(recipe, payload, trials)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            _close(payload, status, trials)
    return result


def _platform(name: str) -> Any:
    # A machine without Ray runs everything but this verb; and mlflow takes seconds to import.
    return importlib.import_module(f"pipeline.{name}")


def _open(recipe: Recipe, manifest: Manifest) -> SearchPayload:
    """The search's directory, with what trials share, and its MLflow run; returns what each trial gets.

    No environment reaches a trial, so the tracking server stands in its recipe.
    """
    _prepare(recipe, manifest)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    uri = store.join(recipe.compute.output, recipe.name, "searches", f"{recipe.fingerprint}-{stamp}")
    server = on_mlflow.reach(recipe)
    manifest.write(store.join(uri, MANIFEST))
    run = None
    if server is not None:
        tags = {"segpipe.fingerprint": recipe.fingerprint, "segpipe.manifest_digest": manifest.digest}
        run_id = on_mlflow.start_run(recipe, server, run_uri=uri, tags=tags, parent_run=None)
        run = MlflowRun(server, run_id)
    return SearchPayload(replace(recipe, {"compute.tracking_uri": server}), uri, recipe.tune.metric, run)


def _prepare(recipe: Recipe, manifest: Manifest) -> None:
    """What all trials find under the search's `compute.output`: statistics, and the indexes of classes that they draw
    by, made now and once; and shards: required shards that are missing are an error now."""
    shards.of_training(recipe, manifest)
    drawing = [each for each in space.samplings(recipe) if class_index.needed(each.data.sampling)]
    by_cell = {class_index.cell_for(each.data.sampling): each for each in drawing}
    with choose.chosen(recipe.compute) as mapped:
        annotation.check(manifest, compute.cached(recipe, manifest, mapped))
        for each in by_cell.values():
            presence_of(each, manifest, mapped=mapped)


def _conclude(recipe: Recipe, payload: SearchPayload, trials: Sequence[Trial]) -> SearchResult:
    """Write the trials down, find the best one, register it."""
    uri, metric = payload.uri, recipe.tune.metric
    store.write_bytes(store.join(uri, "trials.csv"), to_csv(trials, metric).encode())
    best = min(trials, key=rank)
    if best.status != FINISHED:
        reasons = "\n  ".join(f"trial {t.number} ({words(t.overrides)}): {t.reason or t.status}" for t in trials)
        raise TrainingError(f"not one of {len(trials)} trials finished:\n  {reasons}", "try one with `segpipe train`")
    made = bundle.load(str(best.bundle))
    version = None
    if payload.mlflow is None:
        logger.warning("the best trial is not registered, since there is no MLflow; `segpipe promote` does it later")
    else:
        name = recipe.registered_model
        version = _platform("tune.on_mlflow").register(made, best, payload.mlflow, name=name, search_uri=uri)
    result = SearchResult(uri, metric, best, made, version, tuple(trials))
    store.write_json(store.join(uri, "search.json"), result.to_json())
    return result


def _close(payload: SearchPayload, status: str, trials: Sequence[Trial]) -> None:
    """Close the search's MLflow run, and before it those of its trials that did not come to their end."""
    tracking = payload.mlflow
    if tracking is not None:
        stopped = [trial.run_id for trial in trials if trial.status == STOPPED]
        _platform("tune.on_mlflow").close_trials(tracking, stopped)
        on_mlflow.finish_run(tracking, status, run_uri=payload.uri)
