"""Towers as pyramids, and as the blocks that they are."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pipeline.model.encoders.encoder import Encoder
from pipeline.model.encoders.pyramid import Pyramid, levels


def test_levels_double_in_size_and_halve_in_width():
    made = levels([(64, 16)] * 4, 4, None)
    assert [(level.tap, level.stride, level.channels) for level in made] == [
        (0, 4, 16),
        (1, 8, 32),
        (2, 16, 64),
        (3, 32, 64),
    ]


def test_few_taps_feed_several_levels():
    assert [level.tap for level in levels([(8, 8), (8, 16)], 4, None)] == [0, 0, 1, 1]


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "layer", "none"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_stride_gives_the_same_sizes_and_every_weight_learns(stride, norm):
    made = levels([(32, stride)] * 4, 4, None)
    pyramid = Pyramid(made, norm)
    outputs = pyramid([torch.rand(1, 32, 128 // stride, 64 // stride) for _ in range(4)])
    assert [tuple(f.shape) for f in outputs] == [(1, x.channels, 128 // x.stride, 64 // x.stride) for x in made]
    sum(f.square().mean() for f in outputs).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


@pytest.mark.parametrize(("name", "size"), [("test_vit", 64), ("vit_tiny_patch16_224", 96)])
def test_flat_gives_the_blocks_of_timm(name, size):
    encoder = Encoder(name, flat=True).eval()
    model = timm.create_model(name, dynamic_img_size=True).eval()
    model.load_state_dict(encoder.model.model.state_dict(), strict=False)
    count = len(model.blocks)
    indices = [count * (i + 1) // 4 - 1 for i in range(4)]
    x = torch.rand(2, 3, size, 64)
    expected = model.forward_intermediates(x, indices=indices, intermediates_only=True, return_prefix_tokens=True)
    features, tokens = encoder.forward_tokens(x)
    assert encoder.strides == (16,) * 4 and encoder.num_prefix_tokens == model.num_prefix_tokens > 0
    for ours, token, plain, (theirs, prefix) in zip(features, tokens, encoder(x), expected, strict=True):
        assert torch.equal(ours, theirs) and torch.equal(ours, plain) and torch.equal(token, prefix)


def test_patches_of_14_pixels_see_the_image_at_seven_eighths():
    encoder = Encoder("vit_small_patch14_dinov2", flat=True, depth=1).eval()
    x = torch.rand(1, 3, 64, 96)
    shrunk = nn.functional.interpolate(x, (56, 84), mode="bilinear")
    (ours,) = encoder(x)
    (theirs,) = encoder.model(shrunk)
    assert ours.shape[-2:] == (4, 6) and torch.equal(ours, theirs)


def test_towers_without_prefix_tokens_say_so():
    encoder = Encoder("mixer_s32_224", flat=True, depth=1)
    features, tokens = encoder.forward_tokens(torch.rand(1, 3, 64, 64))
    assert tokens is None and encoder.num_prefix_tokens == 0 and features[0].shape[-2:] == (2, 2)


def test_a_hierarchical_model_ignores_flat():
    assert Encoder("resnet10t", flat=True).strides == (2, 4, 8, 16, 32)
