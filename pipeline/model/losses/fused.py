"""A single pass over the logits for everything that pixel and region losses need, with a backward of its own.

All these losses are functions of a few small things: the log-probability of the true class at each pixel (one number
where the logits have K) and sums per class. Their gradient in the logits needs only the softmax, which is made again
on the way back rather than kept: the pass stores nothing as large as the logits but the gradient itself. On a CPU
both ways go block by block, so that what lies between the logits and the sums never leaves a core's cache.

With p the softmax, y the true class, v the weight of a pixel (0 at IGNORE) and G the incoming gradients:

    log_p = log p_y,  spread_t = sum_k w_tk log p_k,  both_k = sum v p_k [y=k],  predicted_k = sum v p_k
    c     = G_log_p + G_both_y v p_y
    g_k   = c [y=k] + v G_predicted_k p_k - p_k (c + v sum_j G_predicted_j p_j)
            + sum_t G_spread_t (w_tk - p_k sum_j w_tj)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.data.labels.classes import IGNORE

_ELEMENTS: Final = {"cpu": 1 << 18}  # 1 MiB of float32: a core's second cache
_ELEMENTS_ELSEWHERE: Final = 1 << 24  # a GPU wants few, large kernels
_PIXELS: Final = 1 << 15


class Softmax(NamedTuple):
    """Results of the pass, in the precision of the sums."""

    log_p: Tensor
    """[N,H,W]: log-probability of the true class; 0 at IGNORE. Empty if not wanted."""
    spread: Tensor
    """[T,N,H,W]: weighted sums of all log-probabilities; 0 at IGNORE."""
    both: Tensor
    """[K]: probability of a class summed over its own pixels."""
    predicted: Tensor
    """[K]: probability of a class summed over all valid pixels."""
    truth: Tensor
    """[K]: number (or weight) of a class's pixels."""


def softmax_pass(
    logits: Tensor,
    mask: Tensor,
    weights: Tensor | None,
    *,
    spreads: Tensor,
    pixels: bool,
    regions: bool,
    dtype: torch.dtype,
) -> Softmax:
    """Read `logits` once.

    Args:
        logits: [N,K,H,W], any floating type and layout.
        mask: class ids [N,H,W] and IGNORE.
        weights: of the pixels, [N,H,W], or None for 1.
        spreads: [T,K], a row of class weights for each `spread`; T may be 0, and is where not `pixels`.
        pixels: whether `log_p` is wanted.
        regions: whether the sums per class are wanted; zeros if not.
        dtype: of the arithmetic and the results, float32 or float64.
    """
    if torch.compiler.is_compiling():  # a compiler makes one kernel of the plain form, and would unroll the blocks
        return _plain(logits, mask, weights, spreads, regions, dtype)
    return Softmax(*_Pass.apply(logits, mask, weights, spreads, pixels, regions, dtype))


