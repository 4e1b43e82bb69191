"""The decoder of U-Net (Ronneberger, Fischer and Brox 2015) on the stages of any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model import norms
from pipeline.model.decoders.blocks import (
    SCSE,
    SCSE_NAMES,
    SMALL_MAP_STRIDE,
    JoinConv,
    activation,
    conv_block,
    halvings,
    stage_at,
)
from pipeline.recipe import networks as recipe


class UpBlock(nn.Module):
    """Double the size, join skips of that size if there are any, convolve twice; attention around it if asked for."""

    def __init__(
        self, inputs: int, skip: int, outputs: int, section: recipe.UNet | recipe.UNetPlusPlus, *, stride: int
    ) -> None:
        """Take maps of these widths; `stride` is that of what comes out."""
        super().__init__()
        norm = section.norm
        join = JoinConv(
            inputs,
            skip,
            outputs,
            bias=norm == "none",
            interpolation=section.interpolation,
            folded=stride < SMALL_MAP_STRIDE,
        )
        self.conv1 = nn.Sequential(join, norms.layer(norm, outputs), activation(section.activation))
        self.conv2 = conv_block(outputs, outputs, norm, section.activation)
        self.attention1 = SCSE(inputs + skip) if section.attention and skip else None
        self.attention2 = SCSE(outputs) if section.attention else nn.Identity()

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """`x` [N,inputs,h,w], skips [N,...,2h,2w] -> [N,outputs,2h,2w]."""
        join, norm, act = self.conv1
        out: Tensor = self.attention2(self.conv2(act(norm(join(x, *skips, attention=self.attention1)))))
        return out


class Decoder(nn.Module):
    """One `UpBlock` per halving of the size, from the deepest stage back to the size of the input.

    An encoder that begins at stride 4 has nothing to join at strides 2 and 1; its last two blocks go without.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    stride = 1
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.UNet, classes: int) -> None:
        """Take stages of these widths and strides.

        Raises:
            RecipeError: fewer widths than halvings.
        """
        super().__init__()
        times, widths = halvings(strides, section.decoder_channels), section.decoder_channels
        # Position in the list of stages of what each block joins; the deepest stage is not joined with itself.
        targets = [2**level for level in reversed(range(times))]
        self.joins = [stage_at(strides[:-1], target) for target in targets]
        inputs = [channels[-1], *widths][:times]
        skips = [0 if j is None else channels[j] for j in self.joins]
        self.center = center(channels[-1], section) if section.center else nn.Identity()
        self.blocks = nn.ModuleList(
            UpBlock(i, s, o, section, stride=t)
            for i, s, o, t in zip(inputs, skips, widths[:times], targets, strict=True)
        )
        self.channels = widths[times - 1] if times else channels[-1]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W]."""
        x = self.center(features[-1])
        for block, join in zip(self.blocks, self.joins, strict=True):
            x = block(x) if join is None else block(x, features[join])
        return x


def center(channels: int, section: recipe.UNet | recipe.UNetPlusPlus) -> nn.Sequential:
    """Two convolutions on the deepest stage."""
    return nn.Sequential(*(conv_block(channels, channels, section.norm, section.activation) for _ in range(2)))


SMP_NAMES: Final = SCSE_NAMES
