"""The recipe: every option of every verb, as frozen sections. It imports neither torch nor ray.

Defaults live here and nowhere else. The string under a field is its documentation; `segpipe recipe schema` prints it
for editors. Relative paths are relative to the directory the command is typed in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline import config
from pipeline.config import Positive, Section, Share
from pipeline.recipe.data import Data as Data
from pipeline.recipe.labels import ClassSpec as ClassSpec
from pipeline.recipe.losses import CrossEntropy, Dice, LossTerm
from pipeline.recipe.networks import Encoded, Model, UNet
from pipeline.recipe.pixels import Augment as Augment
from pipeline.recipe.storage import Storage as Storage
from pipeline.recipe.tune import Choice as Choice
from pipeline.recipe.tune import Integer as Integer
from pipeline.recipe.tune import Tune as Tune
from pipeline.recipe.tune import Uniform as Uniform

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]


class AdamW(Section):
    """AdamW (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Not applied to biases and normalisation."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the moments."""
    encoder_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    """The encoder's learning rate is this times `lr`; less than 1 for pretrained encoders."""


class SGD(Section):
    """Stochastic gradient descent with Nesterov momentum."""

    kind: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Highest learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Not applied to biases and normalisation."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of Nesterov."""
    encoder_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    """The encoder's learning rate is this times `lr`; less than 1 for pretrained encoders."""


class Schedule(Section):
    """Learning rate over the steps, as a factor of the optimiser's `lr`."""

    kind: Literal["one_cycle", "cosine", "poly", "constant"] = "one_cycle"
    """one_cycle: cosine up over `warmup`, cosine down to zero. cosine, poly (power 0.9): linear warm-up, then down
    to zero. constant: linear warm-up only."""
    warmup: Share = 0.3
    """Share of the steps spent going up."""


class Train(Section):
    """The loop."""

    steps: Annotated[int, Field(gt=0, le=1_000_000_000)] = 1000
    """Optimiser updates. The only clock: schedules, checkpoints and validation count steps."""
    global_batch: Annotated[int, Field(gt=0, le=1_000_000)] = 8
    """Chips per step over all workers; each worker takes an equal part."""
    optimizer: Annotated[AdamW | SGD, Field(discriminator="kind")] = AdamW()
    """Rule of the update, with its learning rate."""
    schedule: Schedule = Schedule()
    """Learning rate over the steps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of forward and loss; fp16 scales the loss and needs a GPU."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then is what gets validated and bundled."""
    channels_last: bool = True
    """Memory layout of the network; faster nearly everywhere."""
    checkpoint_every: Positive = 100
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Older ones are removed."""
    validate_every: Positive | None = None
    """Steps between validations on the val split, if there is one; by default at every checkpoint."""
    log_every: Positive = 10
    """Steps between recorded losses."""


class Predict(Section):
    """Prediction of whole scenes, in `predict` and in `evaluate`."""

    window: Positive = 512
    """Height and width of the window in pixels."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of a window that it shares with the next one."""
    blend: Literal["gaussian", "linear", "constant"] = "gaussian"
    """Weight of a window's pixels where windows overlap."""
    batch: Annotated[int, Field(gt=0, le=65_536)] = 4
    """Windows per forward pass."""


class Evaluate(Section):
    """Contents of the report."""

    split: Literal["train", "val", "test"] = "test"
    """Scenes that are predicted and scored."""
    examples: Annotated[int, Field(ge=0)] = 6
    """Number of best and of worst windows to picture."""


class Promote(Section):
    """The gate."""

    metric: str = "miou"
    """Score of the report that must grow: miou, mdice, accuracy, iou.CLASS, dice.CLASS."""
    min_gain: float = 0.0
    """Least gain of `metric` over the champion. 0: it must be better, an equal one is refused; below zero: it may lose
    as much."""
    max_drop: dict[str, Annotated[float, Field(ge=0)]] = {}
    """For some classes, the largest loss of IoU that is tolerated."""


class Registry(Section):
    """MLflow: experiment, registered model and alias."""

    experiment: str | None = None
    """By default the recipe's name."""
    model: Annotated[str, Field(pattern=r"^[^/:]+$")] | None = None
    """Registered model; by default the recipe's name."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z_-][A-Za-z0-9_-]*$")] = "champion"
    """Alias that `promote` moves."""

    @field_validator("alias")
    @classmethod
    def _free(cls, value: str) -> str:
        if value == "latest" or (value[0] == "v" and value[1:].isdigit()):
            raise ValueError(f"{value!r} is reserved by MLflow")
        return value


class Compute(Section):
    """Where the work runs, and on how much; outside the fingerprint, since it does not change what is computed."""

    output: str = "runs"
    """Directory or s3:// prefix for manifests, runs, bundles and reports."""
    tracking_uri: str | None = None
    """MLflow server; by default MLFLOW_TRACKING_URI, else SQLite under `output`."""
    tracking_required: bool = True
    """Refuse to start when the MLflow server does not answer. Once started, training goes on without it."""
    runner: Literal["ray", "local"] = "ray"
    """Ray Train, or the loop in this process (also under torchrun)."""
    feed: Literal["ray", "local"] = "ray"
    """Ray Data, or windows read by threads of the training process. Both give identical batches."""
    num_workers: Positive = 1
    """Training processes."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPUs that Ray sets aside for each worker; a fraction lets workers share one."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker; above zero, training runs on CUDA with nccl."""
    data_cpus: Positive = 1
    """CPUs that must be left for Ray Data in addition to those of the workers."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Restarts of the workers after a failure; each goes on from the newest checkpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one."""
    threads_per_worker: Positive | None = None
    """Threads of torch in each worker. By default OMP_NUM_THREADS where the command was typed, if it is set there, else
    the node's cores divided by its workers. In a job on a cluster, and under torchrun, set this one."""
    feed_threads: Positive = 2
    """Reading threads of the local feed; at least 16 where scenes lie in a bucket, since they mostly wait."""
    block_batches: Positive = 4
    """Micro-batches in a block of Ray Data."""
    shards: Literal["auto", "never", "require"] = "auto"
    """Training, validation and evaluate read from shards (`segpipe prepare`). auto: where they are there, made of these
    very data. never: the files are read. require: without those of train and val training does not begin."""
    compile: bool = False
    """torch.compile the network."""
    address: str | None = None
    """Ray cluster to connect to; by default the one in RAY_ADDRESS, else one on this machine."""
    storage: Storage = Storage()
    """How buckets and servers are reached."""


class Recipe(Section):
    """One complete description of work."""

    name: Name
    """Names the runs, the experiment and the registered model."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Of weights, order and augmentation."""
    data: Data
    model: Model = UNet()
    """The network."""
    loss: Annotated[list[LossTerm], Field(min_length=1)] = [CrossEntropy(), Dice()]
    """Terms of the loss; their weighted sum is minimised."""
    train: Train = Train()
    """The loop."""
    predict: Predict = Predict()
    """How scenes are predicted."""
    evaluate: Evaluate = Evaluate()
    """What is scored and shown."""
    promote: Promote = Promote()
    """The gate."""
    registry: Registry = Registry()
    """Names in MLflow."""
    tune: Tune = Tune()
    """The search."""
    compute: Compute = Compute()
    """Where it runs."""

    @field_validator("model", mode="before")
    @classmethod
    def _unet(cls, value: Any) -> Any:
        return config.of_kind(value, "unet")

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        classes = [c.name for c in self.data.classes]
        for name in self.promote.max_drop:
            if name not in classes:
                raise ValueError(f"promote.max_drop: no class {name!r}; classes are {', '.join(classes)}")
        for where, metric in (("promote.metric", self.promote.metric), ("tune.metric", self.tune.metric)):
            allowed = ["miou", "mdice", "accuracy", *(f"{k}.{c}" for k in ("iou", "dice") for c in classes)]
            if metric not in allowed:
                raise ValueError(f"{where}: {metric!r} is no score; scores are {', '.join(allowed)}")
        for term in self.loss:
            weights = getattr(term, "class_weights", None)
            if weights is not None and len(weights) != len(classes):
                raise ValueError(f"loss: {len(weights)} class_weights for {len(classes)} classes")
        share = self.train.global_batch % self.compute.num_workers
        if share:
            workers, batch = self.compute.num_workers, self.train.global_batch
            fits = sorted({batch - share, batch - share + workers} - {0})
            divisors = [str(n) for n in range(1, batch + 1) if batch % n == 0]
            raise ValueError(
                f"train.global_batch: {batch} chips do not divide over compute.num_workers {workers}; "
                f"use {' or '.join(map(str, fits))} chips, or {', '.join(divisors)} workers"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """12 hex digits of what is computed, whatever it runs on."""
        return config.fingerprint(self)

    @property
    def experiment(self) -> str:
        """MLflow experiment."""
        return self.registry.experiment or self.name

    @property
    def registered_model(self) -> str:
        """MLflow registered model."""
        return self.registry.model or self.name


def load(source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read and validate a recipe file; `overrides` are `a.b=c` strings or a mapping of dotted paths.

    Raises:
        RecipeError: anything is wrong with it; all errors are named at once.
    """
    return config.load(Recipe, source, overrides)


def replace(recipe: Recipe, overrides: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """A new validated recipe with the overrides applied."""
    return config.replace(recipe, overrides)


def absolute(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, because workers run in directories of their own."""

    def fix(path: str) -> str:
        return path if "://" in path else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111

    changes: dict[str, Any] = {
        "data.root": fix(recipe.data.root),
        "compute.output": fix(recipe.compute.output),
    }
    if isinstance(recipe.model, Encoded) and isinstance(recipe.model.pretrained, str):
        changes["model.pretrained"] = fix(recipe.model.pretrained)
    return replace(recipe, changes)
