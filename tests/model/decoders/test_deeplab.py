"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.deeplab import V3, V3_SMP_NAMES, V3PLUS_SMP_NAMES, V3Plus
from pipeline.recipe.networks import DeepLabV3, DeepLabV3Plus
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features

SMALL = {"decoder_channels": 24}
KINDS = {"DeepLabV3": (V3, V3_SMP_NAMES, DeepLabV3), "DeepLabV3Plus": (V3Plus, V3PLUS_SMP_NAMES, DeepLabV3Plus)}


@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_compat_equals_smp(kind, train, depth):
    decoder, names, section = KINDS[kind]
    options = {"encoder_depth": depth, "train": train, **SMALL}
    check_equals_smp(decoder, names, section(compat="smp", **SMALL), kind, **options)


@pytest.mark.parametrize(("kind", "separable"), [("DeepLabV3", True), ("DeepLabV3Plus", False)])
def test_the_other_kind_of_convolution_equals_smp(kind, separable):
    decoder, names, section = KINDS[kind]
    ours = section(compat="smp", separable=separable, rates=[2, 3, 4], **SMALL)
    options = {"decoder_aspp_separable": separable, "decoder_atrous_rates": (2, 3, 4), **SMALL}
    check_equals_smp(decoder, names, ours, kind, encoder_output_stride=8, **options)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_default_equals_the_plain_way(norm):
    strides = (4, 8, 16)
    maps = features(strides, batch=2, cells=(4, 6))
    section = DeepLabV3Plus(norm=norm, rates=[2, 5], branch_dropout=0, low_level_channels=5, decoder_channels=10)
    decoder = build(V3Plus, section, maps, strides).train()
    aspp, deep = decoder.aspp, maps[-1]
    mean = aspp.pool(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[-2:])
    conv, layer, act = aspp.project
    x = act(layer(F.conv2d(torch.cat([*(c(deep) for c in aspp.convs), mean], 1), conv.weight, conv.bias)))
    x = F.interpolate(decoder.smooth(x), scale_factor=4, mode="bilinear")
    x = torch.cat([x, decoder.low(maps[0])], 1)
    (alone, over), layer, act = decoder.fuse
    x = F.conv2d(F.conv2d(x, alone.weight, padding=1, groups=15), over.weight, over.bias)
    close(decoder(maps), act(layer(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind):
    decoder, _, section = KINDS[kind]
    check_sizes(decoder, section(**SMALL))


@pytest.mark.parametrize(
    ("strides", "join"),
    [((2, 4, 8, 16), 1), ((8, 16, 32), 0), ((2, 4), 0), ((2, 2, 4), 1), ((16,) * 4, 0), ((4,), None)],
)
def test_which_stage_refines(strides, join):
    assert build(V3Plus, DeepLabV3Plus(**SMALL), features(strides), strides).join == join


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("separable", [False, True])
def test_learns_from_one_small_image(kind, separable):
    decoder, _, section = KINDS[kind]
    check_learns(decoder, lambda norm: section(norm=norm, separable=separable, rates=[2], **SMALL), (2, 4, 8, 16))
