"""What a recipe says about windows: which ones training sees, and which scenes it may see at all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Positive, Section, Share


class TableSplit(Section):
    """Splits as a table says."""

    kind: Literal["table"] = "table"
    path: str = "splits.csv"
    """CSV with the columns `id`, `split` (train, val, test) and optionally `group`; relative to `data.root`."""


class HashSplit(Section):
    """Splits by a hash of the group: stable when scenes are added, and no group is in two splits."""

    kind: Literal["hash"] = "hash"
    val: Share = 0.0
    """Share of the groups for validation during training."""
    test: Share = 0.2
    """Share of the groups for the frozen test split."""
    group: str | None = None
    """Regular expression on the scene id; its first bracket (or all it matches) is the group. By default each
    scene is a group of its own."""

    @model_validator(mode="after")
    def _leave_some(self) -> HashSplit:
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} + test {self.test} leaves nothing to train on")
        return self


Split = Annotated[TableSplit | HashSplit, Field(discriminator="kind")]


class Sampling(Section):
    """What all kinds of sampling share."""

    size: Positive = 256
    """Height and width of a chip in pixels."""
    weight: Literal["area", "scene"] = "area"
    """Scenes are drawn in proportion to their area, or all alike."""
    epoch_size: Positive | None = None
    """Chips in an epoch; by default as many as cover the train split once."""


class Uniform(Sampling):
    """Windows at uniform positions."""

    kind: Literal["uniform"] = "uniform"


AnySampling = Uniform
