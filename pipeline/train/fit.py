"""The verb `fit`: a recipe and a manifest become a bundle, in this process, under torchrun or on Ray.

    <output>/<name>/runs/<fingerprint>-<manifest digest>/
        recipe.json  manifest.parquet  mlflow.json  metrics.jsonl  checkpoints/  bundle/

What is computed names the directory. So the same command goes on with a run that was killed, whatever it runs on now,
and refuses to repeat one that is finished.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import distributed as dist

from pipeline import log, store
from pipeline.data.chips.statistics import annotation
from pipeline.data.chips.statistics import compute as compute_statistics
from pipeline.data.feed.planning import plan_of
from pipeline.data.feed.shards import use_shards as shards
from pipeline.data.parallel import choose
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import OutputExists, PipelineError, RecipeError, StorageError
from pipeline.model import bundle
from pipeline.model.bundle import Bundle
from pipeline.model.device import device_of
from pipeline.recipe import Recipe, absolute, replace
from pipeline.redaction import redacted_tree
from pipeline.train import checkpoint, on_mlflow
from pipeline.train.host import BUNDLE, MANIFEST, Host, LocalHost, run_name
from pipeline.train.payload import MlflowRun, RunPayload
from pipeline.train.worker import joined, stated_threads, work
from pipeline.world import World

RECIPE = "recipe.json"
_FOLLOW_S = 0.5
_READ = {"train": "chips", "val": "windows of validation"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """A search, as its trials know it."""

    run_id: str | None = None
    """MLflow run that theirs are nested in."""
    output: str | None = None
    """The `compute.output` under which they look for statistics, the index of classes and shards; by default theirs."""


def fit(
    recipe: Recipe,
    *,
    manifest: Manifest | None = None,
    overwrite: bool = False,
    register: bool = True,
    parent: Parent | None = None,
    host: Host | None = None,
    callbacks: Sequence[Any] = (),
    progress: log.Advance | None = None,
) -> Bundle:
    """Train the recipe's network, or go on where a killed run of the same recipe and data stopped.

    Args:
        recipe: what to do; `compute` says where.
        manifest: the scenes; by default the recipe's current manifest.
        overwrite: begin again, even if there is a finished run or one to go on with.
        register: make the bundle a version of the registered model.
        parent: the search that this is a trial of.
        host: gets the reports of the loop, where it runs in this process.
        callbacks: of Ray Train, where it runs there.
        progress: called as progress(steps done, steps, note); by default a bar on a terminal, lines in a log.

    Raises:
        OutputExists: the run is finished, and not `overwrite`.
        DataError: scenes, labels or splits are not what the recipe says.
        TrainingError: the loss diverged, or a checkpoint does not fit.
        TrackingError, ClusterError, StorageError: a server, the cluster or the store does not answer.
    """
    world = World.detect()
    store.configure(recipe.compute.storage)
    on_mlflow.login(recipe.compute)
    _check(recipe, world)
    with ExitStack() as stack:
        if world.size > 1:
            stack.enter_context(joined(world, device_of(recipe.compute.device, world.local_rank)))
        payload = _agreed(world, lambda: _open(recipe, manifest, overwrite, parent or Parent(), stack))
        # A trial runs in a process of Ray, which sets OMP_NUM_THREADS: the search has said what the user wants.
        threads = recipe.compute.threads_per_worker if parent else stated_threads(recipe.compute, world)
        payload = dataclasses.replace(payload, threads=threads)
        if not world.leader:
            return bundle.load(work(payload, host or LocalHost())["bundle"])
        stack.enter_context(_closing(payload))
        stack.enter_context(_followed(payload.run_uri, recipe.train.steps, progress))
        if recipe.compute.runner == "ray":
            result = _on_ray().run(payload, callbacks)
        else:
            result = work(payload, host or LocalHost())
        made = bundle.load(result["bundle"])
        if register:
            _register(recipe, made, payload)
        return made


def run_uri_of(recipe: Recipe, manifest: Manifest) -> str:
    """Directory of the run that a recipe on a manifest is."""
    output = absolute(recipe).compute.output
    return store.join(output, recipe.name, "runs", run_name(recipe.fingerprint, manifest.digest))


def _check(recipe: Recipe, world: World) -> None:
    compute = recipe.compute
    if world.size > 1 and compute.runner == "ray":
        raise RecipeError("compute.runner: ray, but torchrun started this process", "add compute.runner=local")
    if world.size == 1 and compute.runner == "local" and compute.num_workers > 1:
        logger.warning(
            "compute.num_workers %d has no effect: this is one process; start %d with torchrun, or use runner ray",
            compute.num_workers,
            compute.num_workers,
        )


def _on_ray() -> Any:
    # A machine without Ray runs everything else of this file.
    return importlib.import_module("pipeline.train.on_ray")


def _agreed(world: World, make: Callable[[], RunPayload]) -> RunPayload:
    """Make the payload on the leader and send it to all ranks; if it fails, all fail alike."""
    if world.size == 1:
        return make()
    box: list[Any] = [None]
    if world.leader:
        try:
            box = [make()]
        except PipelineError as error:
            box = [error]
    dist.broadcast_object_list(box, 0)
    if isinstance(box[0], PipelineError):
        raise box[0]
    made: RunPayload = box[0]
    return made


def _open(recipe: Recipe, manifest: Manifest | None, overwrite: bool, parent: Parent, stack: ExitStack) -> RunPayload:
    """Check everything that can be checked before workers start; return what each of them gets."""
    # Workers get this recipe: they look for what was prepared under its output, and write to the run's directory alone.
    reads = recipe if parent.output is None else replace(recipe, {"compute.output": parent.output})
    with ThreadPoolExecutor(1) as pool:
        reached = pool.submit(on_mlflow.reach, recipe)  # seconds of imports, while the rest goes on
        manifest = manifest or current(reads)
        run_uri = run_uri_of(recipe, manifest)
        _clear_run(run_uri, overwrite)
        prepared = shards.of_training(reads, manifest)
        if choose.uses_cluster(recipe.compute):
            stack.enter_context(_on_ray().connected(recipe.compute))  # too small a cluster is known before it reads
        with choose.chosen(recipe.compute) as mapped:
            moments = compute_statistics.cached(reads, manifest, mapped)
            annotation.check(manifest, moments)
            plan_of(reads, manifest, moments, mapped=mapped)
        for split, place in prepared.items():
            logger.info("%s are read from %s", _READ[split], place or "the files")
        stated = redacted_tree(recipe.model_dump(mode="json"))
        manifest.write(store.join(run_uri, MANIFEST))
        store.write_json(store.join(run_uri, RECIPE), stated)
        if recipe.compute.runner == "ray":
            stack.enter_context(_on_ray().connected(recipe.compute))
        uri = reached.result()
    tracking = None
    if uri is not None:
        tags = {"segpipe.fingerprint": recipe.fingerprint, "segpipe.manifest_digest": manifest.digest}
        run_id = on_mlflow.start_run(recipe, uri, run_uri=run_uri, tags=tags, parent_run=parent.run_id)
        tracking = MlflowRun(uri, run_id)
    return RunPayload(
        recipe=absolute(replace(reads, {"compute.tracking_uri": uri})),
        stated=stated,
        fingerprint=recipe.fingerprint,
        run_uri=run_uri,
        statistics=moments,
        mlflow=tracking,
        threads=None,
    )


def _clear_run(run_uri: str, overwrite: bool) -> None:
    finished = store.join(run_uri, BUNDLE)
    if overwrite:
        store.remove(run_uri)
    elif store.exists(store.join(finished, bundle.META)):
        raise OutputExists(
            f"this recipe has been trained on these data: {finished}",
            "use that bundle, change the recipe (train.steps, seed, ...), or give --overwrite to train it again",
        )


@contextmanager
def _closing(payload: RunPayload) -> Iterator[None]:
    """Close the MLflow run as what it was."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        logger.warning("training was interrupted; %s", checkpoint.next_step(payload.run_uri))
        raise
    finally:
        if payload.mlflow is not None:
            on_mlflow.finish_run(payload.mlflow, status, run_uri=payload.run_uri)


