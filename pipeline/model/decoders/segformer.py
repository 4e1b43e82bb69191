"""The all-MLP decoder of SegFormer (Xie, Wang, Yu, Anandkumar, Alvarez and Luo 2021) on the stages of any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConcatConv, ConvBlock, activation, enlarge, initialise, stages_from
from pipeline.recipe import networks as recipe


class SegFormerDecoder(nn.Module):
    """A linear layer on each stage, all enlarged to the shallowest, concatenated and fused by one more linear layer.

    Nothing stands between the two linear layers, and both commute with interpolation: the second is multiplied into
    the first, works at the size of each stage, and what is enlarged is summed, not concatenated.
    Stages before stride 4 are not used (SMP uses them).

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    auxiliary_weights: tuple[float, ...] = ()
    head_kernel = 1

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], section: recipe.SegFormer, classes: int
    ) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        width = section.decoder_channels
        used = list(range(len(strides))) if section.compat == "smp" else stages_from(strides, 4)
        self.used = used[::-1]  # deepest first
        self.channels, self.stride = width, max(4, strides[used[0]]) if section.compat == "smp" else strides[used[0]]
        self.strides = [strides[i] for i in self.used]
        self.linears = nn.ModuleList(nn.Linear(channels[i], width) for i in self.used)
        conv = MixConv(width * len(used), width, 1, bias=section.norm == "none")
        conv.times = [max(1, s // self.stride) for s in self.strides]
        initialise(conv)
        self.fuse = ConvBlock(conv, norms.layer(section.norm, width), activation(section.activation))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        # Bilinear interpolation to half the size is the mean of four pixels.
        maps = (
            F.avg_pool2d(features[i], self.stride // stride) if stride < self.stride else features[i]
            for i, stride in zip(self.used, self.strides, strict=True)
        )
        out: Tensor = self.fuse(*maps, linears=self.linears)
        return out


class MixConv(ConcatConv):
    """A linear layer on each of several maps, enlarged to one size, and a convolution of 1×1 over all of them."""

    times: list[int]

    def forward(self, *maps: Tensor, linears: Sequence[nn.Linear]) -> Tensor:  # type: ignore[override]
        """Maps [N,...,H/t,W/t], of which the last is not enlarged -> [N,outputs,H,W]."""
        return self.convolve(self.weight, self.bias, *maps, linears=linears)

    def convolve(  # type: ignore[override]
        self, weight: Tensor, bias: Tensor | None, *maps: Tensor, linears: Sequence[nn.Linear]
    ) -> Tensor:
        """The same with another kernel of the same shape."""
        mix = weight[..., 0, 0]
        shift = mix @ torch.cat([linear.bias for linear in linears])
        shift = shift if bias is None else bias + shift
        parts = [part @ linear.weight for part, linear in zip(mix.chunk(len(maps), 1), linears, strict=True)]
        out = enlarge(F.conv2d(maps[0], parts[0][..., None, None], shift), self.times[0])
        for x, part, times in zip(maps[1:], parts[1:], self.times[1:], strict=True):
            out += enlarge(F.conv2d(x, part[..., None, None]), times)
        return out


SMP_NAMES: Final = (
    (r"mlp_stage\.(\d+)\.linear\.(.*)", r"linears.\1.\2"),
    (r"fuse_stage\.(.*)", r"fuse.\1"),
)
