"""`fit` on Ray Train: the same worker on every rank, batches from Ray Data, restarts from the newest checkpoint.

Checkpoints are those of pipeline.train.checkpoint, in the run's directory; Ray's own are not used. When a worker dies
Ray restarts the group, asks for the dataset again, and both begin at the step of the newest checkpoint.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray import train as ray_train
from ray.data import Dataset
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline import log, store
from pipeline.data.feed.batches import Batch
from pipeline.data.feed.on_ray import dataset, execution_options, ray_batches, unwrap
from pipeline.data.feed.planning import plan_of
from pipeline.data.parallel import on_ray as cluster
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import ClusterError, PipelineError, TrainingError
from pipeline.recipe import Compute
from pipeline.train import checkpoint
from pipeline.train.host import MANIFEST
from pipeline.train.payload import RunPayload
from pipeline.world import World

# A hung collective is noticed after this; the death of a worker much sooner, by Ray.
_COLLECTIVE_TIMEOUT_S = 600
_PAYLOAD = "payload"
_QUICK = {
    # Ray looks after workers every two seconds by default, and a fit ends with such a look.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Workers share the machine with the processes that read for them: threads that spin take time from both.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A token in the user's home would be read by every process of a cluster that only this process can reach.
    "RAY_AUTH_MODE": "disabled",
}

logger = logging.getLogger(__name__)


@contextmanager
def connected(compute: Compute) -> Iterator[None]:
    """Be connected to the cluster of `compute.address` or RAY_ADDRESS, else to a private one on this machine.

    A connection that is there already is used, and stays.

    Raises:
        ClusterError: the cluster does not answer, or is too small.
    """
    with cluster.connected(compute.address or os.environ.get("RAY_ADDRESS"), partial(_start, compute)):
        preflight(compute)
        yield


def preflight(compute: Compute) -> None:
    """Refuse a cluster on which the workers, or the reading of their data, would wait for ever.

    Raises:
        ClusterError: what there is, what is needed, and which values to change.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    # What an autoscaler may still add; only Ray's own state knows.
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    most = {kind: max(count, limits.get(kind, 0)) for kind, count in there.items()}
    data = compute.data_cpus if compute.feed == "ray" else 0
    workers, cpus, gpus = compute.num_workers, compute.cpus_per_worker, compute.gpus_per_worker
    if most["CPU"] < workers * cpus + data:
        reading = f", and {data} for reading data" if data else ""
        raise ClusterError(
            f"the cluster has {most['CPU']:g} CPUs; {workers} workers with {cpus:g} each{reading} "
            f"need {workers * cpus + data:g}",
            _fewer_cpus(compute, most["CPU"], data),
        )
    if most["GPU"] < workers * gpus:
        raise ClusterError(
            f"the cluster has {most['GPU']:g} GPUs; {workers} workers with {gpus:g} each need {workers * gpus:g}",
            "lower compute.num_workers or compute.gpus_per_worker (0: train on CPUs), or add GPUs",
        )
    if not limits and sum(_places(node, cpus, gpus) for node in nodes) < workers:
        shapes = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise ClusterError(
            f"{workers} workers with {cpus:g} CPUs and {gpus:g} GPUs do not fit on the nodes ({shapes})",
            "lower compute.cpus_per_worker, compute.gpus_per_worker or compute.num_workers",
        )


