"""Lovász-softmax and Lovász hinge (Berman et al. 2018): the convex closure of the Jaccard loss, per chip.

Per chip, since the Jaccard loss of a batch is no sum over its chips: the mean over chips is the same however a batch
is divided over workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.losses.evidence import Evidence
from pipeline.model.losses.means import MeanTerm, mean_over_classes
from pipeline.model.losses.sorting import sort_

_KEYS: Final = 1 << 18  # sorted at once on a CPU: 2 MiB, a core's second cache
_EXACT: Final = 1 << 24  # whole numbers that float32 can count to


@dataclass(frozen=True)
class LovaszTerm(MeanTerm):
    """Sums are the losses of the chips and their number."""

    skip_absent: bool
    hinge: bool
    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        mask = evidence.mask[:, None] if evidence.task == "multiclass" else evidence.mask
        values, v = evidence.scores if self.hinge else evidence.p, evidence.channels_known
        losses, present = _Extension.apply(values, mask, v, evidence.weights is not None, self.hinge)
        counted = present if self.skip_absent else (v > 0).flatten(2).any(2).expand_as(present)
        if self.class_weights is not None:
            counted = counted & (losses.new_tensor(self.class_weights) > 0)
        chips = mean_over_classes(losses, counted, self.class_weights)
        return torch.stack([chips.sum(), counted.any(1).sum(dtype=chips.dtype)])


class _Extension(torch.autograd.Function):
    """Losses [N,K], and whether a class is in a chip, from probabilities or, for the hinge, scores [N,K,H,W].

    Mask and weights are [N,1,H,W] (ids of classes) or, for the hinge, [N,K,H,W] (0 and 1).
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, mask: Tensor, weights: Tensor, weighted: bool, hinge: bool
    ) -> tuple[Tensor, Tensor]:
        slopes = torch.empty_like(values, memory_format=torch.contiguous_format).flatten(2)
        images, classes, pixels = slopes.shape
        losses = values.new_empty(images, classes)
        present = torch.empty_like(losses, dtype=torch.bool)
        several = max(1, _KEYS // max(1, pixels)) if values.device.type == "cpu" else classes
        every = torch.arange(classes, device=values.device)[:, None]
        for image, first in product(range(images), range(0, classes, several)):
            some = slice(first, first + several)
            rows = some if hinge else slice(1)
            truth = mask[image, rows].flatten(1) == (1 if hinge else every[some])
            v = weights[image, rows].flatten(1).expand_as(truth)
            x = values[image, some].flatten(1)
            errors = torch.where(truth, 1 - x, 1 + x).relu_() if hinge else torch.where(truth, 1 - x, x)
            growth, present[image, some] = _growth(errors, truth, v, weighted)
            losses[image, some] = torch.linalg.vecdot(errors, growth)
            if hinge:
                growth.masked_fill_(errors == 0, 0)
            slopes[image, some] = torch.where(truth, -growth, growth)
        ctx.save_for_backward(slopes.view(values.shape))
        ctx.mark_non_differentiable(present)
        return losses, present

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_losses: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * by_losses[..., None, None], None, None, None, None


def _growth(errors: Tensor, truth: Tensor, v: Tensor, weighted: bool) -> tuple[Tensor, Tensor]:
    """Weight of each pixel's error [R,M], and whether there is any foreground [R].

    It is the growth of the Jaccard loss when the pixels are got wrong one after the other, largest error first. With
    G true pixels of which F are wrong, and B others wrong, the loss is 1 - (G - F) / (G + B). Its growth is written
    without a difference of nearly equal numbers: 1 / (G + B) for a true pixel, else (G - F) / ((G + B - 1) (G + B)).

    Args:
        errors: [R,M], not below 0.
        truth: bool [R,M].
        v: weight of the pixels [R,M]; those with 0 are left out.
        weighted: whether `v` is anything but 0 and 1.
    """
    pixels, none = errors.shape[1], (1 << 31) - 1
    # float32 that are not negative have the order of their bits: one integer holds error, position and truth.
    falling = (none - 1) - errors.float().contiguous().view(torch.int32)
    keys = torch.where(v > 0, falling, none).long() << 32
    keys |= torch.arange(0, 2 * pixels, 2, device=errors.device)
    keys = sort_(keys.add_(truth & (v > 0)))
    position = (keys & 0xFFFFFFFF) >> 1
    exact = errors.dtype if pixels < _EXACT and not weighted else torch.float64
    own = (keys & 1).to(exact)
    if weighted:
        w = v.to(exact).gather(1, position)
        own, total = own * w, w.cumsum(1)
    else:
        w = torch.ones((), dtype=exact, device=errors.device)
        total = torch.arange(1, pixels + 1, dtype=exact, device=errors.device)
    wrong = own.cumsum(1)
    whole = wrong[:, -1:].clone()
    right = whole - wrong
    union = right + total  # G + B = G + (F + B) - F
    growth = torch.where(own > 0, w / union, right * w / (union - w).mul_(union))
    # Without a true pixel, the first one wrong takes the loss from 0 to 1.
    growth[:, 0] = torch.where(whole[:, 0] > 0, growth[:, 0], 1.0)
    growth = torch.empty_like(growth).scatter_(1, position, growth).to(errors.dtype)
    return growth.masked_fill_(v == 0, 0), whole[:, 0] > 0
