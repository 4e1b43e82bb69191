"""What turns a decoder's features into logits."""

from __future__ import annotations

from torch import nn


def segmentation_head(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """Channel dropout and a 3×3 convolution, [N,channels,H,W] -> [N,classes,H,W]; Glorot initialisation."""
    conv = nn.Conv2d(channels, classes, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout2d(dropout) if dropout else nn.Identity(), conv)
