"""The decoders of DeepLabV3 (Chen et al. 2017) and DeepLabV3+ (Chen et al. 2018): atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConcatBlock, SeparableBlock, conv_block, enlarge, global_mean
from pipeline.recipe import networks as recipe

Section = recipe.DeepLabV3 | recipe.DeepLabV3Plus


class ASPP(nn.Module):
    """Convolutions of several dilations and the mean of the whole map, joined.

    The branch of the mean is one value per channel: it joins as that, without being enlarged to the map.
    """

    def __init__(self, inputs: int, section: Section, norm: norms.Kind) -> None:
        """Take a map of `inputs` channels."""
        super().__init__()
        width, act = section.decoder_channels, section.activation
        block: Callable[..., nn.Module] = SeparableBlock if section.separable else conv_block
        self.convs = nn.ModuleList(
            [
                conv_block(inputs, width, norm, act, kernel=1),
                *(block(inputs, width, norm, act, dilation=rate) for rate in section.rates),
            ]
        )
        self.pool = conv_block(inputs, width, norm, act, kernel=1, pooled=True)
        self.project = ConcatBlock(width * (len(self.convs) + 1), width, norm, act, kernel=1)
        self.dropout = nn.Dropout(section.branch_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,inputs,h,w] -> [N,decoder_channels,h,w]."""
        out: Tensor = self.dropout(self.project(*(conv(x) for conv in self.convs), self.pool(global_mean(x))))
        return out


class V3(nn.Module):
    """ASPP on the deepest stage and one more convolution; the map stays as coarse as the stage.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    output_stride = 8
    auxiliary_weights: tuple[float, ...] = ()
    flat = True
    head_kernel = 1

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], section: recipe.DeepLabV3, classes: int
    ) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        norm: norms.Kind = "batch" if section.compat == "smp" else section.norm
        self.channels, self.stride = section.decoder_channels, strides[-1]
        self.aspp = ASPP(channels[-1], section, norm)
        self.conv = conv_block(self.channels, self.channels, norm, section.activation)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        out: Tensor = self.conv(self.aspp(features[-1]))
        return out


class V3Plus(nn.Module):
    """ASPP on the deepest stage, enlarged and joined with a shallow one: the first from stride 4 on, or the last before
    the deepest. An encoder of one stage has none; then ASPP is all.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    output_stride = 16
    auxiliary_weights: tuple[float, ...] = ()
    flat = True
    head_kernel = 1

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], section: recipe.DeepLabV3Plus, classes: int
    ) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        self.align_corners = section.compat == "smp"
        norm: norms.Kind = "batch" if self.align_corners else section.norm
        width, act = section.decoder_channels, section.activation
        self.aspp = ASPP(channels[-1], section, norm)
        self.smooth = SeparableBlock(width, width, norm, act)
        self.join = _shallow(strides)
        self.channels, self.stride = width, strides[-1 if self.join is None else self.join]
        self.times = strides[-1] // self.stride
        if self.join is not None:
            self.low = conv_block(channels[self.join], section.low_level_channels, norm, act, kernel=1)
            self.fuse = SeparableBlock(width + section.low_level_channels, width, norm, act)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        x: Tensor = self.smooth(self.aspp(features[-1]))
        if self.join is None:
            return x
        x = enlarge(x, self.times, align_corners=self.align_corners)
        x = self.fuse(x, self.low(features[self.join]))
        return x


def _shallow(strides: Sequence[int]) -> int | None:
    """Position of the stage that refines."""
    if len(strides) == 1:
        return None
    return next((i for i, stride in enumerate(strides[:-1]) if stride >= 4), len(strides) - 2)


_ASPP: Final = (
    (r"convs\.4\.1\.(.*)", r"aspp.pool.0.\1"),
    (r"convs\.4\.2\.(.*)", r"aspp.pool.1.\1"),
    (r"((convs|project)\..*)", r"aspp.\1"),
)
V3_SMP_NAMES: Final = (
    *((rf"aspp\.{pattern}", replacement) for pattern, replacement in _ASPP),
    (r"conv\.weight", "conv.0.weight"),
    (r"bn\.(.*)", r"conv.1.\1"),
)
V3PLUS_SMP_NAMES: Final = (
    *((rf"aspp\.0\.{pattern}", replacement) for pattern, replacement in _ASPP),
    (r"aspp\.1\.(.*)", r"smooth.0.\1"),
    (r"aspp\.2\.(.*)", r"smooth.1.\1"),
    (r"block1\.(.*)", r"low.\1"),
    (r"block2\.(.*)", r"fuse.\1"),
)
