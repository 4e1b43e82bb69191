"""LinkNet: narrow transposed convolutions, skips are added."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.decoders.linknet import SMP_NAMES, LinkNetBlock, LinkNetDecoder
from pipeline.recipe.networks import LinkNet
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 5), ("resnet18", 1), ("tu-convnext_atto", 5)])
@pytest.mark.parametrize("train", [False, True])
def test_equals_smp(encoder, depth, train):
    options = {"encoder": encoder, "encoder_depth": depth}
    check_equals_smp(LinkNetDecoder, SMP_NAMES, LinkNet(), "Linknet", train=train, **options)


def test_without_norm_equals_smp():
    check_equals_smp(LinkNetDecoder, SMP_NAMES, LinkNet(norm="none"), "Linknet", decoder_use_norm=False)


def test_skips_are_added_and_stay_as_they_were():
    torch.manual_seed(0)
    block = LinkNetBlock(12, 8, LinkNet()).eval()
    x, skip = torch.randn(1, 12, 3, 4), torch.randn(1, 8, 6, 8)
    before = skip.clone()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            close(block(x, skip), block(x) + skip)
            assert torch.equal(skip, before)


def test_a_stage_of_the_size_of_the_input_is_passed_by():
    maps = features((1, 2, 4))
    made = build(LinkNetDecoder, LinkNet(last_channels=5), maps, (1, 2, 4)).eval()
    assert tuple(made(maps).shape) == (1, 5, 8, 12)


def test_sizes():
    check_sizes(LinkNetDecoder, LinkNet(last_channels=5))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16, 32), (16,) * 4, (2,)])
def test_learns_from_one_small_image(strides):
    check_learns(LinkNetDecoder, lambda norm: LinkNet(norm=norm, last_channels=5, activation="hardswish"), strides)
