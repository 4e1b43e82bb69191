"""Losses of single pixels: weighted means over the valid pixels (or pixels × channels) of the global batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.losses.distance import distance_to_edges
from pipeline.model.losses.evidence import Evidence
from pipeline.model.losses.means import MeanTerm
from pipeline.model.losses.sorting import descending


@dataclass(frozen=True)
class CrossEntropyTerm(MeanTerm):
    """Cross-entropy of the true class, or (binary, multilabel) of yes or no; sums are the weighted losses and the
    weights."""

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    pos_weight: tuple[float, ...] | None = None
    every: tuple[float, ...] = ()
    """Multiclass: the class weights, or ones."""

    @property
    def spreads(self) -> tuple[tuple[float, ...], ...]:
        """See `Term.spreads`."""
        return (self.every,) if self.every and self.label_smoothing else ()

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`. Smoothing as in torch: a share of the target is spread evenly over the outcomes."""
        factors = evidence.per_decision(self.class_weights)
        losses = -evidence.log_p
        if self.pos_weight is not None:
            losses = torch.where(evidence.mask == 1, losses * losses.new_tensor(self.pos_weight)[:, None, None], losses)
        sums = evidence.mean(losses, factors)
        if not self.label_smoothing:
            return sums
        even = -evidence.spread(self.every or self.pos_weight or ())
        # Of several classes, each one's log-probability has its weight already; only the pixel's is missing.
        smooth = evidence.mean(even, evidence.per_decision(None) if self.every else factors)[0]
        return torch.stack([torch.lerp(sums[0], smooth, self.label_smoothing), sums[1]])


@dataclass(frozen=True)
class FocalTerm(MeanTerm):
    """Focal loss (Lin et al. 2017): -(1 - p)^gamma log p of the true outcome."""

    gamma: float = 2.0
    alpha: float | None = None
    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        log_p = evidence.log_p
        wrong = -torch.expm1(log_p)
        if 0 < self.gamma < 1:
            wrong = wrong.clamp(min=1e-12)  # the power's slope at 0 is infinite
        losses = -log_p * wrong.pow(self.gamma)
        if self.alpha is not None:
            losses = losses * torch.where(evidence.mask == 1, self.alpha, 1 - self.alpha)
        return evidence.mean(losses, evidence.per_decision(self.class_weights))


@dataclass(frozen=True)
class HardestTerm(MeanTerm):
    """Cross-entropy over the hardest decisions of each chip (online hard example mining, Shrivastava et al. 2016).

    Per chip, so that the choice does not depend on how a batch is divided.
    """

    share: float | None = None
    threshold: float = 0.7
    min_kept: int = 10_000
    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        losses = -evidence.log_p
        factors = evidence.per_decision(self.class_weights)
        with torch.no_grad():
            kept = self._kept(losses.flatten(1), evidence.known.flatten(1) > 0).view_as(losses)
        return evidence.mean(losses, kept if factors is None else kept * factors)

    def _kept(self, losses: Tensor, valid: Tensor) -> Tensor:
        """1 for the k largest of each row, 0 for the rest; those equal to the k-th share what is left to give."""
        rows = torch.where(valid, losses, -1.0)
        count = valid.sum(1, keepdim=True)
        if self.share is not None:
            k = torch.ceil(count * self.share).long()
        else:
            hard = (rows > -math.log(self.threshold)).sum(1, keepdim=True)
            k = torch.maximum(hard, count.clamp(max=self.min_kept))
        cut = descending(rows).gather(1, (k - 1).clamp(min=0))
        above, equal = rows > cut, (rows == cut) & valid
        left = (k - above.sum(1, keepdim=True)) / equal.sum(1, keepdim=True).clamp(min=1)
        return torch.where(above, 1.0, torch.where(equal, left, 0.0)).to(losses.dtype)


@dataclass(frozen=True)
class EdgeTerm(MeanTerm):
    """Cross-entropy with more weight near the edges between classes.

    w = 1 + w0 exp(-d² / 2 sigma²), d the distance in pixels to the nearest edge: the map of U-Net (Ronneberger et al.
    2015) with one distance in place of the sum of two, since classes, unlike cells, have no second-nearest neighbour
    across a gap.
    """

    w0: float = 10.0
    sigma: float = 5.0
    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        distance = distance_to_edges(evidence.mask).to(evidence.dtype)
        emphasis = 1 + self.w0 * torch.exp(-0.5 * (distance / self.sigma).square())
        factors = evidence.per_decision(self.class_weights)
        return evidence.mean(-evidence.log_p, emphasis * (evidence.known if factors is None else factors))
