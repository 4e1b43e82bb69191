"""What every kind of timm model becomes, found out without weights: a sample here, all of them in `make test-slow`."""

from __future__ import annotations

import pytest
import timm
import torch

from bench import encoders as table
from pipeline.errors import RecipeError
from pipeline.model.encoders import feature_plan
from pipeline.model.encoders.feature_plan import Request

FLAT, WHOLE = (4, 8, 16, 32), (2, 4, 8, 16, 32)
# Name -> strides, one image size or None, multiple: one model of each kind that needs something of its own.
SAMPLE = {
    "resnet18": (WHOLE, None, 32),
    "test_efficientnet": (WHOLE, None, 32),
    "convnext_atto": (FLAT, None, 32),
    "test_nfnet": (WHOLE, None, 32),
    "vgg11": ((1, *WHOLE), None, 32),
    "hrnet_w18_small": (WHOLE, None, 32),
    "tresnet_m": (FLAT, None, 32),  # has no output at stride 2
    "selecsls42b": (WHOLE, None, 32),  # has a sixth stage, at 64
    "swin_tiny_patch4_window7_224": (FLAT, None, 32),
    "pvt_v2_b0": (FLAT, None, 32),
    "mobilevitv2_050": (WHOLE, None, 64),  # pairs of pixels at stride 32
    "halonet26t": (WHOLE, None, 256),  # windows of 8 pixels at stride 32
    "test_maxvit": (WHOLE, None, 160),  # windows of 5 pixels at stride 32
    "legacy_xception": (WHOLE, None, 32),  # no padding
    "levit_128s": ((16, 32, 64), (224, 224), 64),
    "pit_ti_224": ((8, 16, 32), (224, 224), 32),  # strides 7, 14, 28
    "nest_tiny": ((4, 8, 16), (224, 224), 16),
    "coat_lite_tiny": (FLAT, (224, 224), 32),
    "test_vit": (FLAT, None, 32),
    "vit_small_patch14_dinov2": (FLAT, None, 32),
    "vit_base_patch32_224": (FLAT, None, 32),
    "vit_small_patch8_224": (FLAT, None, 32),
    "mixer_s32_224": (FLAT, (224, 224), 32),
    "convmixer_768_32": (FLAT, None, 32),  # stride 7
    "volo_d1_224": (FLAT, (224, 224), 32),  # blocks at 8 and 16
    "crossvit_9_240": (FLAT, (240, 240), 32),  # strides 12 and 17
}


@pytest.mark.parametrize("name", SAMPLE)
def test_models_of_every_kind_give_powers_of_two(name):
    found = feature_plan.plan(Request(name))
    assert (found.strides, found.size, found.multiple) == SAMPLE[name]
    assert len(found.channels) == len(found.strides) and min(found.channels) > 0 < found.parameters


def test_patches_of_14_pixels_lie_16_apart():
    found = feature_plan.plan(Request("vit_small_patch14_dinov2"))
    assert found.scale == (7, 8) and [tap.stride for tap in found.taps] == [16] * 4
    assert [tap.index for tap in found.taps] == [2, 5, 8, 11]


def test_a_tower_with_fewer_blocks_than_levels_feeds_some_twice():
    found = feature_plan.plan(Request("crossvit_9_240", depth=3))
    assert [level.tap for level in found.levels] == [0, 1, 2]
    assert feature_plan.plan(Request("test_vit", depth=1)).strides == (4,)


def test_depth_takes_the_shallowest():
    assert feature_plan.plan(Request("vgg11", depth=3)).strides == (1, 2, 4)
    assert feature_plan.plan(Request("test_vit", depth=2)).strides == (4, 8)
    assert feature_plan.plan(Request("test_vit", depth=5, flat=True)).strides == (16,) * 5
    assert feature_plan.plan(Request("selecsls42b", depth=6)).strides == (*WHOLE, 64)
    shallow = feature_plan.plan(Request("hrnet_w18_small", depth=1))
    assert (shallow.strides, shallow.multiple) == ((2,), 32)  # its coarser branches are computed all the same


def test_image_size_builds_models_of_one_size_for_it():
    found = feature_plan.plan(Request("beit_base_patch16_224", image_size=(96, 128)))
    assert found.size == (96, 128) and found.options["img_size"] == (96, 128)
    assert feature_plan.plan(Request("resnet18", image_size=(96, 128))).size is None
    windows = feature_plan.plan(Request("test_maxvit", image_size=(64, 64)))
    assert (windows.size, windows.multiple) == (None, 64)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("resnet3"), "timm has no model 'resnet3'\n  -> did you mean resnet34"),
        (Request("hf-hub:timm/resnet18"), "timm has no model"),
        (Request("resnet18.nonsense"), "resnet18 has no weights 'nonsense'\n  -> it has a1_in1k"),
        (Request("resnet18", depth=6), "resnet18 has 5 stages, not 6\n  -> use 1 to 5"),
        (Request("resnet18", depth=0), "model.depth: 0"),
        (Request("test_vit", depth=5), "test_vit has 4 stages, not 5\n  -> use 1 to 4"),
        (Request("test_vit", depth=7, flat=True), "test_vit has 6 stages, not 7\n  -> use 1 to 6"),
        (Request("resnet18", bands=0), "an encoder of 0 bands"),
        (Request("resnet18", output_stride=5), "model.output_stride: 5\n  -> use 8, 16 or 32"),
        (Request("pvt_v2_b0", output_stride=16, depth=4), None),
        (Request("test_maxvit", output_stride=8), "test_maxvit cannot be held at stride 8\n  -> it gives 32"),
        (Request("vgg11", drop_path=0.1), "vgg11 has no stochastic depth\n  -> set model.drop_path=0"),
    ],
)
def test_what_a_model_does_not_give_is_refused(request_, message):
    if message is None:
        assert feature_plan.plan(request_).strides == (4, 8, 16, 16)
        return
    with pytest.raises(RecipeError) as caught:
        feature_plan.plan(request_)
    assert message in str(caught.value)


def test_planning_leaves_the_random_numbers_alone():
    feature_plan.plan.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    feature_plan.plan(Request("test_resnet"))
    assert torch.equal(torch.rand(1), expected)


def test_planning_works_where_gradients_are_off():
    feature_plan.plan.cache_clear()
    with torch.no_grad():
        reached = feature_plan.plan(Request("test_resnet")).reached
    assert "conv1.0.weight" in reached[0] < reached[-1]


def test_the_table_lists_every_model_and_accepts_the_promised_number():
    rows = table.read()
    assert [row["name"] for row in rows] == timm.list_models()
    assert sum(row["verdict"] == "ok" for row in rows) >= 1300
    assert all(row["reason"] for row in rows if row["verdict"] != "ok")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_maxvit", "vgg11", "nest_tiny"])
def test_the_table_says_what_is_measured(name):
    (row,) = (row for row in table.read() if row["name"] == name)
    assert row == {key: str(value) for key, value in table.measured(name).items()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_least_1300_models_are_accepted():
    rows = [{key: str(value) for key, value in row.items()} for row in table.scan(timm.list_models(), 3)]
    assert sum(row["verdict"] == "ok" for row in rows) >= 1300
    assert rows == table.read()
