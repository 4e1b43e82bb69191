"""U-Net 3+: every decoder stage sees every scale."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.decoders.unet3plus import UNet3PlusDecoder
from pipeline.recipe.networks import UNet3Plus
from tests.model.decoders.against import build, check_learns, check_sizes, close, features, move


def test_three_stages_as_the_paper_joins_them():
    """Huang et al. 2020, figure 2, with three stages instead of five."""
    strides = (2, 4, 16)
    maps = features(strides, batch=2)
    decoder = move(build(UNet3PlusDecoder, UNet3Plus(decoder_channels=4), maps, strides)).eval()
    e1, e2, e3 = maps
    d2, d1 = decoder.nodes

    def block(made, x):
        conv, norm, act = made
        return act(norm(F.conv2d(x, conv.weight, padding=1)))

    def larger(x, factor):
        return F.interpolate(x, scale_factor=factor, mode="bilinear")

    at2 = [F.max_pool2d(e1, 2), e2, larger(e3, 4)]
    x2 = block(d2.join, torch.cat([block(b, x) for b, x in zip(d2.branches, at2, strict=True)], 1))
    at1 = [e1, larger(x2, 2), larger(e3, 8)]
    x1 = block(d1.join, torch.cat([block(b, x) for b, x in zip(d1.branches, at1, strict=True)], 1))
    close(decoder(maps), x1)
    assert (decoder.channels, decoder.stride) == (12, 2)


def test_five_stages_of_the_paper_are_320_wide():
    decoder = UNet3PlusDecoder([64, 128, 256, 512, 1024], [1, 2, 4, 8, 16], UNet3Plus(), 3)
    assert (decoder.channels, decoder.stride) == (320, 1)
    assert [node.join[0].in_channels for node in decoder.nodes] == [320] * 4


def test_deep_supervision_gives_logits_of_each_deeper_stage():
    strides = (2, 4, 8)
    maps = features(strides)
    decoder = build(UNet3PlusDecoder, UNet3Plus(decoder_channels=4, deep_supervision=0.5), maps, strides).eval()
    x, auxiliary = decoder.forward_all(maps)
    assert decoder.auxiliary_weights == (0.25, 0.25)
    assert [tuple(a.shape[1:]) for a in auxiliary] == [(3, 4, 6), (3, 2, 3)]
    close(x, decoder(maps))
    with pytest.raises(RecipeError, match="a single stage"):
        build(UNet3PlusDecoder, UNet3Plus(deep_supervision=0.5), features((2,)), (2,))


def test_sizes():
    check_sizes(UNet3PlusDecoder, UNet3Plus(decoder_channels=3))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16, 32), (16,) * 4, (2,)])
def test_learns_from_one_small_image(strides):
    supervision = {"deep_supervision": 0.5} if len(strides) > 1 else {}
    check_learns(UNet3PlusDecoder, lambda norm: UNet3Plus(norm=norm, decoder_channels=4, **supervision), strides)
