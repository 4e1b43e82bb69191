"""FPN: a pyramid of four stages, each enlarged to the shallowest of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.fpn import SMP_NAMES, FPNDecoder
from pipeline.recipe.networks import FPN
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features, move


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto"])
@pytest.mark.parametrize("merge", ["add", "cat"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_compat_equals_smp(encoder, merge, interpolation):
    section = FPN(compat="smp", pyramid_channels=24, decoder_channels=32, merge=merge, interpolation=interpolation)
    options = {"decoder_pyramid_channels": 24, "decoder_segmentation_channels": 32, "decoder_merge_policy": merge}
    options |= {"encoder": encoder, "decoder_interpolation": interpolation}
    check_equals_smp(FPNDecoder, SMP_NAMES, section, "FPN", train=True, **options)


def plainly(decoder, maps, strides, *, cat):
    """As the papers say it."""
    pyramid, joined = None, []
    for number, (branch, stride) in enumerate(zip(decoder.branches, strides[:-5:-1], strict=True)):
        lateral = decoder.laterals[number](maps[-1 - number])
        pyramid = lateral if pyramid is None else lateral + F.interpolate(pyramid, lateral.shape[-2:])
        x = pyramid
        for block in branch:
            conv, norm, act = block
            x = act(norm(F.conv2d(x, conv.weight, conv.bias, padding=1)))
            if stride > decoder.stride:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
                stride //= 2
        joined.append(x)
    return torch.cat(joined, 1) if cat else sum(joined)


@pytest.mark.parametrize("merge", ["add", "cat"])
@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 8, 16), (2, 8, 32), (16,) * 4, (8,)])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_default_equals_the_plain_way(strides, merge, norm):
    maps = features(strides, batch=2)
    section = FPN(pyramid_channels=12, decoder_channels=32, merge=merge, norm=norm)
    decoder = move(build(FPNDecoder, section, maps, strides)).double()
    maps = [m.double() for m in maps]
    close(decoder(maps), plainly(decoder, maps, strides, cat=merge == "cat"))


def test_the_largest_map_is_made_only_where_that_is_cheaper():
    assert FPNDecoder([64, 64, 128, 256, 512], [2, 4, 8, 16, 32], FPN(), 3).composed
    assert not FPNDecoder([64, 256, 512, 1024, 2048], [2, 4, 8, 16, 32], FPN(), 3).composed
    assert not FPNDecoder([64, 128], [8, 8], FPN(), 3).composed
    assert not FPNDecoder([64], [8], FPN(), 3).composed
    assert not FPNDecoder([64, 128], [4, 8], FPN(interpolation="bilinear"), 3).composed


def test_sizes():
    for merge in ("add", "cat"):
        check_sizes(FPNDecoder, FPN(pyramid_channels=12, decoder_channels=16, merge=merge))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (2, 8, 32), (16,) * 4, (2,)])
@pytest.mark.parametrize("merge", ["add", "cat"])
def test_learns_from_one_small_image(strides, merge):
    section = {"pyramid_channels": 12, "decoder_channels": 16, "merge": merge, "activation": "relu"}
    check_learns(FPNDecoder, lambda norm: FPN(norm=norm, **section), strides)