def _register(recipe: Recipe, made: Bundle, payload: RunPayload) -> None:
    """The bundle is safe already: a registry that is away is said, and costs nothing."""
    hint = f"`segpipe promote` registers {made.uri} later"
    if payload.mlflow is None:
        logger.warning("not registered as %s, since there is no MLflow; %s", recipe.registered_model, hint)
        return
    try:
        on_mlflow.register(made, recipe.registered_model, payload.mlflow)
    except StorageError as error:
        logger.warning("not registered as %s: %s; %s", recipe.registered_model, error.message, hint)


@contextmanager
def _followed(run_uri: str, steps: int, progress: log.Advance | None) -> Iterator[None]:
    """Call `progress` as the recorded metrics grow, wherever the workers are."""
    done = threading.Event()
    with log.progress("steps") if progress is None else nullcontext(progress) as advance:
        thread = threading.Thread(target=_follow, args=(run_uri, steps, advance, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _follow(run_uri: str, steps: int, progress: log.Advance, done: threading.Event) -> None:
    path, shown, closing = store.join(run_uri, on_mlflow.METRICS), -1, False
    newest: dict[str, Any] = {}
    while not closing:
        closing = done.wait(_FOLLOW_S if store.is_local(run_uri) else 10 * _FOLLOW_S)
        try:
            rows = on_mlflow.read_rows(path, last=20)
        except StorageError as error:
            logger.debug("no progress to show: %s", error)
            continue
        newest |= {k: row[k] for row in rows for k in ("step", "loss", "val.miou") if row.get(k) is not None}
        if "loss" in newest and newest["step"] != shown:
            shown = newest["step"]
            val = f", val miou {newest['val.miou']:.4f}" if "val.miou" in newest else ""
            progress(shown, steps, f"loss {newest['loss']:.4f}{val}")
