"""Sections about the loss.

Losses are of three tasks: one class per pixel (multiclass), yes or no (binary), or yes or no for each of several
channels (multilabel); each section says which. docs/losses.md has the formulas.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Section

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weights = Annotated[list[NotNegative], Field(min_length=1)]


class Term(Section):
    """Options of every term."""

    weight: Positive = 1.0
    """Factor in the sum of the loss terms."""
    class_weights: Weights | None = None
    """One factor per class; the mean is weighted accordingly."""


class CrossEntropy(Term):
    """Mean cross-entropy over valid pixels. For one class per pixel."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""


class BCE(Term):
    """Mean binary cross-entropy over valid pixels and channels. For binary and multilabel."""

    kind: Literal["bce"] = "bce"
    label_smoothing: Share = 0.0
    """Share of the target that is spread over yes and no."""
    pos_weight: list[Positive] | None = None
    """One factor per channel for the pixels where it is true, as in torch."""


class Focal(Term):
    """Focal loss (Lin et al. 2017), mean over valid pixels of -(1 - p)^gamma log p; p is of the true class, or of yes
    or no. For all tasks."""

    kind: Literal["focal"] = "focal"
    gamma: NotNegative = 2.0
    """How much less the easy pixels count; 0 is cross-entropy."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Factor of the pixels that are true, and 1 - alpha of those that are not; for binary and multilabel."""


class OHEM(Term):
    """Cross-entropy over the hardest pixels of each chip (Shrivastava et al. 2016). For all tasks."""

    kind: Literal["ohem"] = "ohem"
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the valid pixels that is kept; by default, `threshold` and `min_kept` say which."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Pixels are kept whose true class has less than this probability."""
    min_kept: Annotated[int, Field(gt=0)] = 10_000
    """Pixels kept of each chip at least."""


class EdgeCrossEntropy(Term):
    """Cross-entropy with weight 1 + w0 exp(-d² / 2 sigma²) at distance d from an edge between classes, after U-Net
    (Ronneberger et al. 2015). For all tasks."""

    kind: Literal["edge_cross_entropy"] = "edge_cross_entropy"
    w0: NotNegative = 10.0
    """Additional weight of a pixel on an edge."""
    sigma: Positive = 5.0
    """Pixels over which it falls off."""


class Region(Term):
    """Options of terms that are ratios of sums per class."""

    absent: Literal["skip", "count"] = "skip"
    """A class without a labelled pixel in the global batch is left out of the mean, or counted."""
    smooth: NotNegative = 0.0
    """Pixels added above and below the fraction. Above zero, a counted class that is absent has a gradient."""


class Dice(Region):
    """Soft Dice loss (Milletari et al. 2016), 1 - mean over classes of 2 |PT| / (|P| + |T|), on the global batch. For
    all tasks."""

    kind: Literal["dice"] = "dice"


class Jaccard(Region):
    """Soft Jaccard (IoU) loss (Rahman & Wang 2016), 1 - mean over classes of |PT| / |P or T|, on the global batch.
    For all tasks."""

    kind: Literal["jaccard"] = "jaccard"


class GeneralisedDice(Region):
    """Generalised Dice loss (Sudre et al. 2017): one Dice of all classes, each by 1 / |T|^power. For all tasks."""

    kind: Literal["generalised_dice"] = "generalised_dice"
    power: NotNegative = 2.0
    """Of the class's size; 0 weighs all classes alike."""


class Tversky(Region):
    """Tversky loss (Salehi et al. 2017), 1 - mean over classes of TP / (TP + alpha FP + beta FN). For all tasks."""

    kind: Literal["tversky"] = "tversky"
    alpha: NotNegative = 0.3
    """Weight of false positives."""
    beta: NotNegative = 0.7
    """Weight of false negatives."""


class FocalTversky(Region):
    """Focal Tversky loss (Abraham & Khan 2019), mean over classes of (1 - Tversky index)^(1/gamma). For all tasks."""

    kind: Literal["focal_tversky"] = "focal_tversky"
    alpha: NotNegative = 0.3
    """Weight of false positives."""
    beta: NotNegative = 0.7
    """Weight of false negatives."""
    gamma: Positive = 4 / 3
    """Above 1, classes that are nearly right still count."""


class MCC(Term):
    """Matthews correlation loss (Abhishek & Hamarneh 2021), 1 - mean over classes; a class that is nowhere, or
    everywhere, in the global batch is left out. For all tasks."""

    kind: Literal["mcc"] = "mcc"


class Lovasz(Term):
    """Lovász-softmax loss, or Lovász hinge for binary and multilabel (Berman et al. 2018), mean over chips. For all
    tasks."""

    kind: Literal["lovasz"] = "lovasz"
    absent: Literal["skip", "count"] | None = None
    """A class that is not in a chip is left out of the chip's mean, or counted. By default as in the paper: skip in
    the softmax form, count in the hinge."""


class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): mean of probability times signed distance from the true edge, in pixels.
    Made to be added to a loss of regions, with a small weight. For all tasks."""

    kind: Literal["boundary"] = "boundary"


class Hausdorff(Term):
    """Hausdorff loss by distance transforms (Karimi & Salcudean 2019), in pixels^alpha. Made to be added to a loss of
    regions, with a small weight. For all tasks."""

    kind: Literal["hausdorff"] = "hausdorff"
    alpha: Positive = 2.0
    """Power of the distances."""


class ClDice(Term):
    """clDice (Shit et al. 2021), for thin connected things, on the global batch. For all tasks."""

    kind: Literal["cldice"] = "cldice"
    iterations: Annotated[int, Field(ge=1)] = 3
    """Half the largest width, in pixels, of what is reduced to a line."""
    smooth: NotNegative = 1.0
    """Pixels added above and below the fractions."""
    absent: Literal["skip", "count"] = "skip"
    """A class without a labelled pixel in the global batch is left out of the mean, or counted."""


LossTerm = Annotated[
    CrossEntropy
    | BCE
    | Focal
    | OHEM
    | EdgeCrossEntropy
    | Dice
    | Jaccard
    | GeneralisedDice
    | Tversky
    | FocalTversky
    | MCC
    | Lovasz
    | Boundary
    | Hausdorff
    | ClDice,
    Field(discriminator="kind"),
]
