"""Small batches of each task, and how a loss is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import Loss

CHANNELS = {"multiclass": 4, "binary": 1, "multilabel": 3}
WEIGHTS = [0.5, 2.0, 0.25, 1.5]


def make_logits(task: str, *, images: int = 4, height: int = 9, width: int = 7, seed: int = 0, **options) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, CHANNELS[task], height, width, generator=generator, **options) * 3
    return logits.requires_grad_()


def make_mask(
    task: str, *, images: int = 4, height: int = 9, width: int = 7, seed: int = 1, ignore: float = 0.3
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, CHANNELS[task], height, width) if task == "multilabel" else (images, height, width)
    ids = CHANNELS[task] if task == "multiclass" else 2
    mask = torch.randint(0, ids, shape, generator=generator, dtype=torch.uint8)
    mask[torch.rand(shape, generator=generator) < ignore] = IGNORE
    return mask


def evaluate(loss: Loss, logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    value = loss(logits, mask, weights)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_equal(loss: Loss, reference, logits: Tensor, mask: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """`loss` has value and gradient of `reference`, a function of logits and int64 mask."""
    value, gradient = evaluate(loss, logits, mask)
    expected = reference(logits, mask.long())
    torch.testing.assert_close(value, expected.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=10 * rtol, atol=atol)
