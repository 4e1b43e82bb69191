"""The decoder of U-Net 3+ (Huang et al. 2020): every decoder stage sees every scale."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.decoders.blocks import ConcatBlock, conv_block, enlarge
from pipeline.model.heads import segmentation_head
from pipeline.recipe import networks as recipe


class FullScaleNode(nn.Module):
    """One decoder stage: a convolution of each scale brought to its size, and one of all together."""

    def __init__(self, position: int, widths: Sequence[int], strides: Sequence[int], section: recipe.UNet3Plus) -> None:
        """Take, for each stage of the encoder, a map of this width and stride."""
        super().__init__()
        norm, act, width = section.norm, section.activation, section.decoder_channels
        self.own, self.strides = strides[position], strides
        self.branches = nn.ModuleList(conv_block(w, width, norm, act) for w in widths)
        self.join = ConcatBlock(width * len(widths), width * len(widths), norm, act)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Larger maps by their greatest values, smaller ones bilinear."""
        sized = (self._sized(x, stride) for x, stride in zip(maps, self.strides, strict=True))
        out: Tensor = self.join(*(branch(x) for branch, x in zip(self.branches, sized, strict=True)))
        return out

    def _sized(self, x: Tensor, stride: int) -> Tensor:
        if stride < self.own:
            return F.max_pool2d(x, self.own // stride)
        return enlarge(x, stride // self.own)


class UNet3PlusDecoder(nn.Module):
    """One `FullScaleNode` for each stage but the deepest, from deep to shallow: it sees the shallower stages and its
    own as the encoder gives them, the deeper ones as decoded.

    Attributes:
        channels, stride: of the map that comes out: that of the shallowest stage.
        auxiliary_weights: with deep supervision, one for each deeper stage.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], section: recipe.UNet3Plus, classes: int
    ) -> None:
        """Take stages of these widths and strides.

        Raises:
            RecipeError: deep supervision of a single stage.
        """
        super().__init__()
        count = len(channels)
        widths = list(channels)
        self.nodes = nn.ModuleList()  # deepest first
        for position in reversed(range(count - 1)):
            self.nodes.append(FullScaleNode(position, widths, strides, section))
            widths[position] = section.decoder_channels * count
        self.channels, self.stride = widths[0], strides[0]
        self.auxiliary_weights: tuple[float, ...] = ()
        if section.deep_supervision is not None:
            if count == 1:
                raise RecipeError(
                    "model.deep_supervision: the encoder has a single stage", "use more, or no deep supervision"
                )
            self.auxiliary_weights = (section.deep_supervision / (count - 1),) * (count - 1)
            self.heads = nn.ModuleList(segmentation_head(width, classes, 0.0) for width in widths[1:])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        return self._run(features)[0]

    def forward_all(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The map of `forward`, and logits [N,classes,H/s,W/s] of the deeper stages, s their strides."""
        first, *deeper = self._run(features)
        return first, tuple(head(x) for head, x in zip(self.heads, deeper, strict=True))

    def _run(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = list(features)
        for number, node in enumerate(self.nodes):
            maps[-2 - number] = node(maps)
        return maps
