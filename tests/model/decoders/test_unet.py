"""U-Net: the stages of any encoder, from the deepest back to the size of the input."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from pipeline.errors import RecipeError
from pipeline.model.decoders.unet import SMP_NAMES, UNetDecoder
from pipeline.recipe.networks import UNet
from tests.model.decoders.against import (
    build,
    check_equals_smp,
    check_learns,
    check_sizes,
    close,
    features,
    move,
    renamed,
)

NAMES = (*SMP_NAMES, (r".*", r"\g<0>"))
WIDTHS = [12, 10, 8, 8, 6, 5]


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 5), ("resnet18", 1), ("tu-convnext_atto", 4)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_equals_smp(encoder, depth, interpolation):
    widths = WIDTHS[:depth] if encoder == "resnet18" else WIDTHS[:5]
    section = UNet(decoder_channels=widths, interpolation=interpolation)
    options = {"decoder_channels": widths, "encoder_depth": len(widths), "decoder_interpolation": interpolation}
    for train in (False, True):
        check_equals_smp(UNetDecoder, NAMES, section, "Unet", encoder=encoder, train=train, **options)


def test_without_norm_equals_smp():
    section = UNet(decoder_channels=WIDTHS[:5], norm="none")
    check_equals_smp(UNetDecoder, NAMES, section, "Unet", decoder_channels=WIDTHS[:5], decoder_use_norm=False)


def test_with_a_center_equals_smp():
    torch.manual_seed(0)
    theirs = smp.Unet("vgg11", encoder_weights=None, decoder_channels=WIDTHS[:5]).eval()
    move(theirs.decoder)
    maps = theirs.encoder(torch.randn(1, 3, 64, 64))
    # SMP takes the size of the input from its first feature; a U-Net joins nothing there.
    section = UNet(decoder_channels=WIDTHS[:5], center=True)
    ours = UNetDecoder([m.shape[1] for m in maps[1:]], [2, 4, 8, 16, 32], section, 3).eval()
    ours.load_state_dict(renamed(theirs.decoder.state_dict(), NAMES))
    close(ours(maps[1:]), theirs.decoder(maps))


def test_attention_equals_smp_and_is_not_made_where_nothing_would_use_it():
    torch.manual_seed(0)
    widths = [32, 24, 20, 18, 16]  # SMP's attention is empty below 16 channels
    options = {"encoder_weights": None, "decoder_channels": widths, "decoder_attention_type": "scse"}
    theirs = smp.Unet("resnet18", **options).eval()
    move(theirs.decoder)
    maps = theirs.encoder(torch.randn(1, 3, 64, 64))
    section = UNet(decoder_channels=widths, attention="scse")
    ours = UNetDecoder([m.shape[1] for m in maps[1:]], [2, 4, 8, 16, 32], section, 3).eval()
    lost = ours.load_state_dict(renamed(theirs.decoder.state_dict(), NAMES), strict=False)
    assert lost.missing_keys == []
    assert {key.rpartition("attention1")[0] for key in lost.unexpected_keys} == {"blocks.4."}
    close(ours(maps[1:]), theirs.decoder(maps))


def test_sizes():
    check_sizes(UNetDecoder, UNet(decoder_channels=WIDTHS))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16, 32), (16,) * 4, (2,), (1, 2, 4)])
@pytest.mark.parametrize("more", [{}, {"attention": "scse", "center": True, "activation": "prelu"}])
def test_learns_from_one_small_image(strides, more):
    check_learns(UNetDecoder, lambda norm: UNet(norm=norm, decoder_channels=WIDTHS, **more), strides)


def test_spends_features_only_when_told():
    strides = (2, 4, 8)
    given = features(strides)
    made = build(UNetDecoder, UNet(decoder_channels=WIDTHS), given, strides).eval()
    kept = list(given)
    expected = made(given)
    assert all(a is b for a, b in zip(given, kept, strict=True))
    assert torch.equal(made(given, spend=True), expected)
    assert given == []


def test_too_few_widths_are_refused():
    with pytest.raises(RecipeError, match="2 widths, but this encoder halves the size 3 times"):
        UNetDecoder([8, 8, 8], [2, 4, 8], UNet(decoder_channels=[8, 8]), 3)
