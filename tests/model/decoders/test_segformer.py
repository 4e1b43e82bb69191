"""SegFormer: two linear layers in one, at the size of each stage."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.segformer import SMP_NAMES, SegFormerDecoder
from pipeline.recipe.networks import SegFormer
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 5), ("resnet18", 3), ("tu-convnext_atto", 5)])
@pytest.mark.parametrize("train", [False, True])
def test_compat_equals_smp(encoder, depth, train):
    section = SegFormer(compat="smp", decoder_channels=48)
    options = {"encoder": encoder, "encoder_depth": depth, "decoder_segmentation_channels": 48}
    check_equals_smp(SegFormerDecoder, SMP_NAMES, section, "Segformer", train=train, **options)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_default_equals_the_plain_way(norm):
    strides = (2, 4, 8, 8)  # the first is not used
    maps = features(strides, batch=2, cells=(3, 5))
    decoder = build(SegFormerDecoder, SegFormer(decoder_channels=10, norm=norm), maps, strides).train()
    size = maps[1].shape[-2:]
    levels = [
        F.interpolate(linear(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size, mode="bilinear")
        for m, linear in zip(maps[:0:-1], decoder.linears, strict=True)
    ]
    conv, layer, act = decoder.fuse
    close(decoder(maps), act(layer(F.conv2d(torch.cat(levels, 1), conv.weight, conv.bias))))


def test_sizes():
    check_sizes(SegFormerDecoder, SegFormer(decoder_channels=8))
    check_sizes(SegFormerDecoder, SegFormer(decoder_channels=8, compat="smp"))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (16,) * 4])
def test_learns_from_one_small_image(strides):
    check_learns(SegFormerDecoder, lambda norm: SegFormer(norm=norm, decoder_channels=8), strides)
