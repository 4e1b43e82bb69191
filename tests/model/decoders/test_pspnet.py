"""PSPNet: pyramid pooling without enlarged maps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.pooling import averages, bilinear, grids
from pipeline.model.decoders.pspnet import SMP_NAMES, PSPNetDecoder
from pipeline.recipe.networks import PSPNet
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 3), ("resnet18", 5), ("tu-convnext_atto", 4)])
@pytest.mark.parametrize("train", [False, True])
def test_compat_equals_smp(encoder, depth, train):
    check_equals_smp(
        PSPNetDecoder, SMP_NAMES, PSPNet(compat="smp"), "PSPNet", encoder=encoder, encoder_depth=depth, train=train
    )


def test_compat_without_norm_equals_smp():
    section = PSPNet(compat="smp", norm="none", decoder_channels=64)
    check_equals_smp(PSPNetDecoder, SMP_NAMES, section, "PSPNet", decoder_use_norm=False, psp_out_channels=64)


@pytest.mark.parametrize("bins", [[1, 2, 3, 6], [4], [5, 1]])
def test_default_equals_the_plain_way(bins):
    maps = features((8,), batch=2, cells=(5, 7))
    decoder = build(PSPNetDecoder, PSPNet(bins=bins, decoder_channels=10), maps, (8,)).train()
    (x,) = maps
    conv, norm, act = decoder.pooling.join
    joined = [
        F.interpolate(block(F.adaptive_avg_pool2d(x, b)), x.shape[-2:], mode="bilinear")
        for b, block in zip(bins, decoder.pooling.blocks, strict=True)
    ]
    expected = act(norm(F.conv2d(torch.cat([*joined, x], 1), conv.weight)))
    close(decoder(maps), expected)
    laid = decoder.to(memory_format=torch.channels_last)([x.contiguous(memory_format=torch.channels_last)])
    assert laid.is_contiguous(memory_format=torch.channels_last)
    close(laid, expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (7, 13), (64, 48)])
def test_grids_are_adaptive_pooling(size):
    x, bins = torch.randn(2, 3, *size), [1, 2, 3, 6]
    for b, cells in zip(bins, grids(x, bins), strict=True):
        torch.testing.assert_close(cells, F.adaptive_avg_pool2d(x, b))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_matrices_are_interpolation(size, align_corners):
    for cells in (1, 2, 3, 6):
        x = torch.randn(1, 4, cells)
        expected = F.interpolate(x, size, mode="linear", align_corners=align_corners)
        torch.testing.assert_close(x @ bilinear(cells, size, x, align_corners=align_corners), expected)
        torch.testing.assert_close(averages(size, cells, x).sum(1), torch.ones(cells))


def test_sizes():
    check_sizes(PSPNetDecoder, PSPNet(decoder_channels=8))


def test_learns_from_one_small_image():
    check_learns(PSPNetDecoder, lambda norm: PSPNet(norm=norm, decoder_channels=8), (2, 4, 8))
