"""The training loop: the same one under python, torchrun and Ray Train.

A step: batch to the device, forward under autocast, local sums of the loss, sums over all ranks, the value they give,
backward (DDP averages), unscale and clip, update at the step's rate, moving average. Then, where due: log, validate,
checkpoint, report. Nothing waits for the device between two logged steps, and only there do ranks exchange which
windows they could not read.

Gradients are those of the global batch: with local sums s_r and their total S, every rank differentiates
value(s_r + const(S - s_r)); the sum over ranks is the gradient of value(S). DDP averages, hence a factor of `size`.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pipeline import recipe
from pipeline.data.chips.quarantine import FailureTally, Replaced
from pipeline.data.feed.batches import Batch, numbers_of
from pipeline.errors import DivergedError, TrainingError
from pipeline.model.losses import Loss, Supervised
from pipeline.train import checkpoint, optim
from pipeline.train.host import Host, Tracker
from pipeline.train.state import State
from pipeline.world import World

logger = logging.getLogger(__name__)

Batches = Callable[[int], Iterable[Batch]]
"""Given the first step, the batches of this rank from there to the end."""
Validate = Callable[[nn.Module], dict[str, float]]
"""Scores of a network in eval mode, from counts summed over all ranks."""


@dataclass(frozen=True)
class Job:
    """Settings of the loop, apart from its parts."""

    train: recipe.Train
    run_uri: str
    fingerprint: str
    seed: int = 0
    compile: bool = False
    meta: dict[str, Any] = field(default_factory=dict)
    """Plain JSON that every checkpoint carries: recipe, MLflow run id."""


@dataclass(frozen=True)
class Outcome:
    """Result of the loop. The network passed in now holds the weights to keep (those of the moving average)."""

    step: int
    started_at: int
    """Step of the checkpoint it went on from, or 0."""
    losses: tuple[tuple[int, float], ...]
    """(step, mean loss since the record before), every `log_every` steps from the very first on."""
    scores: dict[str, float]
    """Of the last validation."""


def train(  # noqa: PLR0913 - the parts of a fit, each from another package
    job: Job,
    *,
    network: nn.Module,
    loss: Loss | Supervised,
    batches: Batches,
    world: World,
    host: Host,
    tracker: Tracker,
    device: torch.device,
    validate: Validate | None = None,
    tally: FailureTally | None = None,
) -> Outcome:
    """Train from the newest checkpoint of `job.run_uri`, or from the start, to the last step.

    `tally` counts the windows that any rank could not read, those that `validate` notes there included; by default none
    is tolerated.

    Raises:
        SceneError: more windows could not be read than are tolerated, in the whole run.
        DivergedError: the loss is not finite.
        CheckpointError: the newest checkpoint is damaged or belongs to another recipe.
        TrainingError: the feed ended early, or gave the chips of another step.
        RecipeError: the precision needs a GPU.
    """
    section = job.train
    state = State(network.train(), section, world, device, compiles=job.compile)
    ledger = TrainingHistory(section, world, loss, FailureTally() if tally is None else tally)
    start = _restore(job, state, ledger)
    feed = iter(batches(start)) if start < section.steps else iter(())
    for done in range(start + 1, section.steps + 1):
        batch = _next(feed, done - 1, world, section.global_batch)
        ledger.tally.note(batch.replaced)
        ledger.add(*_step(job, state, loss, batch, done - 1))
        logs = _due(done, section.log_every, section)
        saves = _due(done, section.checkpoint_every, section)
        scores = validate is not None and _due(done, section.validate_every or section.checkpoint_every, section)
        if logs:
            ledger.record(done, tracker)
        if validate is not None and scores:
            ledger.check(done)
            with torch.no_grad(), state.autocast():
                ledger.score(done, validate(state.kept().eval()), tracker)
            network.train()
        if logs or scores or saves:
            _add_up(ledger.tally, world)
        if saves:
            ledger.check(done)
            _save(job, state, ledger, done)
        if saves or scores:
            host.report(done, {"loss": ledger.loss, **ledger.scores})
    if state.average is not None:
        network.load_state_dict(state.kept().state_dict())
    return Outcome(section.steps, start, tuple(ledger.losses), ledger.scores)


def _step(
    job: Job, state: State, loss: Loss | Supervised, batch: Batch, step: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One update. Returns the loss, its sums over the global batch and the gradient's norm, all on the device."""
    torch.manual_seed(_seed(job.seed, step, state.world.rank))
    image = _to_device(batch.image, state.device).contiguous(memory_format=state.layout)
    mask = _to_device(batch.mask, state.device)
    with state.autocast():
        local = loss.sums(state.forward(image), mask)
    total = local.detach().clone()
    if state.world.size > 1:
        dist.all_reduce(total)
    value = loss.value(local + (total - local.detach()))
    norm = state.update(value, step)
    return value.detach(), total, norm


def _next(feed: Iterator[Batch], step: int, world: World, global_batch: int) -> Batch:
    """The next batch, if it is the one of this step and rank."""
    hint = "this is a fault of the feed, not of the recipe; please report it"
    batch = next(feed, None)
    if batch is None:
        raise TrainingError(f"the feed ended before step {step}", hint)
    expected = tuple(numbers_of(step, world, global_batch))
    if tuple(batch.numbers) != expected:
        raise TrainingError(f"step {step}, rank {world.rank}: chips {batch.numbers} came, not {expected}", hint)
    return batch


