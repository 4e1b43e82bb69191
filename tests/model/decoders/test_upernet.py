"""UPerNet: pyramid pooling on top of a feature pyramid."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.upernet import SMP_NAMES, UPerNetDecoder
from pipeline.recipe.networks import UPerNet
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 5), ("resnet18", 3), ("tu-convnext_atto", 5)])
@pytest.mark.parametrize("train", [False, True])
def test_compat_equals_smp(encoder, depth, train):
    section = UPerNet(compat="smp", decoder_channels=48)
    options = {"encoder": encoder, "encoder_depth": depth, "decoder_channels": 48}
    check_equals_smp(UPerNetDecoder, SMP_NAMES, section, "UPerNet", train=train, **options)


def test_compat_without_norm_equals_smp():
    section = UPerNet(compat="smp", decoder_channels=48, norm="none")
    check_equals_smp(UPerNetDecoder, SMP_NAMES, section, "UPerNet", decoder_channels=48, decoder_use_norm=False)


def test_default_equals_the_plain_way():
    strides = (2, 8, 16, 16)  # the first is not used, the last two have one size
    maps = features(strides, batch=2, cells=(4, 6))
    decoder = build(UPerNetDecoder, UPerNet(decoder_channels=10), maps, strides).train()
    _, low, middle, deep = maps
    conv, norm, act = decoder.pooling.join
    cells = [
        F.interpolate(block(F.adaptive_avg_pool2d(deep, b)), deep.shape[-2:], mode="bilinear")
        for b, block in zip((1, 2, 3, 6), decoder.pooling.blocks, strict=True)
    ]
    p3 = act(norm(F.conv2d(torch.cat([deep, *cells], 1), conv.weight, padding=1)))
    p2 = decoder.laterals[0](middle) + p3
    p1 = decoder.laterals[1](low) + F.interpolate(p2, scale_factor=2, mode="bilinear")
    levels = [decoder.smooths[1](p1), decoder.smooths[0](p2), p3]
    joined = torch.cat([F.interpolate(level, low.shape[-2:], mode="bilinear") for level in levels], 1)
    conv, norm, act = decoder.fuse
    close(decoder(maps), act(norm(F.conv2d(joined, conv.weight, padding=1))))


def test_sizes():
    check_sizes(UPerNetDecoder, UPerNet(decoder_channels=8))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (16,) * 4, (2,)])
def test_learns_from_one_small_image(strides):
    check_learns(UPerNetDecoder, lambda norm: UPerNet(norm=norm, decoder_channels=8, bins=[1, 6]), strides)
