"""What a recipe can say about the loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Section


class CrossEntropy(Section):
    """Mean cross-entropy over valid pixels."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor in the sum of the loss terms."""
    class_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """One factor per class; the mean is weighted accordingly."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes."""


class Dice(Section):
    """Soft Dice loss (Milletari et al. 2016), 1 - mean over classes of 2 |PT| / (|P| + |T|), on the global batch."""

    kind: Literal["dice"] = "dice"
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor in the sum of the loss terms."""
    absent: Literal["skip", "count"] = "skip"
    """A class without a labelled pixel in the global batch is left out of the mean, or counted."""


LossTerm = Annotated[CrossEntropy | Dice, Field(discriminator="kind")]
