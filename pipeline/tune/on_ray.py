"""The search on Ray Tune: each trial is an actor that calls `fit`, whose workers Ray Train places on the cluster.

The actor takes no CPU, since Ray Data shares out whole ones; how many trials run at once is counted from what their
workers and their reading need.

Tune stops a trial by killing its actor, and what happens then to the workers and the placement group of its run is
left to a process that needs Ray's dashboard. So here a trial that ASHA stops ends by itself: at each validation the
run's controller asks the coordinator whether it may go on, and raises if not, as it would at any other error. Only then
does Tune get the actor.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from typing import Any

import optuna
import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.exceptions import RayError
from ray.train import UserCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pipeline import log, store
from pipeline.data.feed.on_ray import unwrap
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import ClusterError, PipelineError, TrainingError
from pipeline.log import Advance
from pipeline.recipe import Recipe
from pipeline.train.payload import SearchPayload
from pipeline.tune import space
from pipeline.tune.results import FAILED, FINISHED, MANIFEST, STOPPED, WORST, Trial
from pipeline.tune.trial import finite, recipe_of, run_id_of, train, validated_every
from pipeline.tune.trial_coordinator import TrialCoordinator

# A bundle of no resources is refused; a byte of memory is as near as it gets.
_ACTOR = {"memory": 1}
_RESTARTS = 1
_CONTROLLER = "ray.train.v2._internal.execution.controller.controller"
_END_S = 120.0
"""Longest wait for a stopped trial to end by itself."""
_STATE = "tune"
"""Directory of what Tune keeps while it runs, pickles among it; removed at the end."""

logger = logging.getLogger(__name__)


def max_concurrent(recipe: Recipe) -> int:
    """Trials that the connected cluster holds at once, at most `tune.max_concurrent`.

    Raises:
        ClusterError: not even one.
    """
    compute, there = recipe.compute, ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    data = compute.data_cpus if compute.feed == "ray" else 0
    need = compute.num_workers * compute.cpus_per_worker + data
    need_gpus = compute.num_workers * compute.gpus_per_worker
    if cpus < need or gpus < need_gpus:
        raise ClusterError(
            f"one trial needs {need:g} CPUs and {need_gpus:g} GPUs; the cluster has {cpus:g} and {gpus:g}",
            "lower compute.num_workers, compute.cpus_per_worker or compute.data_cpus, or add nodes",
        )
    # One more share for reading than trials: Ray Data divides what is left between them, and rounds down.
    fits: int = max(1, math.floor((cpus - data) / need))
    if need_gpus:
        fits = min(fits, math.floor(gpus / need_gpus))
    return min(fits, recipe.tune.max_concurrent or fits, recipe.tune.num_trials)


def run(payload: SearchPayload, concurrent: int, progress: Advance | None = None) -> tuple[list[Trial], bool]:
    """Run all trials; returns them in the order they began, and whether they all came to their end.

    Args:
        payload: what `pipeline.tune.search` made.
        concurrent: trials at once.
        progress: called as progress(trials done, trials, note).
    """
    recipe = payload.recipe
    section, every = recipe.tune, validated_every(recipe.train)
    coordinator = ray.remote(num_cpus=0)(TrialCoordinator).remote()
    watch = _Watch(section.num_trials, coordinator, progress)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = TPESampler(seed=section.seed if section.seed is not None else recipe.seed)
    searcher = OptunaSearch(space.distributions(section.space), metric="score", mode="max", sampler=sampler)
    scheduler = ASHAScheduler(
        time_attr="step",
        grace_period=section.grace * every,
        max_t=max(recipe.train.steps, section.grace * every),
        reduction_factor=section.reduction,
        stop_last_trials=False,  # a trial at its last step still has its bundle to write
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Tune draws boxes on stdout, which belongs to the caller
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, payload=payload, coordinator=coordinator), _ACTOR),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=section.num_trials,
            max_concurrent_trials=concurrent,
            search_alg=searcher,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name=_STATE,
            storage_path=payload.uri,
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            callbacks=[watch],
            verbose=0,
        ),
    )
    try:
        tuner.fit()  # at SIGINT it returns early
    except (KeyboardInterrupt, SystemExit):
        logger.info("stopping the trials")
    watch.end()
    manifest = Manifest.read(store.join(payload.uri, MANIFEST), root=recipe.data.root)
    trials = [_row(number, trial, payload, manifest) for number, trial in enumerate(watch.begun.values())]
    store.remove(store.join(payload.uri, _STATE))
    return trials, len(watch.ended) == section.num_trials


def _trial(config: dict[str, Any], payload: SearchPayload, coordinator: Any) -> None:
    """One trial, in an actor of its own: passes the scores of validations on while a thread trains."""
    log.setup()
    name = tune.get_context().get_trial_id()
    ray.get(coordinator.open.remote(name))
    outcome: list[dict[str, Any] | BaseException] = []
    thread = threading.Thread(target=_train, args=(config, payload, coordinator, name, outcome), daemon=True)
    thread.start()
    while (row := ray.get(coordinator.score.remote(name))) is not None:
        tune.report(row)  # does not return where ASHA stops the trial: the driver answers then
        ray.get(coordinator.answer.remote(name, True))
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    tune.report(outcome[0])


def _train(config: dict[str, Any], payload: SearchPayload, coordinator: Any, name: str, outcome: list[Any]) -> None:
    """Body of a trial's thread; what came out, or an error that another try may mend, goes into `outcome`."""
    try:
        recipe = recipe_of(payload, config, name)
        made = train(recipe, payload, [_Ask(recipe, coordinator, name)])
        score = finite(made.scores.get(payload.metric))
        outcome.append({"score": score, "step": made.step, "bundle": made.uri})
    except PipelineError as error:
        # At step 0, where ASHA compares no trials, and with the worst score, so that TPE learns to avoid the place.
        failed = {"score": WORST, "step": 0, "failure": f"{type(error).__name__}: {error.message}"}
        outcome.append(error if error.retryable else failed)
    except BaseException as error:
        outcome.append(error)
        raise
    finally:
        ray.get(coordinator.end.remote(name))


