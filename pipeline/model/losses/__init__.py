"""Losses as sums over valid pixels: sums travel between workers, the ratio is made last.

`sums` of a batch that is divided add up to the `sums` of the whole, so that the loss and its gradient do not depend on
the number of workers. Pixels with IGNORE are in no sum and get a gradient of exactly zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.recipe.losses import CrossEntropy, Dice, LossTerm


class Term(Protocol):
    """One part of a loss."""

    @property
    def size(self) -> int:
        """Number of sums."""

    def sums(self, log_p: Tensor, mask: Tensor) -> Tensor:
        """Sums [size] of log-probabilities [N,K,H,W] and class ids [N,H,W] (int64, IGNORE included)."""

    def value(self, sums: Tensor) -> Tensor:
        """The loss from the sums of all workers."""


@dataclass(frozen=True)
class CrossEntropyTerm:
    """Cross-entropy; sums are the weighted losses and the weights."""

    num_classes: int
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    size: int = 2

    def sums(self, log_p: Tensor, mask: Tensor) -> Tensor:
        """See `Term.sums`. Smoothing as in torch: a share of the target is spread evenly over the classes."""
        weights = log_p.new_tensor(self.class_weights or (1.0,) * self.num_classes)
        loss = F.nll_loss(log_p, mask, weights, ignore_index=IGNORE, reduction="sum")
        valid = mask != IGNORE
        if self.label_smoothing:
            spread = -torch.einsum("nkhw,k->nhw", log_p, weights)
            even = torch.where(valid, spread, 0.0).sum() / self.num_classes
            loss = loss + self.label_smoothing * (even - loss)
        total = weights[mask[valid]].sum() if self.class_weights else valid.sum(dtype=torch.float32)
        return torch.stack([loss, total])

    def value(self, sums: Tensor) -> Tensor:
        """Weighted mean; 0 where nothing is valid."""
        loss, total = sums.unbind()
        return loss / torch.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class DiceTerm:
    """Soft Dice loss (Milletari et al. 2016); sums per class: intersection, prediction, truth."""

    num_classes: int
    skip_absent: bool = True

    @property
    def size(self) -> int:
        """Three sums per class."""
        return 3 * self.num_classes

    def sums(self, log_p: Tensor, mask: Tensor) -> Tensor:
        """See `Term.sums`."""
        p = log_p.exp()
        # Products with 0 and 1 rather than choices: same values, and the faster way there and back.
        classes = torch.arange(self.num_classes, device=mask.device)
        truth = (mask[:, None] == classes[:, None, None]).to(p.dtype)
        valid = (mask != IGNORE).to(p.dtype)
        over = (0, 2, 3)
        both, predicted = (p * truth).sum(over), (p * valid[:, None]).sum(over)
        return torch.cat([both, predicted, truth.sum(over)])

    def value(self, sums: Tensor) -> Tensor:
        """1 - mean over classes of 2 |PT| / (|P| + |T|); a class that is nowhere agrees with itself."""
        both, predicted, truth = sums.view(3, self.num_classes)
        size = predicted + truth
        loss = torch.where(size > 0, 1 - 2 * both / torch.where(size > 0, size, 1.0), 0.0)
        counted = (truth > 0) if self.skip_absent else torch.ones_like(truth, dtype=torch.bool)
        return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp(min=1)


def _cross_entropy(section: CrossEntropy, num_classes: int) -> Term:
    weights = section.class_weights
    if weights is not None and len(weights) != num_classes:
        raise RecipeError(f"loss: {len(weights)} class_weights for {num_classes} classes")
    return CrossEntropyTerm(num_classes, None if weights is None else tuple(weights), section.label_smoothing)


def _dice(section: Dice, num_classes: int) -> Term:
    return DiceTerm(num_classes, skip_absent=section.absent == "skip")


LOSSES: dict[str, Callable[[Any, int], Term]] = {"cross_entropy": _cross_entropy, "dice": _dice}


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms over one softmax."""

    terms: tuple[Term, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Local sums [S], float32 whatever the logits are, differentiable.

        Args:
            logits: [N,K,H,W].
            mask: class ids [N,H,W], uint8 or another integer type, IGNORE where nothing is known.
        """
        with torch.autocast(logits.device.type, enabled=False):
            log_p = torch.log_softmax(logits.float(), 1)
            target = mask.long()
            return torch.cat([term.sums(log_p, target) for term in self.terms])

    def value(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, from the sums of all workers."""
        return torch.stack([w * v for w, v in zip(self.weights, self._values(sums), strict=True)]).sum()

    def parts(self, sums: Tensor) -> dict[str, float]:
        """Each term's own loss, without its weight, by its kind; a second of a kind is numbered."""
        return {name: float(value) for name, value in zip(self.names, self._values(sums.detach()), strict=True)}

    def _values(self, sums: Tensor) -> list[Tensor]:
        pieces = torch.split(sums, [term.size for term in self.terms])
        return [term.value(piece) for term, piece in zip(self.terms, pieces, strict=True)]


def build(terms: Sequence[LossTerm], num_classes: int) -> Loss:
    """The loss that a recipe's `loss` describes.

    Raises:
        RecipeError: class weights for another number of classes.
    """
    made = tuple(LOSSES[t.kind](t, num_classes) for t in terms)
    seen: Counter[str] = Counter()
    names = []
    for term in terms:
        seen[term.kind] += 1
        names.append(term.kind if seen[term.kind] == 1 else f"{term.kind}_{seen[term.kind]}")
    return Loss(made, tuple(t.weight for t in terms), tuple(names))
