"""The decoder of LinkNet (Chaurasia and Culurciello 2017): narrow transposed convolutions, skips are added."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConvBlock, activation, climb, conv_block, initialise, interleaved, stage_at
from pipeline.recipe import networks as recipe

_NARROWING: Final = 4


class LinkNetBlock(nn.Module):
    """Narrow, double the size by a transposed convolution, widen, add a skip of that size if there is one."""

    def __init__(self, inputs: int, outputs: int, section: recipe.LinkNet) -> None:
        """Take maps of these widths."""
        super().__init__()
        norm, act, narrow = section.norm, section.activation, max(1, inputs // _NARROWING)
        # Its offset is without effect before most norms; checkpoints have it.
        doubling = nn.ConvTranspose2d(narrow, narrow, 4, stride=2, padding=1)
        initialise(doubling)
        self.narrow = conv_block(inputs, narrow, norm, act, kernel=1)
        self.grow = ConvBlock(doubling, norms.layer(norm, narrow), activation(act))
        self.widen = conv_block(narrow, outputs, norm, act, kernel=1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """`x` [N,inputs,h,w], skip [N,outputs,2h,2w] -> [N,outputs,2h,2w]."""
        x = self.narrow(x)
        out: Tensor = self.widen(self.grow(interleaved(x) if skip is None else x))
        if skip is None:
            return out
        return out + skip if torch.is_grad_enabled() else out.add_(skip)


class LinkNetDecoder(nn.Module):
    """One block per halving of the size, from the deepest stage back to the size of the input.

    Where there is no stage to add, a block keeps the width; the last one gives `last_channels`.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
        head_kernel: of the convolution behind it.
    """

    stride = 1
    head_kernel = 1
    spends = True
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.LinkNet, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        times = strides[-1].bit_length() - 1
        # Nothing is added at the size of the input: that is the last block.
        self.joins = [stage_at(strides[:-1], 2**level) if level else None for level in reversed(range(times))]
        widths = [channels[-1]]
        for join in self.joins[:-1]:
            widths.append(widths[-1] if join is None else channels[join])
        if times:
            widths.append(section.last_channels)
        self.blocks = nn.ModuleList(LinkNetBlock(i, o, section) for i, o in itertools.pairwise(widths))
        self.channels = widths[-1]

    def forward(self, features: Sequence[Tensor], *, spend: bool = False) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W].

        `spend`: `features` is a list that is not used afterwards; it is emptied on the way, which saves memory.
        """
        return climb(features, nn.Identity(), self.blocks, self.joins, spend)


SMP_NAMES: Final = (
    (r"(blocks\.\d+)\.block\.0\.(.*)", r"\1.narrow.\2"),
    (r"(blocks\.\d+)\.block\.1\.(.*)", r"\1.grow.\2"),
    (r"(blocks\.\d+)\.block\.2\.(.*)", r"\1.widen.\2"),
)
