"""A fully convolutional network (Long, Shelhamer and Darrell 2015), as MMSegmentation's FCN head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model.decoders.blocks import ConcatBlock, conv_block
from pipeline.recipe import networks as recipe


class FCNDecoder(nn.Module):
    """Convolutions on the deepest stage, joined with it for one more; the map stays as coarse as the stage.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    output_stride = 8
    auxiliary_weights: tuple[float, ...] = ()
    flat = True
    head_kernel = 1

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.FCN, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        norm, act, width = section.norm, section.activation, section.decoder_channels
        self.channels, self.stride = width, strides[-1]
        inputs = [channels[-1], *[width] * section.num_convs][: section.num_convs]
        self.convs = nn.Sequential(*(conv_block(i, width, norm, act) for i in inputs))
        self.fuse = ConcatBlock(channels[-1] + width, width, norm, act) if section.concat_input else None

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        x = features[-1]
        out: Tensor = self.convs(x)
        return out if self.fuse is None else self.fuse(x, out)


SMP_NAMES: Final[tuple[tuple[str, str], ...]] = ()  # SMP has no such network
