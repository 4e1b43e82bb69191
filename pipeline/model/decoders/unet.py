"""The decoder of U-Net (Ronneberger, Fischer and Brox 2015) on the stages of any encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model import norms


def conv_block(inputs: int, outputs: int, norm: norms.Kind) -> nn.Sequential:
    """3×3 convolution, normalisation, ReLU; He initialisation."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, norms.layer(norm, outputs), nn.ReLU(inplace=True))


class UpBlock(nn.Module):
    """Double the size, join the encoder's stage of that size if there is one, convolve twice."""

    def __init__(self, inputs: int, skip: int, outputs: int, norm: norms.Kind) -> None:
        super().__init__()
        self.conv1 = conv_block(inputs + skip, outputs, norm)
        self.conv2 = conv_block(outputs, outputs, norm)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """`x` [N,inputs,h,w] -> [N,outputs,2h,2w], or the size of `skip`."""
        if skip is None:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        else:
            x = torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1)
        out: Tensor = self.conv2(self.conv1(x))
        return out


class Decoder(nn.Module):
    """One `UpBlock` per halving of the size, from the deepest stage back to the size of the input.

    An encoder that begins at stride 4 has nothing to join at strides 2 and 1; its last two blocks go without.

    Attributes:
        channels: width of what comes out.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], widths: Sequence[int], norm: norms.Kind
    ) -> None:
        """Take stages of these widths and strides (powers of two, growing) and give the blocks these widths.

        Raises:
            RecipeError: fewer widths than halvings.
        """
        super().__init__()
        halvings = strides[-1].bit_length() - 1
        if len(widths) < halvings:
            raise RecipeError(
                f"model.decoder_channels: {len(widths)} widths, but this encoder halves the size {halvings} times",
                f"give {halvings} widths, deepest first",
            )
        targets = [2**level for level in reversed(range(halvings))]
        # Position in the list of stages of what each block joins.
        self.joins = [strides.index(t) if t in strides else None for t in targets]
        inputs = [channels[-1], *widths][:halvings]
        skips = [0 if j is None else channels[j] for j in self.joins]
        self.blocks = nn.ModuleList(
            UpBlock(i, s, o, norm) for i, s, o in zip(inputs, skips, widths[:halvings], strict=True)
        )
        self.channels = widths[halvings - 1] if halvings else channels[-1]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W]."""
        x = features[-1]
        for block, join in zip(self.blocks, self.joins, strict=True):
            x = block(x, None if join is None else features[join])
        return x
