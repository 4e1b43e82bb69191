"""U-Net++: skips are dense nests of blocks."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from pipeline.errors import RecipeError
from pipeline.model.decoders.unetplusplus import SMP_NAMES, NestedNode, UNetPlusPlusDecoder, last_readings, nest
from pipeline.recipe.networks import UNetPlusPlus
from tests.model.decoders.against import build, check_equals_smp, check_learns, check_sizes, close, features

NAMES = (*SMP_NAMES, (r".*", r"\g<0>"))
WIDTHS = [12, 10, 8, 8, 6, 5]


@pytest.mark.parametrize("depth", [5, 2])
@pytest.mark.parametrize("train", [False, True])
def test_equals_smp(depth, train):
    options = {"encoder_depth": depth, "decoder_channels": WIDTHS[:depth]}
    section = UNetPlusPlus(decoder_channels=WIDTHS[:depth])
    check_equals_smp(UNetPlusPlusDecoder, NAMES, section, "UnetPlusPlus", train=train, **options)


def test_without_a_stage_at_stride_2_equals_smp():
    section = UNetPlusPlus(decoder_channels=WIDTHS[:5], interpolation="bilinear")
    options = {"encoder": "tu-convnext_atto", "decoder_channels": WIDTHS[:5], "decoder_interpolation": "bilinear"}
    check_equals_smp(UNetPlusPlusDecoder, NAMES, section, "UnetPlusPlus", **options)


def test_smp_makes_a_center_and_passes_it_by():
    theirs = smp.UnetPlusPlus("vgg11", encoder_weights=None, decoder_channels=WIDTHS[:5]).eval()
    image = torch.randn(1, 3, 32, 32)
    before = theirs(image)
    for parameter in theirs.decoder.center.parameters():
        parameter.data.normal_()
    assert torch.equal(theirs(image), before)
    maps = features((2, 4))
    section = {"decoder_channels": WIDTHS, "center": True}
    assert not list(build(UNetPlusPlusDecoder, UNetPlusPlus(**section, compat="smp"), maps, (2, 4)).center.parameters())
    assert list(build(UNetPlusPlusDecoder, UNetPlusPlus(**section), maps, (2, 4)).center.parameters())


def test_the_nest_of_the_paper():
    """Zhou et al. 2018, figure 1: every block sees all before it in its row, and the one below."""
    nodes = {node.name: node for node in nest((2, 4, 8, 16))}
    assert list(nodes) == ["x_0_0", "x_1_1", "x_0_1", "x_2_2", "x_1_2", "x_0_2", "x_0_3"]
    assert nodes["x_2_2"] == NestedNode("x_2_2", 1, 2, (0,))
    assert nodes["x_1_2"] == NestedNode("x_1_2", "x_1_1", 2, ("x_2_2", 0))
    assert nodes["x_0_2"] == NestedNode("x_0_2", "x_0_1", 2, ("x_1_2", "x_2_2", 0))
    assert nodes["x_0_3"] == NestedNode("x_0_3", "x_0_2", 2, ())


def test_a_nest_over_a_gap_and_one_of_nothing():
    assert nest((1,)) == []
    nodes = {node.name: node for node in nest((2, 8, 16))}
    assert nodes["x_1_2"] == NestedNode("x_1_2", 1, 4, (0,))  # from stride 8 to stride 2
    assert nodes["x_0_2"] == NestedNode("x_0_2", "x_0_1", 2, ("x_1_2", 0))


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16, 32), (2, 8, 16), (16,) * 4])
def test_every_map_is_dropped_once_and_after_its_last_reader(strides):
    nodes = nest(strides)
    dropped: set[str | int] = set()
    for node, done in zip(nodes, last_readings(nodes), strict=True):
        assert not dropped & {node.below, *node.joined}
        dropped |= set(done)
    assert dropped == {key for node in nodes for key in (node.below, *node.joined)}


def test_sizes():
    check_sizes(UNetPlusPlusDecoder, UNetPlusPlus(decoder_channels=WIDTHS))
    maps = features((2, 8, 32))
    made = build(UNetPlusPlusDecoder, UNetPlusPlus(decoder_channels=WIDTHS), maps, (2, 8, 32)).eval()
    assert tuple(made(maps).shape) == (1, 6, 64, 96)


@pytest.mark.parametrize("strides", [(2, 4, 8, 16), (4, 8, 16, 32), (2, 8, 16), (1, 2, 4), (2,)])
def test_learns_from_one_small_image(strides):
    more = {"deep_supervision": 0.5} if len(strides) > 1 else {}
    for extra in ({}, {**more, "attention": "scse", "center": True, "activation": "gelu"}):
        check_learns(
            UNetPlusPlusDecoder,
            lambda norm, extra=extra: UNetPlusPlus(norm=norm, decoder_channels=WIDTHS, **extra),
            strides,
        )


def test_deep_supervision_shares_its_weight_and_changes_nothing_else():
    strides = (2, 4, 8, 16)
    maps = features(strides)
    made = build(UNetPlusPlusDecoder, UNetPlusPlus(decoder_channels=WIDTHS, deep_supervision=0.6), maps, strides).eval()
    assert made.auxiliary_weights == pytest.approx((0.2, 0.2, 0.2))
    assert made.supervised == ["x_2_2", "x_1_2", "x_0_2"]  # the paper's X^0,1 to X^0,3
    x, auxiliary = made.forward_all(maps)
    close(x, made(maps))
    assert [tuple(a.shape) for a in auxiliary] == [(1, 3, 16, 24)] * 3
    # The first sees nothing but the two shallowest stages.
    others = made.forward_all([*maps[:2], *(m + 1 for m in maps[2:])])[1]
    assert torch.equal(others[0], auxiliary[0])
    assert not torch.equal(others[1], auxiliary[1])


def test_deep_supervision_of_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"deep_supervision: there is no block.*\n.*use more stages"):
        build(UNetPlusPlusDecoder, UNetPlusPlus(decoder_channels=WIDTHS, deep_supervision=1), features((2,)), (2,))


def test_spends_features_only_when_told():
    given = features((2, 4, 8))
    made = build(UNetPlusPlusDecoder, UNetPlusPlus(decoder_channels=WIDTHS), given, (2, 4, 8)).eval()
    expected = made(given)
    assert len(given) == 3
    assert torch.equal(made(given, spend=True), expected)
    assert given == []
