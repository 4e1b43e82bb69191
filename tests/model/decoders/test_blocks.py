"""What decoders are made of computes what the plain way computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.model.decoders.blocks import (
    LARGE_KERNEL,
    SCSE,
    ConcatConv,
    ConvBlock,
    JoinConv,
    climb,
    conv_block,
    doubling_kernel,
)
from pipeline.model.norms import SyncBatchNorm
from tests.model.decoders.against import close, move


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("skips", [(), (5,), (5, 1, 4)])
def test_join_equals_doubling_concatenation_and_convolution(interpolation, skips):
    torch.manual_seed(0)
    join = JoinConv(6, sum(skips), 7, bias=True, interpolation=interpolation).double()
    join.bias.data.normal_()
    maps = [torch.randn(2, 6, 5, 4, dtype=torch.double, requires_grad=True)]
    maps += [torch.randn(2, width, 10, 8, dtype=torch.double, requires_grad=True) for width in skips]
    larger = F.interpolate(maps[0], scale_factor=2, mode=interpolation)
    expected = F.conv2d(torch.cat([larger, *maps[1:]], 1), join.weight, join.bias, padding=1)
    out = join(*maps)
    close(out, expected, 1e-12)
    given = [*maps, join.weight, join.bias]
    for a, b in zip(
        torch.autograd.grad(out.square().sum(), given), torch.autograd.grad(expected.square().sum(), given), strict=True
    ):
        close(a, b, 1e-12)


def test_attention_sees_what_is_joined():
    torch.manual_seed(0)
    join, attention = JoinConv(6, 5, 7, bias=False), SCSE(11)
    x, skip = torch.randn(2, 6, 5, 4), torch.randn(2, 5, 10, 8)
    joined = torch.cat([x.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], 1)
    expected = F.conv2d(attention(joined), join.weight, padding=1)
    close(join(x, skip, attention=attention), expected, 1e-6)


def test_doubling_kernel_keeps_the_sum_of_the_taps_of_each_phase():
    weight = torch.randn(3, 2, 3, 3, dtype=torch.double)
    kernel = doubling_kernel(weight)
    assert tuple(kernel.shape) == (2, 3, 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            taps = kernel[:, :, row::2, column::2].sum((2, 3))
            close(taps.T, weight.sum((2, 3)), 1e-12)


def test_concatenation_is_a_sum():
    conv = ConcatConv(9, 4, 3, padding=2, dilation=2)
    maps = [torch.randn(2, width, 7, 6) for width in (2, 6, 1)]
    expected = F.conv2d(torch.cat(maps, 1), conv.weight, conv.bias, padding=2, dilation=2)
    close(conv(*maps), expected)


def blocks():
    yield conv_block(5, 6, "batch"), [torch.randn(2, 5, 8, 8)]
    biased = ConvBlock(nn.Conv2d(5, 6, 3, padding=2, dilation=2), nn.BatchNorm2d(6), nn.ELU(inplace=True))
    yield biased, [torch.randn(2, 5, 8, 8)]
    growing = nn.ConvTranspose2d(5, 6, 4, stride=2, padding=1)
    yield ConvBlock(growing, nn.BatchNorm2d(6), nn.ReLU(inplace=True)), [torch.randn(2, 5, 8, 8)]
    join = JoinConv(5, 3, 6, bias=False)
    yield ConvBlock(join, nn.BatchNorm2d(6), nn.ReLU()), [torch.randn(2, 5, 4, 4), torch.randn(2, 3, 8, 8)]
    yield ConvBlock(ConcatConv(5, 6, 1), nn.BatchNorm2d(6), nn.ReLU()), [torch.randn(2, n, 8, 8) for n in (2, 3)]
    yield ConvBlock(nn.Conv2d(5, 6, 1), SyncBatchNorm(nn.BatchNorm2d(6)), nn.ReLU()), [torch.randn(2, 5, 8, 8)]


def test_a_norm_within_the_kernel_changes_nothing():
    torch.manual_seed(0)
    for block, maps in blocks():
        move(block).eval()
        expected = block(*maps)
        block[1].forward = None  # a call would fail
        with torch.no_grad():
            close(block(*maps), expected)


def test_a_norm_stays_apart_where_it_learns_is_watched_or_is_small_beside_the_kernel():
    seen = []
    block, x = move(conv_block(5, 6, "batch")), torch.randn(2, 5, 8, 8)
    with torch.no_grad():
        expected = block[2](F.batch_norm(block[0](x), None, None, block[1].weight, block[1].bias, training=True))
        close(block.train()(x), expected)
        block.eval()[1].register_forward_hook(lambda *_: seen.append("norm"))
        block(x)
        assert seen == ["norm"]
        large = conv_block(256, 256, "batch").eval()
        assert large[0].weight.numel() > LARGE_KERNEL
        expected = large[2](large[1](large[0](torch.ones(1, 256, 2, 2))))
        assert torch.equal(large(torch.ones(1, 256, 2, 2)), expected)


@pytest.mark.parametrize("spend", [False, True])
def test_a_climb_leaves_the_features_unless_it_may_spend_them(spend):
    class Add(nn.Module):
        def forward(self, x, skip=None):
            alive.append(len(given))
            return x if skip is None else x + skip

    given = [torch.full((1,), float(n)) for n in (1, 10, 100)]
    alive = []
    out = climb(given, nn.Identity(), [Add(), Add(), Add()], [1, None, 0], spend)
    assert out.item() == 111
    assert alive == ([0, 0, 0] if spend else [3, 3, 3])
