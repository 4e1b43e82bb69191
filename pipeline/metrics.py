"""Metrics as counts: a confusion matrix is added over batches, scenes and workers, ratios are made last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from pipeline.data.classes import IGNORE

_BYTE: Final = 256
_BLOCK_PIXELS: Final = 1 << 15  # the running maximum and its index stay in a core's cache


def predict_classes(logits: Tensor) -> Tensor:
    """Class ids uint8 [N,H,W] of the largest logit [N,K,H,W]; of equal ones the lowest id.

    torch's argmax walks the strided class axis pixel by pixel; a running maximum over whole planes is many times
    faster on a CPU. Logits are finite or infinite, not NaN.
    """
    if logits.device.type != "cpu":
        return logits.argmax(1).to(torch.uint8)
    images, _, height, width = logits.shape
    out = torch.zeros(images, height, width, dtype=torch.uint8)
    rows = max(1, _BLOCK_PIXELS // max(width, 1))
    for image in range(images):
        for top in range(0, height, rows):
            _running_maximum(logits[image, :, top : top + rows].contiguous(), out[image, top : top + rows])
    return out


def _running_maximum(block: Tensor, out: Tensor) -> None:
    """Write the class of the largest of `block` [K,h,W] to `out` [h,W], which holds zeros."""
    best = block[0].clone()
    better = torch.empty_like(best, dtype=torch.bool)
    candidate = better.view(torch.uint8)
    for k in range(1, len(block)):
        torch.gt(block[k], best, out=better)
        torch.maximum(out, candidate.mul_(k), out=out)  # k only grows, so the larger id is the later, better one
        torch.maximum(best, block[k], out=best)


def confusion(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Counts int64 [K,K], rows the truth, columns the prediction.

    Args:
        prediction: class ids [N,H,W] or [H,W]; pixels with IGNORE (nothing was measured) are left out.
        mask: class ids of the same shape; pixels with IGNORE are left out.
        num_classes: K, at most 255.

    Raises:
        ValueError: an id that is neither a class nor IGNORE.
    """
    if prediction.shape != mask.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in shape")
    # One bin for every pair of bytes: IGNORE and wrong ids cost no pass of their own.
    pairs = mask.to(torch.int32).mul_(_BYTE).add_(prediction.to(torch.int32))
    counts = torch.bincount(pairs.flatten(), minlength=_BYTE * _BYTE)
    if len(counts) > _BYTE * _BYTE:
        raise ValueError("a class id above 255")
    table = counts.view(_BYTE, _BYTE)[:IGNORE, :IGNORE]
    inside = table[:num_classes, :num_classes]
    if int(inside.sum()) != int(table.sum()):
        raise ValueError(f"a class id that is neither below {num_classes} nor {IGNORE}")
    return inside.clone()


def scores(confusion: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Ratios from counts.

    Per class NAME: iou.NAME, dice.NAME (F1), precision.NAME, recall.NAME. A class neither present nor predicted is NaN
    and left out of the means; one that is present and never predicted has precision 0, and the other way round.
    Means over classes: miou, mdice, mprecision, mrecall. Over pixels: accuracy. NaN where there is nothing to count.

    Args:
        confusion: [K,K], rows the truth, columns the prediction.
        names: of the K classes.
    """
    counts = torch.as_tensor(confusion).to("cpu", torch.float64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"confusion {tuple(counts.shape)} for {len(names)} classes")
    hit, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    anywhere = truth + predicted > 0
    ratios = {
        "iou": (hit, truth + predicted - hit),
        "dice": (2 * hit, truth + predicted),
        "precision": (hit, predicted),
        "recall": (hit, truth),
    }
    out = {"accuracy": float(hit.sum() / counts.sum())}
    for score, (part, whole) in ratios.items():
        values = torch.where(anywhere, part / whole.clamp(min=1), torch.nan)
        out[f"m{score}"] = float(values.nanmean())
        out |= {f"{score}.{name}": float(value) for name, value in zip(names, values, strict=True)}
    return out