def run(payload: RunPayload, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Train on the cluster that this process is connected to; returns what the leader's `work` returned.

    Args:
        payload: what `pipeline.train.fit` made.
        callbacks: more callbacks of Ray Train.

    Raises:
        PipelineError: what a worker raised.
        TrainingError: a worker died or failed more often than `compute.max_failures`.
        KeyboardInterrupt: the user stopped it.
    """
    compute = payload.recipe.compute
    resources = {"CPU": compute.cpus_per_worker} | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {})
    trainer = TorchTrainer(
        _on_worker,
        train_loop_config={_PAYLOAD: payload},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ray_train.ScalingConfig(
            num_workers=compute.num_workers, use_gpu=compute.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=ray_train.RunConfig(
            # Never a name that was used: Ray would go on with its own state instead of ours.
            name=f"fit-{uuid.uuid4().hex[:12]}",
            storage_path=store.join(payload.run_uri, "ray"),
            failure_config=ray_train.FailureConfig(max_failures=compute.max_failures),
            callbacks=[*callbacks, _GiveUp()],
            logging_config=ray_train.LoggingConfig(log_level="WARNING"),
        ),
        datasets={"train": partial(_dataset, payload)} if compute.feed == "ray" else None,
        dataset_config=ray_train.DataConfig(execution_options=execution_options()),
    )
    with _own_interrupts():
        try:
            result = trainer.fit()
        except ray_train.TrainingFailedError as error:
            raise _translated(error, payload.run_uri) from error
        except SystemExit:  # how Ray ends after an interrupt
            raise KeyboardInterrupt from None
    returned: dict[str, Any] = result.return_value
    return returned


def _start(compute: Compute) -> None:
    for name, value in _QUICK.items():
        os.environ.setdefault(name, value)
    needed = compute.num_workers * compute.cpus_per_worker + compute.data_cpus
    ray.init(
        address="local",
        # Logical CPUs only say what may run at once; a laptop with two cores must not be refused.
        num_cpus=max(math.ceil(needed), os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.WARNING,
        # Some of Ray's helpers ask the dashboard that is not there, and warn about it every second.
        logging_config=ray.LoggingConfig(log_level="ERROR"),
    )


def _fewer_cpus(compute: Compute, cpus: float, data: int) -> str:
    left = cpus - data
    changes = ["add CPUs"]
    if left > 0:
        changes.insert(0, f"set compute.cpus_per_worker={math.floor(100 * left / compute.num_workers) / 100:g}")
    if left >= compute.cpus_per_worker:
        changes.insert(0, f"set compute.num_workers={math.floor(left / compute.cpus_per_worker)}")
    if compute.num_workers * compute.cpus_per_worker <= cpus:
        changes.insert(0, "set compute.feed=local")
    return ", or ".join(changes)


def _places(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Workers that fit on a node."""
    by_cpu = math.floor(node.get("CPU", 0.0) / cpus)
    return min(by_cpu, math.floor(node.get("GPU", 0.0) / gpus)) if gpus else by_cpu


def _on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs on every rank."""
    payload: RunPayload = config[_PAYLOAD]
    world = World.detect()
    log.setup(rank=world.rank)
    logging.getLogger().setLevel(logging.WARNING)  # Ray repeats each report through the root logger
    compute = payload.recipe.compute
    # Ray's controller imports this file, too, before it starts the workers; it needs no network.
    worker = importlib.import_module("pipeline.train.worker")
    returned: dict[str, Any] = worker.work(
        payload,
        RayHost(),
        feed=partial(_batches, payload, world) if compute.feed == "ray" else None,
        device=get_device() if compute.gpus_per_worker else None,
    )
    return returned


def _batches(payload: RunPayload, world: World, start_step: int) -> Iterable[Batch]:
    recipe = payload.recipe
    return ray_batches(
        ray_train.get_dataset_shard("train"),
        world,
        global_batch=recipe.train.global_batch,
        start_step=start_step,
        stop_step=recipe.train.steps,
    )


def _dataset(payload: RunPayload) -> Dataset:
    """The chips from the newest checkpoint on; Ray calls it whenever it starts the workers."""
    recipe = payload.recipe
    manifest = Manifest.read(store.join(payload.run_uri, MANIFEST), root=recipe.data.root)
    plan = plan_of(recipe, manifest, payload.statistics)
    # A finished training reads nothing, but Ray has no dataset without blocks.
    start = min(checkpoint.start_of(payload.run_uri), recipe.train.steps - 1)
    chips = dataset(
        plan,
        num_workers=recipe.compute.num_workers,
        global_batch=recipe.train.global_batch,
        start_step=start,
        stop_step=recipe.train.steps,
        block_batches=recipe.compute.block_batches,
    )
    chips.context.print_on_execution_start = False
    return chips


def _translated(error: ray_train.TrainingFailedError, run_uri: str) -> PipelineError:
    """Our own error inside Ray's, or what happened to which worker."""
    failure = getattr(error, "controller_failure", None)
    ours = unwrap(failure) or unwrap(error)
    if ours is not None:
        return ours
    failures = getattr(error, "worker_failures", None) or {"?": failure or error}
    rank, cause = next(iter(failures.items()))
    return TrainingError(
        f"worker {rank} failed: {type(cause).__name__}: {cause}",
        checkpoint.next_step(run_uri),
    )


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ray puts a handler of its own in place and leaves it there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class RayHost:
    """Ray Train: a report is a barrier for all ranks, and what Ray Tune decides on."""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Pass the finite numbers on."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        ray_train.report({"step": step, **finite})


class _GiveUp(ray_train.UserCallback):  # type: ignore[misc]  # Ray ships no types that we check
    """Ends a run at an error that would come again; Ray would restart the workers for it."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise it, which is how a callback stops the controller."""
        for error in worker_exceptions.values():
            ours = unwrap(error)
            if ours is not None and not ours.retryable:
                raise ours
