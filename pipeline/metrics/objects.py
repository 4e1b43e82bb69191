"""Metrics as objects with update and compute, as in torchmetrics, for other training loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn

from pipeline.metrics.counts import Counts
from pipeline.metrics.ratios import Formula, Options, f_beta_formula, formula_of, reduced
from pipeline.metrics.streaming import Tally
from pipeline.metrics.tables import Task


class Metric(nn.Module):
    """One metric for a loop that calls update, compute and reset, as torchmetrics' objects have them.

    Calling it counts a batch and gives the value of that batch alone. `compute` gives the value of all batches since
    `reset`, over all ranks. The counts are in no state_dict and are no buffers, so that neither strict loading nor the
    broadcasts of DistributedDataParallel touch them; `tally.state_dict()` has them.

    Several metrics of the same predictions are cheaper from one `Tally`, which counts once.

    Args:
        num_classes, task, threshold: as of `Tally`.
        reduction, zero_division, class_weights: as of `iou`. An imagewise reduction keeps 32 K bytes per image.
        sync_on_compute: `compute` adds up the counts of all ranks, each of which must call it.
    """

    name: ClassVar[str]
    """In METRICS."""

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        task: Task = "multiclass",
        threshold: float = 0.5,
        sync_on_compute: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        imagewise = options.get("reduction", "").endswith("_imagewise")
        self.tally = Tally(num_classes, task=task, threshold=threshold, imagewise=imagewise)
        self.sync_on_compute = sync_on_compute
        self._options = options
        self._value(self.tally.counts())  # a wrong option shows itself now, not after an epoch

    def formula(self) -> Formula:
        """The metric from tp, fp, fn, tn."""
        return formula_of(self.name)

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count one batch; shapes and errors are those of `count`."""
        self.tally.update(prediction, mask)

    def forward(self, prediction: Tensor, mask: Tensor) -> Tensor:
        """Count one batch, and give the value of this batch on this rank."""
        return self._value(self.tally.update(prediction, mask))

    def compute(self) -> Tensor:
        """The value of all batches since `reset`: float64, a scalar unless the reduction is none."""
        tally = self.tally.over_ranks() if self.sync_on_compute else self.tally
        return self._value(tally.counts())

    def reset(self) -> None:
        """Forget all batches."""
        self.tally.reset()

    def extra_repr(self) -> str:
        """Text that nn.Module prints."""
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        return f"{self.tally.num_classes}, task={self.tally.task!r}{options}"

    def _value(self, counts: Counts) -> Tensor:
        return reduced(self.formula(), counts, **self._options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Called by `to`, `cuda` and `cpu` of this and of any module that holds it.
        self.tally.to(fn(torch.zeros(0, device=self.tally.device)).device)
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved


class FBeta(Metric):
    """`f_beta`: takes `beta`, and the arguments of every metric."""

    def __init__(self, num_classes: int | None = None, *, beta: float, **options: Any) -> None:
        self.beta = beta
        super().__init__(num_classes, **options)

    def formula(self) -> Formula:
        """The metric from tp, fp, fn, tn."""
        return f_beta_formula(self.beta)


class IoU(Metric):
    """`iou`: intersection over union, Jaccard's index."""

    name = "iou"


class F1(Metric):
    """`f1`: Dice's coefficient."""

    name = "f1"


class Accuracy(Metric):
    """`accuracy`: share of right decisions, true negatives among them."""

    name = "accuracy"


class BalancedAccuracy(Metric):
    """`balanced_accuracy`: mean of recall and specificity."""

    name = "balanced_accuracy"


class Precision(Metric):
    """`precision`: positive predictive value."""

    name = "precision"


class Recall(Metric):
    """`recall`: sensitivity."""

    name = "recall"


class Specificity(Metric):
    """`specificity`: true negative rate."""

    name = "specificity"


class NegativePredictiveValue(Metric):
    """`negative_predictive_value`."""

    name = "negative_predictive_value"


class FalseNegativeRate(Metric):
    """`false_negative_rate`: 1 - recall."""

    name = "false_negative_rate"


class FalsePositiveRate(Metric):
    """`false_positive_rate`: 1 - specificity."""

    name = "false_positive_rate"


class FalseDiscoveryRate(Metric):
    """`false_discovery_rate`: 1 - precision."""

    name = "false_discovery_rate"


class FalseOmissionRate(Metric):
    """`false_omission_rate`: 1 - negative predictive value."""

    name = "false_omission_rate"


class PositiveLikelihoodRatio(Metric):
    """`positive_likelihood_ratio`."""

    name = "positive_likelihood_ratio"


class NegativeLikelihoodRatio(Metric):
    """`negative_likelihood_ratio`."""

    name = "negative_likelihood_ratio"


class MCC(Metric):
    """`mcc`: Matthews' correlation of every class against the rest."""

    name = "mcc"


class Kappa(Metric):
    """`kappa`: Cohen's kappa of every class against the rest."""

    name = "kappa"
