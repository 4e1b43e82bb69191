"""Decoders fit the stages of every encoder in the table of the package."""

from __future__ import annotations

import pytest
import torch

from bench.encoders import read
from pipeline.model.networks import NETWORKS
from pipeline.recipe import networks as recipe

FEWEST = 1300
SHAPES = sorted({(row["strides"], row["channels"]) for row in read() if row["verdict"] == "ok"})


class Stages(torch.nn.Module):
    """Features of the strides and channels of an encoder, on the meta device."""

    num_prefix_tokens = 0
    bands = 3

    def __init__(self, strides: str, channels: str) -> None:
        super().__init__()
        self.strides, self.channels = tuple(map(int, strides.split())), tuple(map(int, channels.split()))
        self.multiple = self.strides[-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        height, width = x.shape[-2:]
        return [
            x.new_empty(len(x), c, height // s, width // s) for s, c in zip(self.strides, self.channels, strict=True)
        ]


def test_most_of_timm_is_in_the_table():
    rows = read()
    assert len(rows) > FEWEST
    assert sum(row["verdict"] == "ok" for row in rows) >= FEWEST
    assert all(row["reason"] for row in rows if row["verdict"] != "ok")


@pytest.mark.slow
@pytest.mark.parametrize("section", [recipe.UNet(), recipe.UPerNet()], ids=lambda s: s.kind)
def test_unet_and_upernet_stand_on_every_encoder(section, monkeypatch):
    for strides, channels in SHAPES:
        with torch.device("meta"):
            monkeypatch.setattr(
                "pipeline.model.networks.encoder_of", lambda *_, s=strides, c=channels, **__: Stages(s, c)
            )
            made = NETWORKS[section.kind](section, 3, 5).eval()
            size = (2 * made.multiple - 1, 3 * made.multiple)
            assert tuple(made(torch.empty(1, 3, *size)).shape) == (1, 5, *size), (strides, channels)
