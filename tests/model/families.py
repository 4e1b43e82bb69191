"""Small networks of every family on every kind of encoder, for the tests that run over all of them."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model.networks import NETWORKS, Network, create_model

# timm's own miniatures: the kinds of encoders that differ in what a decoder must cope with.
ENCODERS: dict[str, dict[str, Any]] = {
    "conv": {"encoder": "test_resnet"},  # strides 2..32, BatchNorm
    "norm_act": {"encoder": "test_efficientnet"},  # activations inside norms
    "dilated": {"encoder": "test_resnet", "output_stride": 16},  # two stages of one stride
    "from_stride_4": {"encoder": "test_convnext"},  # nothing at stride 2, no BatchNorm
    "fixed_size": {"encoder": "test_maxvit"},  # made for one image size
    "plain_vit": {"encoder": "test_vit"},  # one stride throughout
}
_WIDTHS = [16, 16, 12, 8, 8]
# Narrow decoders: what is tested does not depend on widths.
NARROW: dict[str, dict[str, Any]] = {
    "unet": {"decoder_channels": _WIDTHS},
    "unetplusplus": {"decoder_channels": _WIDTHS},
    "unet3plus": {"decoder_channels": 8},
    "unet2015": {"widths": [8, 12, 16]},
    "manet": {"decoder_channels": _WIDTHS, "attention_channels": 8},
    "linknet": {"last_channels": 8},
    "fpn": {"pyramid_channels": 16, "decoder_channels": 32},
    "pspnet": {"decoder_channels": 16},
    "pan": {"decoder_channels": 16},
    "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {"decoder_channels": 16, "low_level_channels": 8},
    "upernet": {"decoder_channels": 16},
    "segformer": {"decoder_channels": 16},
    "dpt": {"decoder_channels": 16, "intermediate_channels": [16, 16, 16, 16]},
    "fcn": {"decoder_channels": 16},
    "ocrnet": {"decoder_channels": 16, "key_channels": 8},
}
# Families that always have an auxiliary output, or can be asked for deep supervision.
SUPERVISED: dict[str, dict[str, Any]] = {
    "unetplusplus": {"deep_supervision": 0.5},
    "unet3plus": {"deep_supervision": 0.5},
    "ocrnet": {},
}
HELPED = {"auxiliary": {"stage": -1, "channels": 8}, "aux": {"weight": 0.1}}

CASES = [
    (kind, encoder) for kind in NETWORKS for encoder in (ENCODERS if kind != "unet2015" else {"conv": ENCODERS["conv"]})
]
"""Every family on every kind of encoder."""


def network(kind: str = "unet", encoder: str = "conv", **options: Any) -> Network:
    """A small network with equal weights each time, statistics set; `encoder` is a key of ENCODERS."""
    torch.manual_seed(0)
    on = {} if kind == "unet2015" else ENCODERS[encoder]
    made = create_model(kind, **{"bands": 4, "classes": 3, **on, **NARROW[kind], **options})
    made.set_statistics([100.0] * made.bands, [50.0] * made.bands)
    return made


def pixels(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Random raw pixels, the same each time."""
    return torch.randint(0, 200, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
