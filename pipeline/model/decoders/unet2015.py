"""The U-Net of 2015 (Ronneberger, Fischer and Brox), with an encoder of its own.

Convolutions keep the size, where the paper's lose a pixel on each side; normalisation is by the recipe, the paper has
none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.decoders.blocks import ConcatBlock, JoinConv, conv_block, initialise
from pipeline.recipe import networks as recipe


class UNet2015Encoder(nn.Module):
    """The contracting path: two convolutions, halving by the greatest value of four, and again.

    Attributes:
        name: unet2015.
        bands: channels of the input.
        channels, strides: of each level, shallowest first; the first has the size of the input.
        stages: number of levels.
        multiple: heights and widths must be multiples of this.
        num_prefix_tokens: 0, as there are none.
    """

    num_prefix_tokens = 0

    def __init__(self, section: recipe.UNet2015, bands: int) -> None:
        """Take images of this many bands."""
        super().__init__()
        self.name, self.bands = "unet2015", bands
        self.channels = tuple(section.widths)
        self.stages = len(self.channels)
        self.strides = tuple(2**level for level in range(self.stages))
        self.multiple = self.strides[-1]
        inputs = (bands, *self.channels)
        self.levels = nn.ModuleList(
            nn.Sequential(
                conv_block(i, o, section.norm, section.activation), conv_block(o, o, section.norm, section.activation)
            )
            for i, o in zip(inputs, self.channels, strict=False)
        )
        self.dropout = nn.Dropout(section.bottleneck_dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` [N,C,H,W], shallowest first, each [N,channels,H/stride,W/stride]."""
        features: list[Tensor] = []
        for level in self.levels:
            features.append(level(F.max_pool2d(features[-1], 2) if features else x))
        features[-1] = self.dropout(features[-1])
        return features


class UNet2015Decoder(nn.Module):
    """The expanding path: doubling, concatenation with the level of that size, two convolutions.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
        head_kernel: of the convolution behind it.
    """

    stride = 1
    head_kernel = 1
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.UNet2015, classes: int) -> None:
        """Take levels of these widths, each of half the size of the one before."""
        super().__init__()
        self.channels = channels[0]
        down = [*channels][::-1]
        self.ups = nn.ModuleList(_up(i, o, section) for i, o in itertools.pairwise(down))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                ConcatBlock(2 * width, width, section.norm, section.activation),
                conv_block(width, width, section.norm, section.activation),
            )
            for width in down[1:]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Levels, shallowest first -> [N,channels,H,W]."""
        x = features[-1]
        blocks: Iterable[Any] = self.blocks
        for up, (join, conv), skip in zip(self.ups, blocks, reversed(features[:-1]), strict=True):
            x = conv(join(skip, up(x)))
        return x


def _up(inputs: int, outputs: int, section: recipe.UNet2015) -> nn.Module:
    if section.upsampling != "transposed":
        return JoinConv(inputs, 0, outputs, bias=True, interpolation=section.upsampling)
    up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    initialise(up)
    return up
