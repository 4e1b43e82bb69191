"""What a recipe can say about the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config import Section

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class UNet(Section):
    """U-Net (Ronneberger et al. 2015) with any timm encoder that gives features."""

    kind: Literal["unet"] = "unet"
    encoder: str = "resnet34"
    """Name of a timm model."""
    pretrained: bool | str = False
    """false: random weights; true or `imagenet`: timm's own, downloaded by timm; else the path of a weight file
    (safetensors, or a pickle read with weights_only)."""
    depth: Annotated[int, Field(ge=1, le=7)] | None = None
    """Number of encoder stages used, shallowest first; by default all, at most 5."""
    decoder_channels: list[Positive] = [256, 128, 64, 32, 16]
    """Width of the decoder stages, deepest first: one per halving of the size, so five for a stride of 32; of more,
    the first ones are used."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation in the decoder, and in the encoder where timm lets it be chosen. `batch` is synchronised over
    the workers, so that the losses do not depend on their number."""
    dropout: Share = 0.0
    """Channel dropout before the head."""

    @field_validator("pretrained")
    @classmethod
    def _imagenet(cls, value: bool | str) -> bool | str:
        return True if value == "imagenet" else value