def _row(number: int, trial: Any, payload: SearchPayload, manifest: Manifest) -> Trial:
    """Result of one of Tune's trials."""
    last = trial.last_result or {}
    reason = last.get("failure") or (_reason(trial) if trial.status == "ERROR" else "")
    score = None if reason or "score" not in last else float(last["score"])
    return Trial(
        number=number,
        overrides=space.overrides(payload.recipe.tune.space, trial.config),
        status=FAILED if reason else FINISHED if "bundle" in last else STOPPED,
        score=score,
        step=int(last.get("step", 0)),
        seconds=float(last.get("time_total_s", 0.0)),
        reason=reason,
        run_id=run_id_of(payload, trial.config, trial.trial_id, manifest),
        bundle=last.get("bundle"),
    )


def _reason(trial: Any) -> str:
    error = trial.get_pickled_error() or trial.get_error()
    ours = unwrap(error) if isinstance(error, BaseException) else None
    if ours is not None:
        return f"{type(ours).__name__}: {ours.message}"
    return str(error).strip().rpartition("\n")[2] or "its actor was lost"


def _is_no_stop(record: logging.LogRecord) -> bool:
    """False for the traceback that Ray's controller writes about a trial that ASHA stopped."""
    return record.exc_info is None or not isinstance(record.exc_info[1], _Stopped)


class _Stopped(TrainingError):
    """ASHA stopped the trial."""


class _Ask(UserCallback):  # type: ignore[misc]  # Ray ships no types that we check
    """Asks at each validation whether to go on; runs in the controller of a trial's Ray Train run.

    The trial itself reports the last one, when its bundle is written: ASHA could stop it before.
    """

    def __init__(self, recipe: Recipe, coordinator: Any, trial: str) -> None:
        self._metric, self._steps, self._every = recipe.tune.metric, recipe.train.steps, validated_every(recipe.train)
        self._coordinator, self._trial = coordinator, trial

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Hand in the score; one that is not finite is the worst."""
        step = metrics[0]["step"]
        if step % self._every or step >= self._steps:
            return
        row = {"score": finite(metrics[0].get(self._metric)), "step": step}
        if not ray.get(self._coordinator.ask.remote(self._trial, row)):
            logging.getLogger(_CONTROLLER).addFilter(_is_no_stop)
            raise _Stopped(f"stopped at step {step}: others did better by then")


class _Watch(tune.Callback):  # type: ignore[misc]
    """Keep the trials in the order they began, and log how many have ended; runs in the driver."""

    def __init__(self, total: int, coordinator: Any, progress: Advance | None) -> None:
        self.begun: dict[str, Any] = {}
        self.ended: set[str] = set()
        self._total, self._coordinator, self._progress, self._best = total, coordinator, progress, WORST

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Remember it."""
        self.begun.setdefault(trial.trial_id, trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count it; where ASHA stopped it, wait until it has ended."""
        last = trial.last_result or {}
        if "bundle" in last:
            self._best = max(self._best, float(last["score"]))
        elif "failure" not in last:
            self._stop(trial.trial_id)
        self._count_trial(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count it."""
        self._count_trial(trial)

    def end(self) -> None:
        """Kill the trials that an interrupt left running: they would close their runs as failed."""
        for name, trial in self.begun.items():
            actor = trial.temporary_state.ray_actor
            if name not in self.ended and actor is not None:
                ray.kill(actor)

    def _stop(self, trial: str) -> None:
        try:
            ray.get(self._coordinator.stop.remote(trial), timeout=_END_S)
        except RayError as error:
            logger.warning("trial %s did not end by itself: %s", trial, error)

    def _count_trial(self, trial: Any) -> None:
        self.ended.add(trial.trial_id)
        last = trial.last_result or {}
        how = FAILED if "failure" in last or trial.status == "ERROR" else FINISHED if "bundle" in last else STOPPED
        logger.info("trial %d/%d %s: score %s", len(self.ended), self._total, how, last.get("score"))
        if self._progress is not None:
            self._progress(len(self.ended), self._total, f"best {self._best:.4f}")