def _plain(
    logits: Tensor, mask: Tensor, weights: Tensor | None, spreads: Tensor, regions: bool, dtype: torch.dtype
) -> Softmax:
    """The same results with torch's own gradients."""
    classes = logits.shape[1]
    valid = mask != IGNORE
    index = torch.where(valid, mask, 0).long()[:, None]
    every = torch.log_softmax(logits.to(dtype).masked_fill(~valid[:, None], 0), 1)
    log_p = every.gather(1, index)[:, 0].masked_fill(~valid, 0)
    spread = torch.einsum("tk,nkhw->tnhw", spreads, every).masked_fill(~valid, 0)
    if not regions:
        nothing = every.new_zeros(classes)
        return Softmax(log_p, spread, nothing, nothing, nothing)
    v = (valid.to(dtype) if weights is None else torch.where(valid, weights.to(dtype), 0))[:, None]
    own = (index == torch.arange(classes, device=mask.device)[:, None, None]) * v
    p, over = every.exp(), (0, 2, 3)
    return Softmax(log_p, spread, (p * own).sum(over), (p * v).sum(over), own.sum(over))


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        mask: Tensor,
        weights: Tensor | None,
        spreads: Tensor,
        pixels: bool,
        regions: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        images, classes, height, width = logits.shape
        log_p = logits.new_empty((images if pixels else 0, height, width), dtype=dtype)
        spread = logits.new_empty((len(spreads), images, height, width), dtype=dtype)
        # Sums over very many pixels: float64 keeps what float32 would round away between blocks.
        both, predicted, truth = logits.new_zeros((3, classes), dtype=torch.float64)
        for where in _blocks(logits):
            block = _Block.of(logits, mask, weights, where, dtype)
            every = torch.log_softmax(block.logits, 1) if pixels else torch.softmax(block.logits, 1)
            true = every.gather(1, block.own)[:, 0].masked_fill_(block.unknown, 0)
            if pixels:
                log_p[where] = true.view(log_p[where].shape)
            if len(spreads):
                mixed = torch.einsum("tk,nkb->tnb", spreads, every).masked_fill_(block.unknown, 0)
                spread[(slice(None), *where)] = mixed.view(len(spreads), *log_p[where].shape)
            if regions:
                if pixels:
                    every, true = every.exp_(), true.exp_()
                predicted += torch.matmul(every, block.v[..., None]).sum((0, 2))
                both += block.per_class(true * block.v, classes)
                truth += block.per_class(block.v, classes)
        ctx.save_for_backward(logits, mask, weights, spreads)
        ctx.pixels, ctx.regions, ctx.dtype = pixels, regions, dtype
        ctx.mark_non_differentiable(truth := truth.to(dtype))
        return log_p, spread, both.to(dtype), predicted.to(dtype), truth

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_log_p: Tensor, by_spread: Tensor, by_both: Tensor, by_predicted: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, mask, weights, spreads = ctx.saved_tensors
        out = torch.empty_like(logits)
        for where in _blocks(logits):
            block = _Block.of(logits, mask, weights, where, ctx.dtype)
            p = torch.softmax(block.logits, 1)
            c = by_log_p[where].flatten(1).masked_fill(block.unknown, 0) if ctx.pixels else torch.zeros_like(block.v)
            if ctx.regions:
                true = p.gather(1, block.own)[:, 0]
                c += by_both[block.own[:, 0]] * true * block.v
                inner = torch.matmul(by_predicted, p).mul_(block.v).add_(c)
                # v G p - p (c + v sum G p), in one go over the classes
                gradient = torch.addcmul(inner.neg_()[:, None], by_predicted[:, None], block.v[:, None]).mul_(p)
            else:
                gradient = p * c.neg()[:, None]
            if len(spreads):
                e = by_spread[(slice(None), *where)].flatten(2).masked_fill(block.unknown, 0)
                gradient += torch.einsum("tk,tnb->nkb", spreads, e)
                gradient -= p * torch.einsum("t,tnb->nb", spreads.sum(1), e)[:, None]
            gradient.scatter_add_(1, block.own, c[:, None])
            images, rows = where
            out[images, :, rows] = gradient.view(out[images, :, rows].shape)
        return out, None, None, None, None, None, None


class _Block(NamedTuple):
    """Some pixels, in a row: b of each of n images."""

    logits: Tensor
    """[n,K,b], 0 at IGNORE, whatever the network says there."""
    own: Tensor
    """True class int64 [n,1,b]; 0 at IGNORE."""
    unknown: Tensor
    """bool [n,b]."""
    v: Tensor
    """Weight of each pixel [n,b]; 0 at IGNORE."""

    @classmethod
    def of(
        cls, logits: Tensor, mask: Tensor, weights: Tensor | None, where: tuple[slice, slice], dtype: torch.dtype
    ) -> _Block:
        images, rows = where
        x, ids = logits[images, :, rows].flatten(2).to(dtype), mask[where].flatten(1)
        unknown = ids == IGNORE
        index = ids.long()
        if x.device.type != "cpu" or bool(unknown.any()):  # on other devices this check would wait for the device
            index = index.masked_fill(unknown, 0)
            x = x.masked_fill(unknown[:, None], 0)
        v = (~unknown).to(dtype)
        if weights is not None:
            v = torch.where(unknown, 0, weights[where].flatten(1).to(dtype))
        return cls(x, index[:, None], unknown, v)

    def per_class(self, values: Tensor, classes: int) -> Tensor:
        """Sums [K] of `values` [n,b] by true class."""
        if values.device.type == "cpu":
            return values.new_zeros(classes).index_add_(0, self.own.flatten(), values.flatten())
        # index_add_ adds in no fixed order on a GPU: equal seeds would no longer give equal losses.
        own = self.own == torch.arange(classes, device=values.device)[:, None]
        return torch.where(own, values[:, None], 0).sum((0, 2))


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and rows that together cover `logits`: several small images, or some rows of one."""
    images, classes, height, width = logits.shape
    elements = _ELEMENTS.get(logits.device.type, _ELEMENTS_ELSEWHERE)
    pixels = max(1, elements // classes)
    if logits.device.type == "cpu":
        pixels = min(pixels, _PIXELS) * torch.get_num_threads()
    several = max(1, pixels // max(1, height * width))
    rows = max(1, pixels // max(1, width)) if several == 1 else height
    for image in range(0, images, several):
        for top in range(0, height, rows):
            yield slice(image, image + several), slice(top, top + rows)
