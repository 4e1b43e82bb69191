"""A feature pyramid from the features of a plain transformer, which have one stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import norms


@dataclass(frozen=True)
class PyramidLevel:
    """One feature of the pyramid, made from one output of the transformer."""

    tap: int
    """Position of that output."""
    source_channels: int
    source_stride: int
    stride: int

    @property
    def channels(self) -> int:
        """Half as wide with each doubling of the size, as in ViTDet, so that large maps stay affordable."""
        return max(1, self.source_channels * min(self.stride, self.source_stride) // self.source_stride)


def levels(taps: Sequence[tuple[int, int]], count: int, output_stride: int | None) -> tuple[PyramidLevel, ...]:
    """`count` levels at strides 4, 8, 16, 32 (none coarser than `output_stride`).

    Args:
        taps: (channels, stride) of each output; where there are fewer than `count`, some feed several levels.
        count: number of levels, 1 to 4.
        output_stride: the coarsest stride, or None.
    """
    made = []
    for i in range(count):
        tap = len(taps) * (i + 1) // count - 1 if len(taps) >= count else i * len(taps) // count
        channels, stride = taps[tap]
        made.append(PyramidLevel(tap, channels, stride, min(4 << i, output_stride or 32)))
    return tuple(made)


class Pyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022), fed from several depths as in BEiT (Bao et al. 2021).

    A finer map comes from transposed 2×2 convolutions, a coarser one from max-pooling, one of the same stride as it is.
    """

    def __init__(self, levels: Sequence[PyramidLevel], norm: norms.Kind) -> None:
        super().__init__()
        self.taps = tuple(level.tap for level in levels)
        self.levels = nn.ModuleList(_level(level, norm) for level in levels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels, shallowest first, of outputs [N,C,H/stride,W/stride]."""
        return [level(features[tap]) for tap, level in zip(self.taps, self.levels, strict=True)]


def resample(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """`feature` [N,C,h,w] on a grid of another size over the same area, bilinear."""
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def _level(level: PyramidLevel, norm: norms.Kind) -> nn.Module:
    if level.stride > level.source_stride:
        return nn.MaxPool2d(level.stride // level.source_stride)
    layers: list[nn.Module] = []
    channels, stride = level.source_channels, level.source_stride
    while stride > level.stride:
        stride //= 2
        last = stride == level.stride
        width = level.channels if last else max(1, level.source_channels * stride // level.source_stride)
        # A normalisation takes away what a bias in front of it adds.
        layers.append(nn.ConvTranspose2d(channels, width, 2, 2, bias=last or norm == "none"))
        if not last:
            layers += [norms.layer(norm, width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers)
