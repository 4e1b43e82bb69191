"""The shelf of networks: encoder, decoder and head behind one door, raw pixel values in, logits out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import config
from pipeline.errors import RecipeError, SceneError
from pipeline.model.decoders import unet
from pipeline.model.encoders.encoder import Encoder
from pipeline.model.heads import segmentation_head
from pipeline.recipe.networks import UNet


class Network(nn.Module):
    """Normalise, encode, decode, classify each pixel.

    Attributes:
        encoder, decoder, head: the parts.
        bands, classes: channels in and out.
        mean, std: buffers [1,C,1,1], the statistics of the training bands; 0 and 1 until `set_statistics`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, decoder: nn.Module, head: nn.Module, *, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.bands, self.classes = encoder.bands, classes
        self.register_buffer("mean", torch.zeros(1, self.bands, 1, 1))
        self.register_buffer("std", torch.ones(1, self.bands, 1, 1))

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the band statistics that raw pixels are normalised with; a constant band (std 0) is only centred.

        Raises:
            SceneError: another number of bands than the network has.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != self.bands:
                raise SceneError(f"{name} of {len(values)} bands for a network of {self.bands}")
        self.mean.copy_(torch.tensor(mean, dtype=torch.float64).view_as(self.mean))
        scale = torch.tensor(std, dtype=torch.float64).view_as(self.std)
        self.std.copy_(torch.where(scale > 0, scale, 1.0))

    def forward(self, image: Tensor) -> Tensor:
        """Logits [N,K,H,W] of raw pixels [N,C,H,W] of any integer or float type and any size.

        Raises:
            SceneError: another number of bands than the network has.
        """
        if image.ndim != 4 or image.shape[1] != self.bands:
            raise SceneError(f"an image of shape {tuple(image.shape)} for a network of {self.bands} bands")
        height, width = image.shape[-2:]
        x = self._pad((image.to(torch.float32) - self.mean).div_(self.std))
        logits: Tensor = self.head(self.decoder(self.encoder(x)))
        if logits.shape[-2:] != x.shape[-2:]:  # encoders without padding at their edges
            logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def _pad(self, x: Tensor) -> Tensor:
        """Zeros (the mean) at the bottom and right, up to whole pixels of the deepest stage.

        Two at least: BatchNorm cannot learn from a single value per channel.
        """
        stride = self.encoder.strides[-1]
        bottom, right = (max(-size % stride, 2 * stride - size) for size in x.shape[-2:])
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def build_unet(section: UNet, bands: int, classes: int) -> Network:
    """U-Net as the section says."""
    encoder = Encoder(
        section.encoder, bands=bands, pretrained=section.pretrained, depth=section.depth, norm=section.norm
    )
    decoder = unet.Decoder(encoder.channels, encoder.strides, section.decoder_channels, section.norm)
    return Network(encoder, decoder, segmentation_head(decoder.channels, classes, section.dropout), classes=classes)


NETWORKS: dict[str, Callable[[UNet, int, int], Network]] = {"unet": build_unet}
_SECTIONS: dict[str, type[UNet]] = {"unet": UNet}


def build(section: UNet, bands: int, classes: int) -> Network:
    """The network that a recipe's `model` describes, with random or pretrained weights.

    Raises:
        RecipeError: the encoder does not exist or cannot be used, or its weights cannot be had.
    """
    return NETWORKS[section.kind](section, bands, classes)


def create_model(
    kind: str = "unet",
    *,
    encoder: str = "resnet34",
    bands: int = 3,
    classes: int = 2,
    pretrained: bool | str = False,
    **options: Any,
) -> Network:
    """A network in one line; `options` are the other fields of the recipe's `model` section.

    Raises:
        RecipeError: an unknown kind, encoder or option; it names the nearest.
    """
    if kind not in NETWORKS:
        near = difflib.get_close_matches(kind, NETWORKS, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"networks are {', '.join(NETWORKS)}"
        raise RecipeError(f"model.kind: there is no network {kind!r}", hint)
    if bands < 1 or classes < 1:
        raise RecipeError(f"a network of {bands} bands and {classes} classes", "both must be at least 1")
    values = {"kind": kind, "encoder": encoder, "pretrained": pretrained, **options}
    return build(config.validate(_SECTIONS[kind], values, "model"), bands, classes)
