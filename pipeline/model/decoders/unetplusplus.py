"""The decoder of U-Net++ (Zhou, Siddiquee, Tajbakhsh and Liang 2018): skips are dense nests of blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.decoders import unet
from pipeline.model.decoders.blocks import decoder_widths, stage_at
from pipeline.model.heads import segmentation_head
from pipeline.recipe import networks as recipe

SMP_NAMES = unet.SMP_NAMES
_CENTER = "center"


class NestedNode(NamedTuple):
    """A block of the nest and what it takes: results of other blocks by their names, stages by their positions."""

    name: str
    below: str | int
    """The map that is doubled."""
    factor: int
    """How much smaller that is; more than 2 where the encoder has no stage in between."""
    joined: tuple[str | int, ...]
    """Blocks of the same size that come before, and the stage of that size."""


class UNetPlusPlusDecoder(nn.Module):
    """A U-Net's path from the deepest stage to the size of the input, and a path like it from every other stage up to
    the shallowest. Each block joins the stage of its size, and the blocks of its size on the shallower paths.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: with deep supervision, one for each block at the shallowest stage, but not the last block.
    """

    stride = 1
    spends = True

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], section: recipe.UNetPlusPlus, classes: int
    ) -> None:
        """Take stages of these widths and strides.

        Raises:
            RecipeError: fewer widths than halvings, or deep supervision where only the last block could learn from it.
        """
        super().__init__()
        own = decoder_widths(strides, section.decoder_channels)
        widths: dict[str | int, int] = {**dict(enumerate(channels)), _CENTER: channels[-1]}
        widths |= {f"x_0_{level}": width for level, width in enumerate(own)}
        # SMP makes a center for some encoders and then passes it by.
        has_center = section.center and section.compat != "smp"
        self.center = unet.center(channels[-1], section) if has_center else nn.Identity()
        self.nodes = nest(strides)
        self.blocks = nn.ModuleDict()
        for name, below, _, joined in self.nodes:
            inner = widths[joined[-1]] if joined else 0
            widths.setdefault(name, inner)
            skip = sum(widths[key] for key in joined)
            stride = strides[-1] >> int(name.rpartition("_")[2]) + 1
            alone = unet.joins_nothing(section, strides, stride)
            self.blocks[name] = unet.UpBlock(
                widths[below], skip, widths[name], section, attention=section.attention, alone=alone
            )
        self.done = last_readings(self.nodes)
        self.channels = widths[self.nodes[-1].name if self.nodes else _CENTER]
        self.auxiliary_weights: tuple[float, ...] = ()
        self.supervised: list[str] = []
        if section.deep_supervision is not None:
            self.supervised = _supervised(self.nodes)
            self.auxiliary_weights = (section.deep_supervision / len(self.supervised),) * len(self.supervised)
            self.heads = nn.ModuleList(segmentation_head(widths[n], classes, 0.0, 1) for n in self.supervised)

    def forward(self, features: Sequence[Tensor], *, spend: bool = False) -> Tensor:
        """Stages, shallowest first -> [N,channels,H,W].

        `spend`: `features` is a list that is not used afterwards; it is emptied on the way, which saves memory.
        """
        return self._run(features, (), spend)[0]

    def forward_all(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The map of `forward`, and logits [N,classes,H/s,W/s] of the supervised blocks, s the shallowest stride."""
        x, maps = self._run(features, self.supervised, False)
        return x, tuple(head(maps[name]) for head, name in zip(self.heads, self.supervised, strict=True))

    def _run(
        self, features: Sequence[Tensor], kept: Collection[str], spend: bool
    ) -> tuple[Tensor, dict[str | int, Tensor]]:
        """The last map and those that are kept; the others are dropped when nothing more will read them."""
        maps: dict[str | int, Tensor] = dict(enumerate(features))
        if spend and isinstance(features, list):
            features.clear()
        x = maps[_CENTER] = self.center(maps.pop(len(maps) - 1))
        for (name, below, factor, joined), done in zip(self.nodes, self.done, strict=True):
            x = maps[below] if factor == 2 else F.interpolate(maps[below], scale_factor=float(factor // 2))
            x = self.blocks[name](x, *[maps[key] for key in joined])
            for key in done:
                if key not in kept:
                    del maps[key]
            maps[name] = x
        return x, maps


def nest(strides: Sequence[int]) -> list[NestedNode]:
    """The blocks in an order of computation: size by size, and of each size the shallowest path first.

    A block `x_d_l` is on the path that begins at the d-th deepest size, and doubles to the (l+1)-th. Where the encoder
    has no stage, the paths that begin at stages pass by, and only path 0, which leads to the input, has a block.
    """
    nodes: list[NestedNode] = []
    ends: dict[int, tuple[str | int, int]] = {0: (_CENTER, -1)}  # path -> where it has got to, and at which level
    levels = strides[-1].bit_length() - 1
    for level in range(levels):
        stage = stage_at(strides[:-1], 2 ** (levels - 1 - level))
        joined: tuple[str | int, ...] = () if stage is None else (stage,)
        for path in sorted(ends, reverse=True):
            if stage is None and path:
                continue
            name, (below, reached) = f"x_{path}_{level}", ends[path]
            nodes.append(NestedNode(name, below, 2 ** (level - reached), joined))
            ends[path] = (name, level)
            joined = (name, *joined)
        if stage is not None:
            ends[level + 1] = (stage, level)
    return nodes


def last_readings(nodes: Sequence[NestedNode]) -> list[list[str | int]]:
    """Maps that no later block reads, for each block."""
    last = {key: number for number, node in enumerate(nodes) for key in (node.below, *node.joined)}
    return [[key for key, at in last.items() if at == number] for number in range(len(nodes))]


def _supervised(nodes: Sequence[NestedNode]) -> list[str]:
    stages = [key for node in nodes for key in node.joined if isinstance(key, int)]
    found = [node.name for node in nodes[:-1] if stages and min(stages) in node.joined]
    if not found:
        raise RecipeError(
            "model.deep_supervision: there is no block at the shallowest stage but the last one",
            "use more stages, or no deep supervision",
        )
    return found
