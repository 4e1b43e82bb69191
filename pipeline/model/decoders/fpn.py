"""The feature pyramid network (Lin et al. 2017) with the segmentation branch of Kirillov, Girshick et al. 2019."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.decoders.blocks import ConvBlock, conv_block, double, doubling_kernel, initialise
from pipeline.recipe import networks as recipe

_STAGES: Final = 4
_SMP_GROUPS: Final = 32


class FPNDecoder(nn.Module):
    """A pyramid of the last four stages; each of its maps is convolved and doubled to the size of the shallowest of
    them, and all are joined.

    What is computed is less than that says, and the same: enlarging is linear, so that sums are made before it. The
    shallowest map of the pyramid has one reader, a 3×3 convolution; where it is cheaper, that is put together with the
    1×1 convolution of the stage and with the doubling, and the map, the largest of all, is never made.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
        head_kernel: of the convolution behind it.
    """

    head_kernel = 1
    auxiliary_weights: tuple[float, ...] = ()

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.FPN, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        widths, pyramid, branch = channels[: -_STAGES - 1 : -1], section.pyramid_channels, section.decoder_channels
        used = strides[: -_STAGES - 1 : -1]
        self.stride, self.cat, self.interpolation = used[-1], section.merge == "cat", section.interpolation
        self.align_corners = section.compat == "smp"
        self.factors = [deep // shallow for deep, shallow in itertools.pairwise(used)]
        self.doublings = [(stride // self.stride).bit_length() - 1 for stride in used]
        self.laterals = nn.ModuleList(nn.Conv2d(width, pyramid, 1) for width in widths)
        for lateral in self.laterals:
            initialise(lateral)  # type: ignore[arg-type]
        self.branches = nn.ModuleList(
            nn.Sequential(*(_block(branch if n else pyramid, branch, section) for n in range(max(1, times))))
            for times in self.doublings
        )
        self.channels = branch * (len(used) if self.cat else 1)
        apart = pyramid * widths[-1] + 9 * pyramid * branch
        together = 9 * widths[-1] * branch + 4 * pyramid * branch
        self.composed = self.factors[-1:] == [2] and section.interpolation == "nearest" and together < apart

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        x: Tensor | None = None
        half: list[Tensor] = []  # to be doubled once more
        full: list[Tensor] = []
        last = len(self.branches) - 1
        for number, (branch, times) in enumerate(zip(self.branches, self.doublings, strict=True)):
            stage = features[-1 - number]
            if self.composed and number == last and x is not None:
                y = self._last(x, stage)
            else:
                x = self._pyramid(number, x, stage)
                y = self._enlarge(branch, x)  # type: ignore[arg-type]
            (half if times else full).append(y)
        del x
        if half:
            joined = double(self._join(half), "bilinear", align_corners=self.align_corners)
            full.insert(0, joined)
        return self._join(full)

    def _pyramid(self, number: int, x: Tensor | None, stage: Tensor) -> Tensor:
        out: Tensor = self.laterals[number](stage)
        if x is None:
            return out
        factor = self.factors[number - 1]
        if factor > 1:
            x = F.interpolate(x, scale_factor=float(factor), mode=self.interpolation)
        return out.add_(x)

    def _enlarge(self, branch: nn.Sequential, x: Tensor) -> Tensor:
        """All of a branch but its last doubling."""
        for number, block in enumerate(branch):
            x = block(double(x, "bilinear", align_corners=self.align_corners) if number else x)
        return x

    def _last(self, x: Tensor, stage: Tensor) -> Tensor:
        """The branch of the shallowest map of the pyramid, from the map below and the stage.

        The offset of the 1×1 convolution goes to the map below, where the margin of zeros comes out right.
        """
        conv, norm, act = self.branches[-1][0]  # type: ignore[index]
        lateral = self.laterals[-1]
        kernel = torch.einsum("opij,pc->ocij", conv.weight, lateral.weight.flatten(1))  # type: ignore[operator]
        moved = x + lateral.bias[:, None, None]  # type: ignore[index]
        out = F.conv_transpose2d(moved, doubling_kernel(conv.weight), conv.bias, stride=2, padding=1)
        out += F.conv2d(stage, kernel, padding=1)
        result: Tensor = act(norm(out))
        return result

    def _join(self, maps: list[Tensor]) -> Tensor:
        """Empties `maps`."""
        if self.cat and len(maps) > 1:
            return torch.cat(maps, 1)
        out = maps.pop()
        fresh = False  # what came out of an activation is needed on the way back
        while maps:
            out = out.add_(maps.pop()) if fresh else out + maps.pop()
            fresh = True
        return out


def _block(inputs: int, outputs: int, section: recipe.FPN) -> ConvBlock:
    if section.compat != "smp":
        return conv_block(inputs, outputs, section.norm, section.activation)
    block = conv_block(inputs, outputs, "batch", section.activation)
    block[1] = nn.GroupNorm(_SMP_GROUPS, outputs)
    return block


SMP_NAMES: Final = (
    (r"p5\.(.*)", r"laterals.0.\1"),
    (r"p4\.skip_conv\.(.*)", r"laterals.1.\1"),
    (r"p3\.skip_conv\.(.*)", r"laterals.2.\1"),
    (r"p2\.skip_conv\.(.*)", r"laterals.3.\1"),
    (r"seg_blocks\.(\d)\.block\.(\d)\.block\.(.*)", r"branches.\1.\2.\3"),
)
