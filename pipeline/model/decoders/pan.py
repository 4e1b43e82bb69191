"""The decoder of the pyramid attention network (Li, Xiong, An and Wang 2018)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConvBlock, activation, global_mean, initialise, resize, stages_from
from pipeline.recipe import networks as recipe
from pipeline.recipe.networks import Interpolation

_LEAST = 4  # pixels per side that can be halved twice


class Attention(nn.Module):
    """Feature pyramid attention: the map, weighted by what three halvings of it see, plus its mean."""

    def __init__(self, inputs: int, section: recipe.PAN) -> None:
        """Take a map of `inputs` channels."""
        super().__init__()
        width = section.decoder_channels
        self.align_corners = section.compat == "smp"
        self.mean = _block(inputs, width, 1, section, pooled=True)
        self.mid = _block(inputs, width, 1, section)
        self.down1 = _single(inputs, 7, section)
        self.down2 = _single(1, 5, section)
        self.down3 = nn.Sequential(_single(1, 3, section), _single(1, 3, section))
        self.conv2 = _single(1, 5, section)
        self.conv1 = _single(1, 7, section)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,inputs,h,w], 2×2 at least -> [N,decoder_channels,h,w]."""
        # What is too small to be halved twice more is enlarged until it is not; anything else stays as it is. sym_max:
        # no question about a size is asked, so that sizes stay free where the network is exported.
        least = [torch.sym_max(size // 2, _LEAST) for size in x.shape[-2:]]
        x1 = self.down1(F.interpolate(F.max_pool2d(x, 2), size=least, mode="nearest"))  # type: ignore[arg-type]
        x2 = self.down2(F.max_pool2d(x1, 2))
        x3 = self.down3(F.max_pool2d(x2, 2))
        seen = self.conv2(x2) + self._resize(x3, x2)
        seen = self.conv1(x1) + self._resize(seen, x1)
        seen = self._resize(seen, x)
        out: Tensor = seen * self.mid(x) + self.mean(global_mean(x))
        return out

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like, align_corners=self.align_corners)  # always bilinear, whatever the features are


class Gate(nn.Module):
    """Global attention upsampling: a shallow map, its channels weighted by the mean of the deeper one, plus that."""

    def __init__(self, inputs: int, section: recipe.PAN) -> None:
        """Take a shallow map of `inputs` channels."""
        super().__init__()
        width = section.decoder_channels
        self.mode: Interpolation = section.interpolation
        self.align_corners = section.compat == "smp" if self.mode == "bilinear" else None
        self.gate = _block(width, width, 1, section, pooled=True, active=False)
        self.low = _block(inputs, width, 3, section)

    def forward(self, low: Tensor, high: Tensor, times: int) -> Tensor:
        """`low` [N,inputs,h,w] and `high` [N,decoder_channels,h/times,w/times] -> [N,decoder_channels,h,w]."""
        weight = self.gate(global_mean(high)).sigmoid()
        if times > 1:
            size = (times * high.shape[-2], times * high.shape[-1])
            high = F.interpolate(high, size=size, mode=self.mode, align_corners=self.align_corners)
        out: Tensor = high + self.low(low) * weight
        return out


class PANDecoder(nn.Module):
    """`Attention` on the deepest stage, then a `Gate` for each of the others; stages before stride 4 are not used.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    output_stride = 16
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.PAN, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        *self.joins, self.deepest = stages_from(strides, 4)
        scales = [strides[i] for i in (*self.joins, self.deepest)]
        self.channels, self.stride = section.decoder_channels, scales[0]
        self.times = [deep // s for s, deep in itertools.pairwise(scales)]
        self.attention = Attention(channels[self.deepest], section)
        self.gates = nn.ModuleList(Gate(channels[i], section) for i in self.joins)  # shallowest first

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        x: Tensor = self.attention(features[self.deepest])
        for gate, join, times in zip([*self.gates][::-1], self.joins[::-1], self.times[::-1], strict=True):
            x = gate(features[join], x, times)
        return x


def _block(
    inputs: int, outputs: int, kernel: int, section: recipe.PAN, *, pooled: bool = False, active: bool = True
) -> ConvBlock:
    """Convolution, normalisation, activation; SMP's has a bias too, and is always normalised over the batch."""
    compat = section.compat == "smp"
    norm: norms.Kind = "batch" if compat else section.norm
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=compat or norm == "none")
    initialise(conv)
    layer = norms.pooled if pooled else norms.layer
    return ConvBlock(conv, layer(norm, outputs), activation(section.activation) if active else nn.Identity())


def _single(inputs: int, kernel: int, section: recipe.PAN) -> ConvBlock:
    """A block of one output channel, on maps down to one pixel.

    One channel cannot be normalised over channels, nor one pixel over pixels: that leaves the batch, or nothing.
    """
    batch = section.norm == "batch" or section.compat == "smp"
    only = section if batch else section.model_copy(update={"norm": "none"})
    return _block(inputs, 1, kernel, only, pooled=True)


_PARTS: Final = (("conv", 0), ("bn", 1))
_PLACES: Final = (
    (r"fpa\.branch1\.1", "attention.mean"),
    (r"fpa\.mid\.0", "attention.mid"),
    (r"fpa\.(down[12])\.1", r"attention.\1"),
    (r"fpa\.down3\.1", "attention.down3.0"),
    (r"fpa\.down3\.2", "attention.down3.1"),
    (r"fpa\.(conv[12])", r"attention.\1"),
    *(
        (rf"gau{i + 1}\.{theirs}", f"gates.{i}.{ours}")
        for i in range(3)
        for theirs, ours in ((r"conv1\.1", "gate"), ("conv2", "low"))
    ),
)
SMP_NAMES: Final = tuple(
    (rf"{place}\.{part}\.([a-z_]+)", rf"{ours}.{number}.\g<{2 if '(' in place else 1}>")
    for place, ours in _PLACES
    for part, number in _PARTS
)
