"""The decoder of U-Net (Ronneberger, Fischer and Brox 2015) on the stages of any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model import norms
from pipeline.model.decoders import strips
from pipeline.model.decoders.blocks import (
    SCSE,
    SCSE_NAMES,
    ConvBlock,
    JoinConv,
    activation,
    climb,
    conv_block,
    decoder_widths,
    interleaved,
    stage_at,
)
from pipeline.recipe import networks as recipe

Section = recipe.UNet | recipe.UNetPlusPlus | recipe.MAnet


class UpBlock(nn.Module):
    """Double the size, join skips of that size if there are any, convolve twice; attention around it if asked for."""

    def __init__(
        self,
        inputs: int,
        skip: int,
        outputs: int,
        section: Section,
        *,
        attention: str | None = None,
        alone: bool = False,
    ) -> None:
        """Take maps of these widths; `skip` is that of all skips together.

        `alone`: attention comes before the first convolution even where nothing is joined.
        """
        super().__init__()
        norm, self.outputs = section.norm, outputs
        join = JoinConv(inputs, skip, outputs, bias=norm == "none", interpolation=section.interpolation)
        self.conv1 = ConvBlock(join, norms.layer(norm, outputs), activation(section.activation))
        self.conv2 = conv_block(outputs, outputs, norm, section.activation)
        self.attention1 = SCSE(inputs + skip) if attention and (skip or alone) else None
        self.attention2 = SCSE(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """`x` [N,inputs,h,w], skips [N,...,2h,2w] -> [N,outputs,2h,2w]."""
        if not skips and self.attention1 is None and strips.pay(x, self.outputs, self.conv1[1]):
            x = strips.doubled(lambda strip: self.conv2(self.conv1(strip)), x, self.outputs, margin=2)
        else:
            x = x if skips else interleaved(x)
            x = self.conv2(self.conv1(x, *skips, attention=self.attention1))
        out: Tensor = self.attention2(x)
        return out


class UNetDecoder(nn.Module):
    """One `UpBlock` per halving of the size, from the deepest stage back to the size of the input.

    An encoder that begins at stride 4 has nothing to join at strides 2 and 1; its last two blocks go without.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    stride = 1
    spends = True
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.UNet, classes: int) -> None:
        """Take stages of these widths and strides.

        Raises:
            RecipeError: fewer widths than halvings.
        """
        super().__init__()
        widths = decoder_widths(strides, section.decoder_channels)
        # Position in the list of stages of what each block joins; the deepest stage is not joined with itself.
        targets = [2**level for level in reversed(range(len(widths)))]
        self.joins = [stage_at(strides[:-1], target) for target in targets]
        inputs = [channels[-1], *widths[:-1]] if widths else []
        skips = [0 if j is None else channels[j] for j in self.joins]
        self.center = center(channels[-1], section) if section.center else nn.Identity()
        self.blocks = nn.ModuleList(
            UpBlock(i, s, o, section, attention=section.attention, alone=joins_nothing(section, strides, t))
            for i, s, o, t in zip(inputs, skips, widths, targets, strict=True)
        )
        self.channels = [channels[-1], *widths][-1]

    def forward(self, features: Sequence[Tensor], *, spend: bool = False) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W].

        `spend`: `features` is a list that is not used afterwards; it is emptied on the way, which saves memory.
        """
        return climb(features, self.center, self.blocks, self.joins, spend)


def joins_nothing(section: Section, strides: Sequence[int], target: int) -> bool:
    """Whether SMP joins a skip of no channels at this stride: to its attention that is a skip all the same."""
    return section.compat == "smp" and target == 2 and strides[0] == 4


def center(channels: int, section: Section) -> nn.Sequential:
    """Two convolutions on the deepest stage."""
    return nn.Sequential(*(conv_block(channels, channels, section.norm, section.activation) for _ in range(2)))


SMP_NAMES: Final = SCSE_NAMES
