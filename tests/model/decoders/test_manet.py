"""MA-Net: attention over positions at the deepest stage, over channels at each join."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.manet import SMP_NAMES, JoinBlock, MAnetDecoder, PositionAttention
from pipeline.recipe.networks import MAnet
from tests.model.decoders.against import check_equals_smp, check_learns, check_sizes, close

NAMES = (*SMP_NAMES, (r".*", r"\g<0>"))
WIDTHS = [12, 10, 8, 8, 6, 5]


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 5), ("resnet18", 1), ("tu-convnext_atto", 5)])
@pytest.mark.parametrize("train", [False, True])
def test_compat_equals_smp(encoder, depth, train):
    section = MAnet(compat="smp", decoder_channels=WIDTHS[:depth], attention_channels=8)
    options = {"encoder": encoder, "encoder_depth": depth, "decoder_channels": WIDTHS[:depth]}
    check_equals_smp(MAnetDecoder, NAMES, section, "MAnet", train=train, decoder_pab_channels=8, **options)


def test_compat_without_norm_and_bilinear_equals_smp():
    section = MAnet(compat="smp", decoder_channels=WIDTHS[:5], norm="none", interpolation="bilinear")
    options = {"decoder_use_norm": False, "decoder_interpolation": "bilinear"}
    check_equals_smp(MAnetDecoder, NAMES, section, "MAnet", decoder_channels=WIDTHS[:5], **options)


@pytest.mark.parametrize(("channels", "width"), [(24, 8), (20, 8), (4, 8)])
def test_each_pixel_weighs_all_pixels_by_their_likeness(channels, width):
    torch.manual_seed(0)
    attention, x = PositionAttention(channels, width, as_smp=False), torch.randn(2, channels, 3, 4)
    query, key, value = (c(x).flatten(2) for c in (attention.center_conv, attention.top_conv, attention.bottom_conv))
    seen = torch.empty_like(value)
    for n in range(2):
        for pixel in range(12):
            weights = ((query[n, :, pixel] @ key[n]) / width**0.5).softmax(0)
            assert weights.sum().item() == pytest.approx(1)
            seen[n, :, pixel] = value[n] @ weights
    close(attention(x), attention.out_conv(x + seen.view_as(x)))


def test_positions_do_not_matter_to_the_attention_itself():
    torch.manual_seed(0)
    attention = PositionAttention(16, 8, as_smp=False)
    attention.bottom_conv.weight.data[..., 0] = attention.bottom_conv.weight.data[..., 2] = 0
    attention.bottom_conv.weight.data[..., 0, :] = attention.bottom_conv.weight.data[..., 2, :] = 0
    attention.out_conv.weight.data.zero_()
    attention.out_conv.weight.data[..., 1, 1] = torch.eye(16)
    x = torch.randn(1, 16, 4, 4)
    moved = torch.randperm(16)
    out = attention(x).flatten(2)[..., moved]
    close(attention(x.flatten(2)[..., moved].view_as(x)).flatten(2), out)
    attention.as_smp = True  # which writes pixels where channels belong
    assert (
        attention(x.flatten(2)[..., moved].view_as(x)).flatten(2) - attention(x).flatten(2)[..., moved]
    ).abs().max() > 0.01


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_channels_may_be_weighed_before_the_size_is_doubled(interpolation):
    torch.manual_seed(0)
    block = JoinBlock(12, 8, 6, MAnet(interpolation=interpolation)).eval()
    x, skip = torch.randn(2, 12, 4, 5), torch.randn(2, 8, 8, 10)
    larger = F.interpolate(block.reduce(x), scale_factor=2, mode=interpolation)
    joined = torch.cat([larger * (block.gate_map(larger) + block.gate_skip(skip)), skip], 1)
    conv, norm, act = block.conv1
    close(block(x, skip), block.conv2(act(norm(F.conv2d(joined, conv.weight, padding=1)))))


def test_sizes():
    check_sizes(MAnetDecoder, MAnet(decoder_channels=WIDTHS, attention_channels=4))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16, 32), (16,) * 4, (2,)])
@pytest.mark.parametrize("compat", [None, "smp"])
def test_learns_from_one_small_image(strides, compat):
    check_learns(
        MAnetDecoder,
        lambda norm: MAnet(norm=norm, decoder_channels=WIDTHS, attention_channels=4, activation="silu", compat=compat),
        strides,
    )
