"""Losses of whole regions: ratios of sums per class over the valid pixels of the global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from pipeline.model.losses.evidence import Evidence
from pipeline.model.losses.means import mean_over_classes

# Keeps the slope of a root at 0 finite; squared probabilities that matter are far above it.
_TINY: Final = 1e-30


@dataclass(frozen=True)
class RegionTerm:
    """Base of region terms; sums per class: intersection, prediction, truth, pixels."""

    classes: int
    skip_absent: bool = True
    smooth: float = 0.0
    class_weights: tuple[float, ...] | None = None
    regions: ClassVar[bool] = True
    spreads: ClassVar[tuple[tuple[float, ...], ...]] = ()

    @property
    def size(self) -> int:
        """Four sums per class."""
        return 4 * self.classes

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        return evidence.regions.flatten()

    def average(self, losses: Tensor, counted: Tensor) -> Tensor:
        """Weighted mean of `losses` [K] over the classes that count."""
        return mean_over_classes(losses, counted, self.class_weights)

    def ratio(self, part: Tensor, whole: Tensor) -> Tensor:
        """(part + smooth) / (whole + smooth); 1 where both are nothing: what is nowhere agrees with itself."""
        whole = whole + self.smooth
        return torch.where(whole > 0, (part + self.smooth) / torch.where(whole > 0, whole, 1.0), 1.0)

    def counts(self, truth: Tensor, pixels: Tensor) -> Tensor:
        """bool [K]: the class is in the mean."""
        return truth > 0 if self.skip_absent else pixels > 0


@dataclass(frozen=True)
class DiceTerm(RegionTerm):
    """Soft Dice loss (Milletari et al. 2016)."""

    def value(self, sums: Tensor) -> Tensor:
        """1 - mean over classes of 2 |PT| / (|P| + |T|)."""
        both, predicted, truth, pixels = sums.view(4, self.classes)
        return self.average(1 - self.ratio(both, (predicted + truth) / 2), self.counts(truth, pixels))


@dataclass(frozen=True)
class JaccardTerm(RegionTerm):
    """Soft Jaccard loss (Rahman & Wang 2016)."""

    def value(self, sums: Tensor) -> Tensor:
        """1 - mean over classes of |PT| / (|P| + |T| - |PT|)."""
        both, predicted, truth, pixels = sums.view(4, self.classes)
        return self.average(1 - self.ratio(both, predicted + truth - both), self.counts(truth, pixels))


@dataclass(frozen=True)
class TverskyTerm(RegionTerm):
    """Tversky loss (Salehi et al. 2017) and, with an exponent, focal Tversky loss (Abraham & Khan 2019)."""

    alpha: float = 0.5
    beta: float = 0.5
    exponent: float = 1.0

    def value(self, sums: Tensor) -> Tensor:
        """Mean over classes of (1 - TP / (TP + alpha FP + beta FN)) ** exponent."""
        both, predicted, truth, pixels = sums.view(4, self.classes)
        whole = both + self.alpha * (predicted - both) + self.beta * (truth - both)
        losses = 1 - self.ratio(both, whole)
        if self.exponent != 1:
            # Rounding can make it less than 0, and the slope of a root at 0 is infinite.
            losses = losses.clamp(min=1e-6).pow(self.exponent)
        return self.average(losses, self.counts(truth, pixels))


@dataclass(frozen=True)
class GeneralisedDiceTerm(RegionTerm):
    """Generalised Dice loss (Sudre et al. 2017): one ratio, each class by the inverse of its size, squared."""

    power: float = 2.0

    def value(self, sums: Tensor) -> Tensor:
        """1 - 2 sum w |PT| / sum w (|P| + |T|), w = 1 / |T|^power; that of an absent class is 0, or the largest."""
        both, predicted, truth, _ = sums.view(4, self.classes)
        present = truth > 0
        smallest = torch.where(present, truth, torch.inf).min()
        # Relative to the smallest class: the square of a large one would leave little of float32.
        weights = torch.where(present, smallest / torch.where(present, truth, 1.0), 0.0).pow(self.power)
        weights = torch.where(present, weights, 0.0 if self.skip_absent else 1.0)
        if self.class_weights is not None:
            weights = weights * weights.new_tensor(self.class_weights)
        ratio = self.ratio((weights * both).sum(), (weights * (predicted + truth)).sum() / 2)
        return torch.where(present.any(), 1 - ratio, 0.0)


@dataclass(frozen=True)
class MCCTerm(RegionTerm):
    """Matthews correlation loss (Abhishek & Hamarneh 2021), each class against the rest."""

    regions: ClassVar[bool] = False

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`; here soft true and false positives, false and true negatives."""
        return evidence.cells.flatten()

    def value(self, sums: Tensor) -> Tensor:
        """1 - mean over classes of the correlation of prediction and truth.

        (TP TN - FP FN) / sqrt((TP+FP)(TN+FN)(TP+FN)(TN+FP)), all in shares of the pixels. A class that is nowhere, or
        everywhere, correlates with nothing and is left out.
        """
        cells = sums.view(4, self.classes)
        pixels = cells.sum(0)
        tp, fp, fn, tn = cells / torch.where(pixels > 0, pixels, 1.0)
        truth = (tp + fn) * (tn + fp)
        counted = truth > 0
        # Two roots: the product of both variances can be too small for float32.
        deviations = ((tp + fp) * (tn + fn) + _TINY).sqrt() * torch.where(counted, truth, 1.0).sqrt()
        return self.average(1 - (tp * tn - fp * fn) / deviations, counted)
