"""The worker: what every rank of a fit executes, in any runner."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed as dist

from pipeline import store
from pipeline.data.chips import quarantine
from pipeline.data.chips.quarantine import FailureTally, LeftOut
from pipeline.data.chips.statistics import normalise
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.feed import batch_diversity
from pipeline.data.feed.batches import Batch, local_batches
from pipeline.data.feed.chip_reader import ChipReader
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.planning import normalisation_of, plan_of
from pipeline.data.feed.shards import use_shards
from pipeline.data.labels.classes import IGNORE
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import RecipeError, TrainingError
from pipeline.model import bundle, losses, networks
from pipeline.model.device import device_of
from pipeline.recipe import Compute, Recipe
from pipeline.train import checkpoint, loop
from pipeline.train.host import BUNDLE, MANIFEST, Host, NoTracker
from pipeline.train.on_mlflow import MetricsTracker
from pipeline.train.payload import RunPayload
from pipeline.train.validate import Validation
from pipeline.world import World

logger = logging.getLogger(__name__)

_JOB: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the entry point of a job."""


def work(
    payload: RunPayload, host: Host, *, feed: loop.Batches | None = None, device: torch.device | None = None
) -> dict[str, Any]:
    """Train as one rank of a world, and on the leader write the bundle.

    Args:
        payload: what `pipeline.train.fit` made.
        host: gets the reports of the loop.
        feed: where batches come from; by default threads of this process read them.
        device: by default as the recipe and the world say.

    Returns:
        The bundle's URI, the last step, the step it went on from, losses and scores.

    Raises:
        PipelineError: whatever goes wrong in data, recipe or training.
    """
    recipe, world = payload.recipe, World.detect()
    store.configure(recipe.compute.storage)
    device = device or device_of(recipe.compute.device, world.local_rank)
    _prepare(recipe, world, device, payload.threads)
    with joined(world, device):
        manifest = Manifest.read(store.join(payload.run_uri, MANIFEST), root=recipe.data.root)
        parts = _Parts(payload, recipe, world, device, manifest)
        torch.manual_seed(recipe.seed)
        network = networks.build(recipe.model, len(manifest.bands), len(manifest.classes))
        network.set_normalisation(parts.normalisation)
        if world.leader:
            normalise.log_values(parts.normalisation, manifest.bands)
        annotated = _Annotated(feed or _local_feed(parts))
        outcome = _train(parts, network, host, annotated)
        annotated.check(parts, outcome)
        if world.leader:
            quarantine.write(parts.run_uri, LeftOut(manifest.quarantined, parts.tally.windows))
            _bundle(parts, network, outcome)
        if world.size > 1:
            dist.barrier()  # no rank leaves before the bundle is written
    return {
        "bundle": store.join(payload.run_uri, BUNDLE),
        "step": outcome.step,
        "started_at": outcome.started_at,
        "losses": [list(pair) for pair in outcome.losses],
        "scores": outcome.scores,
    }


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Be in the process group of the world: the one that is there, or a new one if there is none."""
    if world.size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def cores() -> int:
    """Cores that this process may use: its affinity and, in a container, its quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


def stated_threads(compute: Compute, world: World) -> int | None:
    """Threads of torch that the user asks for, by `compute.threads_per_worker` or OMP_NUM_THREADS; None for neither.

    torchrun, and Ray in its jobs, set OMP_NUM_THREADS to 1 where it is not set, so 1 is not taken as the user's.
    """
    if compute.threads_per_worker is not None:
        return compute.threads_per_worker
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for nested regions
    threads = int(first) if first.isdecimal() else 0
    if threads == 1 and (world.size > 1 or _JOB in os.environ):
        return None
    return threads or None


