"""Output strides: finer maps with the same weights, whose pixels at the old places keep their values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import RecipeError
from pipeline.model.encoders import dilation
from pipeline.model.encoders.encoder import Encoder

# By timm's own option, and by ours: max-pools of 2, of 3, average pools, convolutions that pad nothing.
TIMM, OURS = ["resnet18", "regnetx_002"], ["vgg11", "ghostnet_050", "hgnetv2_b0", "densenet121"]


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", TIMM + OURS)
def test_what_was_left_out_is_computed_in_between(name, stride):
    torch.manual_seed(0)
    held, plain = Encoder(name, output_stride=stride).eval(), Encoder(name).eval()
    plain.load_state_dict(held.state_dict())
    assert held.strides == tuple(min(s, stride) for s in plain.strides)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs, fine, coarse in zip(held(x), plain(x), held.strides, plain.strides, strict=True):
            step = coarse // fine
            assert ours.shape[-2:] == (64 // fine, 96 // fine)
            torch.testing.assert_close(ours[..., ::step, ::step], theirs, atol=1e-4, rtol=1e-4)


def test_a_pyramid_is_not_coarser_than_the_output_stride():
    assert Encoder("test_vit", output_stride=8).strides == (4, 8, 8, 8)


def test_an_output_stride_that_is_there_anyway_changes_nothing():
    assert Encoder("swin_tiny_patch4_window7_224", output_stride=32).strides == (4, 8, 16, 32)
    assert Encoder("swin_tiny_patch4_window7_224", output_stride=8, depth=2).strides == (4, 8)


def test_transformers_that_merge_patches_cannot_be_held():
    with pytest.raises(RecipeError, match=r"cannot be held at stride 16\n  -> it gives 32"):
        Encoder("test_maxvit", output_stride=16)


def test_keys_of_attention_stay_as_they_are():
    torch.manual_seed(0)
    held, plain = Encoder("pvt_v2_b0", output_stride=16).eval(), Encoder("pvt_v2_b0").eval()
    plain.load_state_dict(held.state_dict())
    x = torch.rand(1, 3, 64, 96)
    for ours, theirs in zip(held(x)[:3], plain(x)[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_models_without_padding_get_it():
    encoder = Encoder("legacy_xception", depth=2).eval()
    x = torch.rand(1, 3, 64, 96)
    features = encoder(x)
    assert [tuple(f.shape[-2:]) for f in features] == [(32, 48), (16, 24)]
    body = encoder.model.body
    # The same function of an image with a border of zeros.
    expected = body.act2(
        body.bn2(
            nn.functional.conv2d(
                nn.functional.pad(
                    body.act1(
                        body.bn1(nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1)), body.conv1.weight, stride=2))
                    ),
                    (1, 1, 1, 1),
                ),
                body.conv2.weight,
            )
        )
    )
    torch.testing.assert_close(features[0], expected)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2), nn.AvgPool2d(3, 2, 1)])
def test_held_pools_keep_the_values_at_the_old_places(pool):
    model = nn.Sequential(pool, nn.Conv2d(2, 2, 3, 2, 1))
    x = torch.rand(1, 2, 16, 16)
    expected = model(x)
    with torch.device("meta"):
        drawn = nn.Sequential(type(pool)(pool.kernel_size, pool.stride, pool.padding), nn.Conv2d(2, 2, 3, 2, 1))
    changes = dilation.held(drawn, torch.empty(1, 2, 16, 16, device="meta"), 1, frozenset())
    dilation.apply(model, changes)
    actual = model(x)
    assert actual.shape == (1, 2, 16, 16)
    inner = (..., slice(1, None), slice(1, None))  # an average at the edge counts no zeros of its own
    torch.testing.assert_close(actual[..., ::4, ::4][inner], expected[inner])
