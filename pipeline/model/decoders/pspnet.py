"""The decoder of PSPNet (Zhao, Shi, Qi, Wang and Jia 2017): pyramid pooling on the deepest stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model.decoders.pooling import PyramidPooling
from pipeline.recipe import networks as recipe


class PSPNetDecoder(nn.Module):
    """Pyramid pooling; the map stays as coarse as the stage.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    auxiliary_weights: tuple[float, ...] = ()
    flat = True

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.PSPNet, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        compat = section.compat == "smp"
        self.channels, self.stride = section.decoder_channels, strides[-1]
        self.pooling = PyramidPooling(
            channels[-1],
            max(1, channels[-1] // len(section.bins)),
            section,
            kernel=1,
            map_first=False,
            single_norm="none" if compat else None,
            align_corners=compat,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        out: Tensor = self.pooling(features[-1])
        return out


SMP_NAMES: Final = (
    (r"psp\.blocks\.(\d+)\.pool\.1\.(.*)", r"pooling.blocks.\1.\2"),
    (r"conv\.(.*)", r"pooling.join.\1"),
)