def _prepare(recipe: Recipe, world: World, device: torch.device, threads: int | None) -> None:
    if recipe.train.global_batch % world.size:
        batch = recipe.train.global_batch
        fits = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise RecipeError(
            f"train.global_batch: {batch} chips do not divide over {world.size} workers", f"use {fits} workers"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have one shape
    torch.set_num_threads(threads or recipe.compute.threads_per_worker or max(1, cores() // world.local_size))


def _local_feed(parts: _Parts) -> loop.Batches:
    recipe = parts.recipe

    def read(start: int) -> Iterable[Batch]:
        return local_batches(
            parts.plan,
            parts.world,
            global_batch=recipe.train.global_batch,
            start_step=start,
            stop_step=recipe.train.steps,
            threads=_readers(recipe, parts.plan.scenes),
        )

    return read


def _readers(recipe: Recipe, scenes: Sequence[Scene]) -> int:
    """Reading threads: more where they mostly wait for a store."""
    return store.concurrency((scene.image for scene in scenes), recipe.compute.feed_threads)


def _train(parts: _Parts, network: networks.Network, host: Host, feed: loop.Batches) -> loop.Outcome:
    recipe, world, run_uri, payload = parts.recipe, parts.world, parts.run_uri, parts.payload
    tracker = (
        MetricsTracker(run_uri, start_step=checkpoint.start_of(run_uri), run=payload.mlflow) if world.leader else None
    )
    job = loop.Job(
        train=recipe.train,
        run_uri=run_uri,
        fingerprint=payload.fingerprint,
        seed=recipe.seed,
        compile=recipe.compute.compile,
        meta={"recipe": payload.stated, "mlflow_run_id": payload.run_id},
    )
    diversity = (
        batch_diversity.BatchDiversity(parts.plan.order, recipe.train.global_batch, len(parts.manifest.classes))
        if tracker
        else None
    )
    try:
        outcome = loop.train(
            job,
            network=network,
            loss=_loss(parts, network),
            batches=diversity.watching(feed) if diversity else feed,
            world=world,
            host=host,
            tracker=tracker or NoTracker(),
            device=parts.device,
            validate=_validation(parts),
            tally=parts.tally,
        )
        if diversity and diversity.numbers:
            store.write_json(store.join(run_uri, batch_diversity.FILE), diversity.numbers)
            logger.info("batch diversity: %s", batch_diversity.summary_text(diversity.numbers))
        return outcome
    finally:
        if tracker is not None:
            tracker.close()


class _Annotated:
    """A feed that notes whether any pixel of its batches is annotated and valid."""

    def __init__(self, feed: loop.Batches) -> None:
        self.feed, self.found = feed, False

    def __call__(self, start: int) -> Iterator[Batch]:
        for batch in self.feed(start):
            self.found = self.found or bool((batch.mask != IGNORE).any())
            yield batch

    def check(self, parts: _Parts, outcome: loop.Outcome) -> None:
        """Make no bundle of a run whose chips held nothing to learn from; all ranks decide alike.

        Of a run that went on from a checkpoint, the chips before it are not known.

        Raises:
            TrainingError: no pixel of any rank's chips was annotated and valid.
        """
        found = torch.tensor(int(self.found), device=parts.device)
        if parts.world.size > 1:
            dist.all_reduce(found)
        if outcome.started_at == 0 and not int(found):
            raise TrainingError(
                f"no pixel of the {outcome.step * parts.recipe.train.global_batch} chips of this run was annotated "
                "and valid",
                "draw chips where labels are: data.sampling: {kind: foreground}, or a larger data.sampling.size",
            )


def _loss(parts: _Parts, network: networks.Network) -> losses.Loss | losses.Supervised:
    loss = losses.build(parts.recipe.loss, len(parts.manifest.classes), task=parts.recipe.data.task)
    return losses.supervised(loss, network.auxiliary_weights, network.label_weight)


def _validation(parts: _Parts) -> Validation | None:
    """None where there is no val split."""
    recipe, manifest = parts.recipe, parts.manifest
    scenes = tuple(s for s in manifest.scenes if s.split == "val")
    if not scenes:
        return None
    prepared = use_shards.chosen(recipe, manifest, "val")
    return Validation(
        reads=ChipReader(scenes, manifest.classes, recipe.data, manifest.digest, recipe.data.sampling.size, prepared),
        normalisation=parts.normalisation,
        world=parts.world,
        device=parts.device,
        batch=recipe.train.global_batch // parts.world.size,
        threads=_readers(recipe, scenes),
        tally=parts.tally,
    )


def _bundle(parts: _Parts, network: networks.Network, outcome: loop.Outcome) -> None:
    recipe, manifest, payload = parts.recipe, parts.manifest, parts.payload
    bundle.save(
        store.join(parts.run_uri, BUNDLE),
        network,
        model=recipe.model,
        classes=manifest.classes,
        bands=manifest.bands,
        dtype=manifest.dtype,
        statistics=parts.statistics,
        predict=recipe.predict,
        recipe=payload.stated,
        fingerprint=payload.fingerprint,
        manifest_digest=manifest.digest,
        step=outcome.step,
        scores=outcome.scores,
        run_id=payload.run_id,
        normalisation=parts.normalisation,
        file_bands=manifest.file_bands,
        file_nodata=manifest.file_nodata,
        pixel_size=manifest.pixel_size("train"),
    )


@dataclass(frozen=True)
class _Parts:
    """Inputs of a rank before it builds anything."""

    payload: RunPayload
    recipe: Recipe
    world: World
    device: torch.device
    manifest: Manifest

    @property
    def run_uri(self) -> str:
        return self.payload.run_uri

    @property
    def statistics(self) -> Statistics:
        return self.payload.statistics

    @cached_property
    def tally(self) -> FailureTally:
        """Tally of the windows that the run could not read."""
        return FailureTally(quarantine.limit(self.recipe.data))

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self.recipe, self.manifest, self.statistics)

    @cached_property
    def normalisation(self) -> Normalisation:
        return normalisation_of(self.recipe, self.manifest, self.statistics)
