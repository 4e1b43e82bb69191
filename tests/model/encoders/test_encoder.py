"""Encoders: features of exact sizes, equal to timm's; frozen stages; every weight learns."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.export import Dim
from torch.nn.parallel import DistributedDataParallel

from bench import encoders as table
from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.model.encoders.encoder import Encoder

NAMES = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"]
# Stages, a stage at stride 1, channels last, towers of patches of 16 and 14, windows, one image size.
KINDS = ["test_resnet", "vgg11", "swin_tiny_patch4_window7_224", "test_vit", "eva02_tiny_patch14_224", "levit_128s"]
SMALL = ["test_resnet", "test_efficientnet", "test_vit", "eva02_tiny_patch14_224"]


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("name", "depth"), [(name, None) for name in KINDS] + [(name, 2) for name in NAMES])
def test_features_are_exactly_as_announced(name, depth):
    encoder = Encoder(name, bands=4, depth=depth).eval()
    size = (2 * encoder.multiple, 3 * encoder.multiple)
    features = encoder(torch.zeros(1, 4, *size))
    assert len(features) == encoder.stages == (depth or encoder.stages)
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert tuple(feature.shape) == (1, channels, size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("bands", [1, 2, 13])
@pytest.mark.parametrize("name", KINDS)
def test_any_number_of_bands(name, bands):
    features = Encoder(name, bands=bands, depth=1)(torch.zeros(2, bands, 64, 64))
    assert len(features) == 1


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_features_are_those_of_timm(name):
    encoder = Encoder(name).eval()
    model = timm.create_model(name, features_only=True, **({"strict_img_size": False} if "swin" in name else {})).eval()
    model.load_state_dict(encoder.model.state_dict())
    x = torch.rand(2, 3, 64, 96)
    for ours, theirs in zip(encoder(x), model(x), strict=True):
        assert torch.equal(ours, theirs.permute(0, 3, 1, 2) if "swin" in name else theirs)


@pytest.mark.parametrize(
    ("name", "depth"), [(name, None) for name in KINDS + NAMES] + [(name, 2) for name in [*NAMES, "test_vit"]]
)
def test_plain_ddp_finds_no_unused_parameter(name, depth, process_group):
    # DDP notices in the second step that a gradient of the first one never came.
    network = DistributedDataParallel(Encoder(name, depth=depth), find_unused_parameters=False)
    for _ in range(2):
        sum(f.mean() for f in network(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_what_cannot_be_cut_off_does_not_wait_for_a_gradient(norm, process_group):
    # The blocks of this model branch off before the ends of its stages.
    encoder = Encoder("xception41", depth=2, norm=norm)
    assert any(not p.requires_grad for p in encoder.parameters())
    network = DistributedDataParallel(encoder, find_unused_parameters=False)
    for _ in range(2):
        sum(f.mean() for f in network(torch.rand(2, 3, 64, 64))).backward()


def test_only_the_stages_used_are_kept():
    def count(depth):
        return sum(p.numel() for p in Encoder("mobilenetv3_small_050", depth=depth).parameters())

    assert count(2) < count(3) < count(5) == count(None)


def test_equal_seeds_give_equal_weights_from_the_first_time_on():
    def weights():
        torch.manual_seed(3)
        return Encoder("resnet10t", bands=7).model.conv1[0].weight

    assert torch.equal(weights(), weights())  # the first call also draws the plan


@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
def test_batchnorm_can_be_replaced(norm):
    for name in ("test_resnet", "test_vit"):
        encoder = Encoder(name, norm=norm)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
        assert all(f.isfinite().all() for f in encoder(torch.rand(1, 3, 64, 64)))


# --- one image size


def test_a_model_of_one_image_size_sees_every_image_at_it(caplog):
    encoder = Encoder("levit_128s").eval()
    assert caplog.text.count("levit_128s takes images of 224 × 224 pixels only: others are resized") == 1
    x = torch.rand(1, 3, 64, 128)
    expected = encoder.model(nn.functional.interpolate(x, (224, 224), mode="bilinear"))
    for ours, theirs, stride in zip(encoder(x), expected, encoder.strides, strict=True):
        size = (64 // stride, 128 // stride)
        torch.testing.assert_close(ours, nn.functional.interpolate(theirs, size, mode="bilinear"))


def test_it_can_be_built_for_another_size(caplog):
    encoder = Encoder("test_vit_relpos", image_size=96).eval()
    assert "takes images of 96 × 96 pixels only" in caplog.text
    x = torch.rand(1, 3, 96, 96)
    taps = encoder.model(x)
    assert taps[0].shape[-2:] == (6, 6)
    for ours, theirs in zip(encoder(x), encoder.pyramid(taps), strict=True):
        torch.testing.assert_close(ours, theirs)


# --- freezing


def test_a_frozen_encoder_is_deterministic_in_evaluation():
    for name, stages in (("test_convnext", 9), ("swin_tiny_patch4_window7_224", 2)):
        encoder = Encoder(name, drop_path=0.9, freeze=stages)
        x = torch.rand(2, 3, 64, 64)
        assert not same(encoder.train()(x), encoder(x))  # stochastic depth is on
        assert same(encoder.eval()(x), encoder(x))


def test_without_drop_path_there_is_none_even_where_timm_has_some():
    encoder = Encoder("swin_tiny_patch4_window7_224", depth=2).train()
    x = torch.rand(2, 3, 64, 64)
    assert same(encoder(x), encoder(x))


def test_frozen_stages_keep_weights_and_moments_and_the_others_learn():
    encoder = Encoder("resnet18", freeze=2)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1.0, weight_decay=0.1)
    encoder.train()
    sum(f.square().mean() for f in encoder(torch.rand(2, 3, 64, 64))).backward()
    optimiser.step()
    changed = {key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith(("model.conv1", "model.bn1", "model.layer1")) for key in changed)
    assert {"model.layer2.0.bn1.running_mean", "model.layer2.0.downsample.0.weight"} <= changed


@pytest.mark.parametrize("name", ["resnet18", "test_vit"])
def test_freezing_everything_leaves_only_the_pyramid_to_learn(name):
    encoder = Encoder(name, freeze=9)
    encoder.train()
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert not any(m.training for m in encoder.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert encoder.pyramid is None or all(p.requires_grad for p in encoder.pyramid.parameters())


def test_freezing_can_be_undone():
    encoder, plain = Encoder("xception41", depth=2, freeze=2), Encoder("xception41", depth=2)
    encoder.freeze(0)
    wanted = {name: p.requires_grad for name, p in plain.named_parameters()}
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == wanted
    assert all(m.training for m in encoder.modules())


def test_frozen_moments_stay_when_the_norms_are_synchronised():
    encoder = norms.synchronise(Encoder("test_resnet", freeze=1)).train()
    modes = {name: m.training for name, m in encoder.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert not modes["model.bn1"] and modes["model.layer4.0.bn1"]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- in other hands


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_compiled_in_one_graph(name):
    encoder = Encoder(name).eval()
    x = torch.rand(1, 3, 64, 96)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager", dynamic=False)
    for ours, plain in zip(compiled(x), encoder(x), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("name", SMALL)
def test_exported_for_every_size(name):
    encoder = Encoder(name).eval()
    step = encoder.multiple
    shapes = {0: Dim("n", min=1, max=64), 2: step * Dim("h", min=2, max=64), 3: step * Dim("w", min=2, max=64)}
    exported = torch.export.export(encoder, (torch.rand(2, 3, 2 * step, 3 * step),), dynamic_shapes=(shapes,))
    x = torch.rand(3, 3, 4 * step, 2 * step)
    for ours, plain in zip(exported.module()(x), encoder(x), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "pvt_v2_b0", "test_vit", KINDS[2]])
def test_half_precision_and_channels_last(name):
    encoder = Encoder(name).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            for ours, theirs in zip(encoder(x), plain, strict=True):
                torch.testing.assert_close(ours.float(), theirs, atol=0.1 * float(theirs.abs().max()), rtol=0)
        last = encoder.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        for ours, theirs in zip(last, plain, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_no_weight_is_drawn_for_what_does_not_exist():
    with pytest.raises(RecipeError, match="timm has no model 'resnet3'"):
        Encoder("resnet3")


# --- all families


def families():
    """The smallest model of each of timm's families and kinds."""
    smallest = {}
    for row in table.read():
        if row["verdict"] == "ok" and int(row["params"]) < 60e6:
            key = timm.model_entrypoint(row["name"]).__module__, row["kind"]
            smallest[key] = min(smallest.get(key, row), row, key=lambda r: int(r["params"]))
    return [row["name"] for row in smallest.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_every_family_learns_fully_and_the_same_when_recomputed(name):
    plain, saving = Encoder(name, bands=3), Encoder(name, bands=3, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    step = plain.multiple
    x = torch.rand(2, 3, *((2 * step, 3 * step) if step <= 64 else (step, step)))
    gradients = []
    for encoder in (plain, saving):
        torch.manual_seed(0)
        features = encoder.train()(x)
        sizes = [
            (2, c, x.shape[2] // s, x.shape[3] // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
        ]
        assert [tuple(f.shape) for f in features] == sizes
        sum(f.square().mean() for f in features).backward()
        gradients.append({key: p.grad for key, p in encoder.named_parameters() if p.requires_grad})
    assert all(gradient is not None for gradient in gradients[0].values())
    for key, gradient in gradients[0].items():
        atol = 1e-5 * float(gradient.abs().max())
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=atol)
    with torch.no_grad():
        assert same(plain.eval()(x), plain(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_every_family_takes_any_number_of_bands(name):
    if name.startswith("csatv2"):
        with pytest.raises(RecipeError):
            Encoder(name, bands=4)
    else:
        assert Encoder(name, bands=4, depth=1).stages == 1