def _add_up(tally: FailureTally, world: World) -> None:
    """Count what any rank could not read; all of them know it then, and all fail if it is too much."""
    if world.size == 1:
        tally.add(tally.take())
    elif tally.most:  # without tolerance nothing is exchanged: the rank that met it has failed
        everywhere: list[list[Replaced]] = [[] for _ in range(world.size)]
        dist.all_gather_object(everywhere, tally.take())
        tally.add(itertools.chain.from_iterable(everywhere), say=world.leader)


def _due(done: int, every: int, section: recipe.Train) -> bool:
    """At multiples, and at the end."""
    return done % every == 0 or done == section.steps


def _seed(seed: int, step: int, rank: int) -> int:
    """Seed of dropout at one step of one rank: random numbers need no state to go on after a stop."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest(), "big") >> 1


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from ordinary memory the copy would wait for the device
    return tensor.to(device, non_blocking=True)


def _save(job: Job, state: State, ledger: TrainingHistory, done: int) -> None:
    if state.world.leader:
        meta = {**job.meta, "fingerprint": job.fingerprint, "seed": job.seed, "world_size": state.world.size}
        parts = {**state.to_dict(), "ledger": ledger.to_dict()}
        checkpoint.save(job.run_uri, done, parts, meta, keep=job.train.keep_checkpoints)


def _restore(job: Job, state: State, ledger: TrainingHistory) -> int:
    """Go back to the newest checkpoint, on which all ranks agree; returns its step, or 0."""
    world = state.world
    found = [checkpoint.newest(job.run_uri) if world.leader else None]
    if world.size > 1:
        dist.broadcast_object_list(found, 0)
    uri = found[0]
    if uri is None:
        return 0
    parts, _ = checkpoint.load(uri, job.fingerprint, state.device)
    state.load(parts, uri)
    step = checkpoint.step_of(uri)
    ledger.load(parts["ledger"], step)
    if world.leader:
        logger.info("going on at step %d of %d from %s", step, job.train.steps, uri)
    return step


class TrainingHistory:
    """Losses, scores and what could not be read so far. Losses stay on the device until they are asked for."""

    def __init__(self, section: recipe.Train, world: World, objective: Loss | Supervised, tally: FailureTally) -> None:
        self.section, self.world, self.objective, self.tally = section, world, objective, tally
        self.pending: list[Tensor] = []
        self.window: list[float] = []  # read, but not yet in a record
        self.last = (0, math.nan)
        self.losses: list[tuple[int, float]] = []
        self.scores: dict[str, float] = {}
        self.sums: Tensor | None = None
        self.norm: Tensor | None = None
        self.clock = (time.monotonic(), 0)

    @property
    def loss(self) -> float:
        """The newest record or, before the first, the newest loss."""
        return self.losses[-1][1] if self.losses else self.last[1]

    def add(self, value: Tensor, sums: Tensor, norm: Tensor | None) -> None:
        """Take what a step gave."""
        self.pending.append(value)
        self.sums, self.norm = sums, norm

    def check(self, done: int) -> None:
        """Read the losses of the last steps from the device, and stop if one is not finite."""
        values = torch.stack(self.pending).tolist() if self.pending else []
        self.pending.clear()
        for step, value in enumerate(values, done - len(values) + 1):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss is {value} at step {step}; "
                    f"the last finite one was {self.last[1]:.6g} at step {self.last[0]}",
                    "lower train.optimizer.lr, set train.clip_norm, or use precision bf16 or fp32",
                )
            self.last = (step, value)
        self.window += values

    def record(self, done: int, tracker: Tracker) -> None:
        """Write down the mean loss since the last record."""
        self.check(done)
        mean = sum(self.window) / len(self.window)
        self.window.clear()
        self.losses.append((done, mean))
        (since, before), now = self.clock, time.monotonic()
        self.clock = (now, done)
        speed = (done - before) * self.section.global_batch / max(now - since, 1e-9)
        numbers = {"loss": mean, "chips_per_second": speed}
        if self.sums is not None:
            numbers |= {f"loss.{name}": float(value) for name, value in self.objective.parts(self.sums).items()}
        if self.norm is not None:
            numbers["gradient_norm"] = float(self.norm)
        tracker.log(
            done,
            numbers
            | {"lr": self.section.optimizer.lr * optim.factor(done - 1, self.section.steps, self.section.schedule)},
        )
        if self.world.leader:
            logger.debug("step %d/%d loss %.4f, %.1f chips/s", done, self.section.steps, mean, speed)

    def score(self, done: int, scores: dict[str, float], tracker: Tracker) -> None:
        """Write down the scores of a validation."""
        self.scores = scores
        tracker.log(done, {f"val.{name}": value for name, value in scores.items()})
        if self.world.leader:
            logger.info("step %d/%d val miou %.4f", done, self.section.steps, scores["miou"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        numbers = {"window": self.window, "last": self.last, "losses": self.losses, "scores": self.scores}
        return {**numbers, "left_out": self.tally.to_list()}

    def load(self, parts: dict[str, Any], step: int) -> None:
        """Take back what `to_dict` gave."""
        self.window, self.last = list(parts["window"]), tuple(parts["last"])
        self.losses, self.scores = [(s, v) for s, v in parts["losses"]], dict(parts["scores"])
        self.tally.load(parts.get("left_out", ()))  # older checkpoints do not have it
        self.clock = (time.monotonic(), step)
