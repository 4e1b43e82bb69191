"""The decoder of UPerNet (Xiao, Liu, Zhou, Jiang and Sun 2018): pyramid pooling on top of a feature pyramid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConcatBlock, conv_block, enlarge, stages_from
from pipeline.model.decoders.pooling import PyramidPooling
from pipeline.recipe import networks as recipe


class UPerNetDecoder(nn.Module):
    """Pyramid pooling on the deepest stage, a pyramid of the others, and all scales joined at the shallowest.

    Stages before stride 4 are not used.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: none.
    """

    auxiliary_weights: tuple[float, ...] = ()
    head_kernel = 1

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.UPerNet, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        compat, norm, act, width = section.compat == "smp", section.norm, section.activation, section.decoder_channels
        self.used = stages_from(strides, 4)
        *shallow, deepest = [channels[i] for i in self.used]
        scales = [strides[i] for i in self.used]
        self.channels, self.stride = width, scales[0]
        self.steps = [deep // s for s, deep in itertools.pairwise(scales)]
        self.times = [s // scales[0] for s in scales]
        self.norms = nn.ModuleList(norms.ChannelNorm(c) for c in (*shallow, deepest)) if compat else None
        self.pooling = PyramidPooling(
            deepest, width, section, kernel=3, map_first=True, join_norm="batch" if compat else None
        )
        # Deepest first, as they are computed.
        self.laterals = nn.ModuleList(conv_block(c, width, norm, act, kernel=1) for c in reversed(shallow))
        self.smooths = nn.ModuleList(conv_block(width, width, norm, act) for _ in shallow)
        self.fuse = ConcatBlock(width * len(self.used), width, norm, act)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        stages = [features[i] for i in self.used]
        if self.norms is not None:
            stages = [norm(stage) for norm, stage in zip(self.norms, stages, strict=True)]
        state = self.pooling(stages[-1])
        maps = [state]
        for lateral, smooth, stage, step in zip(
            self.laterals, self.smooths, stages[-2::-1], reversed(self.steps), strict=True
        ):
            state = lateral(stage) + enlarge(state, step)
            maps.insert(0, smooth(state))
        out: Tensor = self.fuse(*(enlarge(m, times) for m, times in zip(maps, self.times, strict=True)))
        return out


SMP_NAMES: Final = (
    (r"feature_norms\.(.*)", r"norms.\1"),
    (r"psp\.blocks\.(\d+)\.1\.(.*)", r"pooling.blocks.\1.\2"),
    (r"psp\.out_conv\.(.*)", r"pooling.join.\1"),
    (r"fpn_lateral_blocks\.(\d+)\.conv_norm_relu\.(.*)", r"laterals.\1.\2"),
    (r"fpn_conv_blocks\.(.*)", r"smooths.\1"),
    (r"fusion_block\.(.*)", r"fuse.\1"),
)
