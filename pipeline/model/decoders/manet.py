"""The decoder of MA-Net (Fan, Wang, Chen and Jiang 2020): attention over positions at the deepest stage, over channels
where a skip is joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import norms
from pipeline.model.decoders.blocks import (
    ConvBlock,
    JoinConv,
    activation,
    climb,
    conv_block,
    decoder_widths,
    initialise,
    stage_at,
)
from pipeline.model.decoders.unet import UpBlock
from pipeline.recipe import networks as recipe

_REDUCTION: Final = 16


class PositionAttention(nn.Module):
    """Each pixel adds what the pixels like it hold, wherever they are.

    The weights of one pixel add up to 1 (Vaswani et al. 2017, with their scale). SMP's are of all pixels together, and
    it writes the result pixel by pixel where channel by channel is meant; `as_smp` does the same.
    """

    def __init__(self, channels: int, width: int, *, as_smp: bool) -> None:
        """`width` of keys and queries."""
        super().__init__()
        self.as_smp = as_smp
        self.top_conv = nn.Conv2d(channels, width, 1)
        self.center_conv = nn.Conv2d(channels, width, 1)
        self.bottom_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.out_conv = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.top_conv, self.center_conv, self.bottom_conv, self.out_conv):
            initialise(conv)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,h,w], same shape out; memory is quadratic in h·w at worst."""
        query, key, value = (conv(x).flatten(2) for conv in (self.center_conv, self.top_conv, self.bottom_conv))
        if self.as_smp:
            scores = query.transpose(1, 2) @ key
            weights = scores.flatten(1).softmax(1).view_as(scores)
            seen = (weights @ value.transpose(1, 2)).reshape(x.shape)
        else:
            seen = _attend(query, key, value).reshape(x.shape)
        out: Tensor = self.out_conv(x + seen)
        return out


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Query and key [N,D,P], value [N,C,P] -> [N,C,P].

    The kernels that never hold all weights at once want values as wide as keys, so C is taken in parts of D.
    """
    width, channels = query.shape[1], value.shape[1]
    parts = channels // width if channels % width == 0 else 1
    q, k = (t.transpose(1, 2).unsqueeze(1).expand(-1, parts, -1, -1) for t in (query, key))
    v = value.reshape(value.shape[0], parts, channels // parts, -1).transpose(2, 3)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)


def gate(channels: int) -> nn.Sequential:
    """Squeeze and excitation (Hu et al. 2018): [N,C,h,w] -> a factor in 0..1 for each channel, [N,C,1,1]."""
    hidden = max(1, channels // _REDUCTION)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.Sigmoid(),
    )


class JoinBlock(nn.Module):
    """Bring a map to the width of the skip, weigh its channels by what both hold, double it, join, convolve twice.

    The mean of a doubled map is that of the map, and so the channels can be weighed before the size is doubled.
    """

    def __init__(self, inputs: int, skip: int, outputs: int, section: recipe.MAnet) -> None:
        """Take maps of these widths."""
        super().__init__()
        norm, act = section.norm, section.activation
        self.reduce = nn.Sequential(
            conv_block(inputs, inputs, norm, act), conv_block(inputs, skip, norm, act, kernel=1)
        )
        self.gate_skip, self.gate_map = gate(skip), gate(skip)
        join = JoinConv(skip, skip, outputs, bias=norm == "none", interpolation=section.interpolation)
        self.conv1 = ConvBlock(join, norms.layer(norm, outputs), activation(act))
        self.conv2 = conv_block(outputs, outputs, norm, act)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` [N,inputs,h,w], skip [N,skip,2h,2w] -> [N,outputs,2h,2w]."""
        x = self.reduce(x)
        x = x * (self.gate_map(x) + self.gate_skip(skip))
        out: Tensor = self.conv2(self.conv1(x, skip))
        return out


class MAnetDecoder(nn.Module):
    """Attention at the deepest stage, then one block per halving of the size; those without a skip are a U-Net's.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    stride = 1
    spends = True
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.MAnet, classes: int) -> None:
        """Take stages of these widths and strides.

        Raises:
            RecipeError: fewer widths than halvings.
        """
        super().__init__()
        widths = decoder_widths(strides, section.decoder_channels)
        self.joins = [stage_at(strides[:-1], 2**level) for level in reversed(range(len(widths)))]
        self.center = PositionAttention(channels[-1], section.attention_channels, as_smp=section.compat == "smp")
        self.blocks = nn.ModuleList()
        self.channels = channels[-1]
        for join, width in zip(self.joins, widths, strict=True):
            if join is None:
                self.blocks.append(UpBlock(self.channels, 0, width, section))
            else:
                self.blocks.append(JoinBlock(self.channels, channels[join], width, section))
            self.channels = width

    def forward(self, features: Sequence[Tensor], *, spend: bool = False) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W].

        `spend`: `features` is a list that is not used afterwards; it is emptied on the way, which saves memory.
        """
        return climb(features, self.center, self.blocks, self.joins, spend)


SMP_NAMES: Final = (
    (r"(blocks\.\d+)\.hl_conv\.(.*)", r"\1.reduce.\2"),
    (r"(blocks\.\d+)\.SE_hl\.(.*)", r"\1.gate_map.\2"),
    (r"(blocks\.\d+)\.SE_ll\.(.*)", r"\1.gate_skip.\2"),
)
