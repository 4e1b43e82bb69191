"""Means from sums."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


def mean_of(sums: Tensor) -> Tensor:
    """Sum by count [2]; 0 where nothing was counted."""
    loss, total = sums.unbind()
    return loss / torch.where(total > 0, total, 1.0)


def mean_over_classes(losses: Tensor, counted: Tensor, class_weights: tuple[float, ...] | None) -> Tensor:
    """Weighted mean over the last axis of `losses` [..., K] of the classes that count [..., K]; 0 where none does."""
    weights = torch.ones_like(losses) if class_weights is None else losses.new_tensor(class_weights).expand_as(losses)
    weights = torch.where(counted, weights, 0.0)
    total = weights.sum(-1)
    return (torch.where(counted, losses, 0.0) * weights).sum(-1) / torch.where(total > 0, total, 1.0)


class MeanTerm:
    """A term whose two sums are of weighted values and of their weights."""

    size: ClassVar[int] = 2
    regions: ClassVar[bool] = False

    @property
    def spreads(self) -> tuple[tuple[float, ...], ...]:
        """See `Term.spreads`."""
        return ()

    def value(self, sums: Tensor) -> Tensor:
        """The weighted mean; 0 where nothing was counted."""
        return mean_of(sums)
