"""Compute the largest maps of a decoder in strips of rows, so that intermediate maps are never stored in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.model.decoders.blocks import interleaved

ELEMENTS: Final = 1 << 20
"""Of one chip's strip of the map that comes out: few enough to lie in a processor's cache for the next layer. How a
chip is cut does not depend on what else is in the batch, nor then how its sums are rounded."""


def pay(x: Tensor, width: int, norm: nn.Module) -> bool:
    """Whether to make the doubled map [N,width,2h,2w] of `x` in strips: nothing learns, and the map is large.

    A norm that takes means over the map needs all of it.
    """
    local = isinstance(norm, nn.Identity) or (isinstance(norm, nn.BatchNorm2d) and not norm.training)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not local:
        return False
    return 4 * x.shape[2] * x.shape[3] * width > 2 * ELEMENTS


def doubled(block: Callable[[Tensor], Tensor], x: Tensor, width: int, margin: int) -> Tensor:
    """`block(x)`, where `block` makes [N,width,2h,2w] of `x` [N,C,h,w] by layers that see no farther than `margin` of
    the rows of `x` up and down."""
    count, _, height, columns = x.shape
    rows = max(1, ELEMENTS // (4 * columns * width))
    out: Tensor | None = None
    for top in range(0, height, rows):
        above = min(margin, top)
        strip = block(interleaved(x[:, :, top - above : top + rows + margin]))
        strip = strip[:, :, 2 * above : 2 * (above + rows)]
        if out is None:
            shape = (count, width, 2 * height, 2 * columns)
            out = torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=torch.channels_last)
        out[:, :, 2 * top : 2 * (top + rows)] = strip
    assert out is not None
    return out
