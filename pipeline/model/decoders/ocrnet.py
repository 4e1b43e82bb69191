"""The decoder of OCRNet (Yuan, Chen and Wang 2020): object-contextual representations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.decoders.blocks import ConcatBlock, conv_block
from pipeline.model.heads import segmentation_head
from pipeline.recipe import networks as recipe


class Context(nn.Module):
    """Each pixel learns from the objects it resembles: attention of pixels over the means of soft object regions."""

    def __init__(self, section: recipe.OCRNet) -> None:
        """Take maps of `decoder_channels`."""
        super().__init__()
        width, key, norm, act = section.decoder_channels, section.key_channels, section.norm, section.activation
        self.query = nn.Sequential(*(conv_block(i, key, norm, act, kernel=1) for i in (width, key)))
        # Objects are as few as the classes: normalised as what is pooled is.
        self.key = nn.Sequential(*(conv_block(i, key, norm, act, kernel=1, pooled=True) for i in (width, key)))
        self.value = conv_block(width, key, norm, act, kernel=1, pooled=True)
        self.out = conv_block(key, width, norm, act, kernel=1)
        self.fuse = ConcatBlock(2 * width, width, norm, act, kernel=1)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """`x` [N,C,h,w] and logits [N,K,h,w] -> [N,C,h,w]."""
        regions = objects(x, coarse)
        query = self.query(x)
        pairs = (query, self.key(regions), self.value(regions))
        seen = F.scaled_dot_product_attention(*(m.flatten(2).transpose(1, 2).unsqueeze(1) for m in pairs))
        context: Tensor = self.out(seen.squeeze(1).transpose(1, 2).reshape(query.shape))
        out: Tensor = self.fuse(context, x)
        return out


def objects(x: Tensor, coarse: Tensor) -> Tensor:
    """The mean of `x` [N,C,h,w] over each class's soft region, a softmax over pixels of logits [N,K,h,w]: [N,C,K,1].

    A single class makes two objects, it and the rest: attention over one would see the same everywhere.
    """
    if coarse.shape[1] == 1:
        coarse = torch.cat([coarse, -coarse], 1)
    share = coarse.flatten(2).float().softmax(2).to(x.dtype)
    return (x.flatten(2) @ share.transpose(1, 2)).unsqueeze(3)


class OCRNetDecoder(nn.Module):
    """A cascade: a coarse head, and a map refined by what the coarse head's classes look like.

    The coarse head works on the stage before the deepest where that has the same stride (a dilated encoder, as in the
    paper), else on the deepest.

    Attributes:
        channels, stride: of the map that comes out.
        auxiliary_weights: of the coarse head.
    """

    output_stride = 8
    head_kernel = 1
    flat = True

    def __init__(self, channels: Sequence[int], strides: Sequence[int], section: recipe.OCRNet, classes: int) -> None:
        """Take stages of these widths and strides."""
        super().__init__()
        norm, act, width = section.norm, section.activation, section.decoder_channels
        self.channels, self.stride = width, strides[-1]
        self.auxiliary_weights: tuple[float, ...] = (section.coarse_weight,)
        self.at = -2 if len(strides) > 1 and strides[-2] == strides[-1] else -1
        self.coarse = nn.Sequential(
            conv_block(channels[self.at], section.key_channels, norm, act),
            segmentation_head(section.key_channels, classes, dropout=0.1, kernel=1),
        )
        self.reduce = conv_block(channels[-1], width, norm, act)
        self.context = Context(section)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Stages, shallowest first -> [N,channels,H/stride,W/stride]."""
        return self.forward_all(features)[0]

    def forward_all(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The map, and the coarse logits [N,classes,H/stride,W/stride]."""
        coarse: Tensor = self.coarse(features[self.at])
        out: Tensor = self.context(self.reduce(features[-1]), coarse)
        return out, (coarse,)


SMP_NAMES: Final[tuple[tuple[str, str], ...]] = ()  # SMP has no such network
