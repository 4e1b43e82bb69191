"""Heads: logits of pixels from a map, and logits of whole chips."""

from __future__ import annotations

from torch import nn

from pipeline.model import norms
from pipeline.model.decoders.blocks import conv_block
from pipeline.recipe.networks import AuxiliaryHead, LabelHead


def segmentation_head(channels: int, classes: int, dropout: float, kernel: int = 3) -> nn.Sequential:
    """Channel dropout and a convolution, [N,channels,H,W] -> [N,classes,H,W]; Glorot initialisation."""
    conv = nn.Conv2d(channels, classes, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout2d(dropout) if dropout else nn.Identity(), conv)


def auxiliary_head(channels: int, classes: int, section: AuxiliaryHead, norm: norms.Kind) -> nn.Sequential:
    """A convolution before the head, as MMSegmentation's FCN head, [N,channels,h,w] -> [N,classes,h,w]."""
    return nn.Sequential(
        conv_block(channels, section.channels, norm),
        segmentation_head(section.channels, classes, dropout=0.1, kernel=1),
    )


def label_head(channels: int, classes: int, section: LabelHead) -> nn.Sequential:
    """Global pooling, dropout and a linear layer, [N,channels,h,w] -> [N,classes]; Glorot initialisation."""
    pool = nn.AdaptiveAvgPool2d(1) if section.pooling == "avg" else nn.AdaptiveMaxPool2d(1)
    linear = nn.Linear(channels, classes)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(pool, nn.Flatten(), nn.Dropout(section.dropout), linear)
