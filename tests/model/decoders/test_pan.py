"""PAN: an attention that halves small maps three times."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.decoders.pan import SMP_NAMES, Attention, PANDecoder
from pipeline.recipe.networks import PAN
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, features


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("resnet18", {}),
        ("resnet18", {"encoder_depth": 3}),
        ("resnet18", {"encoder_output_stride": 32}),
        ("tu-convnext_atto", {}),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_compat_equals_smp(encoder, options, train):
    size = (256, 288) if "encoder_output_stride" in options else (160, 128)  # 10×8: halved to 5, 2 and 1
    check_equals_smp(
        PANDecoder, SMP_NAMES, PAN(compat="smp"), "PAN", encoder=encoder, size=size, train=train, **options
    )


def test_compat_enlarges_like_smp():
    section = PAN(compat="smp", interpolation="nearest", decoder_channels=8)
    options = {"decoder_interpolation": "nearest", "decoder_channels": 8}
    check_equals_smp(PANDecoder, SMP_NAMES, section, "PAN", size=(128, 128), **options)


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (7, 5), (2, 40)])
def test_small_maps_survive(size):
    attention = Attention(6, PAN(decoder_channels=4)).eval()
    out = attention(torch.randn(2, 6, *size))
    assert tuple(out.shape) == (2, 4, *size)
    assert out.isfinite().all()


def test_the_attention_counts_where_it_is_alive():
    """Even on a map of 2×2 it passes something of its pyramid on."""
    torch.manual_seed(0)
    attention = Attention(6, PAN(decoder_channels=4)).eval()
    x = torch.randn(1, 6, 2, 2)
    before = attention(x)
    attention.conv1[1].bias.data.add_(1.0)
    assert not torch.allclose(attention(x), before)


def test_sizes():
    check_sizes(PANDecoder, PAN(decoder_channels=8))
    check_sizes(PANDecoder, PAN(decoder_channels=8, interpolation="nearest"))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 16), (16,) * 4, (32,)])
def test_learns_from_one_small_image(strides):
    check_learns(PANDecoder, lambda norm: PAN(norm=norm, decoder_channels=8), strides)


def test_only_stages_from_stride_4_on_are_used():
    strides = (1, 2, 4, 8)
    decoder = build(PANDecoder, PAN(), features(strides), strides)
    assert (decoder.joins, decoder.deepest, decoder.stride) == ([2], 3, 4)
