"""Outputs of a network in training: logits, auxiliary logits, logits of whole chips."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Logits, and what only training needs."""

    logits: Tensor
    """[N,K,H,W]."""
    auxiliary: tuple[Tensor, ...] = ()
    """Further logits [N,K,H,W] of the same pixels: deep supervision, auxiliary heads."""
    labels: Tensor | None = None
    """Logits [N,K] of each class being somewhere in the chip."""
