"""Every network on every kind of encoder keeps the same promises."""

from __future__ import annotations

import weakref
from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from pipeline.errors import RecipeError, SceneError
from pipeline.model.networks import NETWORKS, create_model
from pipeline.model.outputs import Outputs
from pipeline.recipe import Recipe
from pipeline.recipe.networks import Norm, UNet
from tests.model.families import CASES, HELPED, NARROW, SUPERVISED, network, pixels

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def without_gradient(net):
    return [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]


def backward(outputs):
    parts = outputs if isinstance(outputs, Outputs) else Outputs(outputs)
    maps = [parts.logits, *parts.auxiliary, *([] if parts.labels is None else [parts.labels])]
    sum(m.float().square().mean() for m in maps).backward()


@pytest.mark.parametrize(("kind", "encoder"), CASES)
class TestEveryNetwork:
    def test_logits_have_the_size_of_the_input_and_depend_on_nothing_else(self, kind, encoder):
        net = network(kind, encoder, dropout=0.5).eval()
        for size in [(1, 1), (33, 47), (5, 70)]:
            image = pixels(2, 4, *size)
            logits = net(image)
            assert tuple(logits.shape) == (2, 3, *size)
            assert logits.dtype == torch.float32
            assert logits.isfinite().all()
            assert torch.equal(net(image), logits), "evaluation is not repeatable"
            torch.testing.assert_close(net(image[1:]), logits[1:], rtol=1e-3, atol=1e-3)

    def test_pixel_type_and_memory_layout_change_nothing(self, kind, encoder):
        net, image = network(kind, encoder).eval(), pixels(1, 4, 33, 47)
        expected = net(image)
        for dtype in (torch.uint16, torch.int64, torch.float64):
            other = image.to(dtype)
            before = other.clone()
            assert torch.equal(net(other), expected), dtype
            assert torch.equal(other, before), "the caller's pixels were changed"
        laid = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(laid, expected, rtol=1e-3, atol=1e-3)

    def test_half_precision_is_near(self, kind, encoder):
        net, image = network(kind, encoder).eval(), pixels(1, 4, 64, 64)
        expected = net(image)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                logits = net(image)
            assert (logits - expected).abs().max() < 0.1 * expected.abs().max()

    def test_helping_heads_speak_in_training_only(self, kind, encoder):
        net = network(kind, encoder, **HELPED, **SUPERVISED.get(kind, {}))
        image = pixels(1, 4, 33, 47)  # a batch of one chip
        outputs = net.train()(image)
        shapes = [tuple(a.shape) for a in outputs.auxiliary]
        assert len(shapes) == len(net.auxiliary_weights) >= 1 + (kind in SUPERVISED)
        assert set(shapes) == {(1, 3, 33, 47)}
        assert outputs.labels.shape == (1, 3)
        assert net.label_weight == 0.1
        backward(outputs)
        assert without_gradient(net) == []
        logits = net.eval()(image)
        assert torch.equal(logits, net.outputs(image).logits)

    def test_a_state_dict_goes_round(self, kind, encoder, tmp_path):
        net, image = network(kind, encoder).eval(), pixels(1, 4, 33, 47)
        torch.save(net.state_dict(), tmp_path / "state.pt")
        other = network(kind, encoder).eval()
        for parameter in other.parameters():
            nn.init.constant_(parameter, 0.1)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(other(image), net(image))


@pytest.mark.parametrize("kind", ["unet", "unetplusplus", "manet", "linknet"])
def test_stages_are_gone_before_the_head(kind):
    net, held, alive = network(kind).eval(), [], []
    net.encoder.register_forward_hook(lambda *call: held.extend(weakref.ref(stage) for stage in call[-1]))
    net.head.register_forward_pre_hook(lambda *_: alive.extend(ref() is not None for ref in held))
    with torch.no_grad():
        net(pixels(1, 4, 64, 64))
    assert len(alive) == len(net.encoder.channels)
    assert not any(alive)


def test_what_a_hook_keeps_of_the_encoder_is_not_emptied():
    net, held = network("unet").eval(), []
    net.encoder.register_forward_hook(lambda *call: held.append(call[-1]))
    net(pixels(1, 4, 64, 64))
    assert [stage.shape[1] for stage in held[0]] == list(net.encoder.channels)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("norm", get_args(Norm))
def test_learns_from_one_chip_under_any_norm(kind, norm):
    net = network(kind, norm=norm).train()
    backward(net(pixels(1, 4, 33, 32)))
    assert without_gradient(net) == []
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    if norm != "batch":
        assert not [m for m in net.modules() if isinstance(m, BATCH_NORMS)]


@pytest.mark.parametrize("kind", ["fcn", "deeplabv3plus", "unet"])
def test_stages_with_heads_of_their_own_leave_no_parameter_without_gradient(kind):
    net = create_model(kind, encoder="hrnet_w18_small", bands=4, classes=3, **NARROW[kind])
    still = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert bool(still) == (kind != "unet"), "what the decoder does not take"
    backward(net.train()(pixels(2, 4, 64, 64)))
    assert without_gradient(net) == []


@pytest.mark.parametrize("encoder", ["norm_act", "fixed_size"])  # where timm fuses activations into norms
@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
def test_what_replaces_a_norm_learns_like_it(encoder, norm):
    batch, other = network(encoder=encoder), network(encoder=encoder, norm=norm)
    learning = {name for name, p in batch.encoder.named_parameters() if p.requires_grad}
    assert {name for name, p in other.encoder.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("bands", [1, 13])
def test_takes_any_number_of_bands(kind, bands):
    net = network(kind, bands=bands, classes=1).eval()
    assert tuple(net(pixels(1, bands, 33, 47)).shape) == (1, 1, 33, 47)


@pytest.mark.parametrize("kind", sorted(set(NETWORKS) - {"unet2015"}))
def test_a_frozen_encoder_is_still_and_evaluates_without_chance(kind):
    net = network(kind, "from_stride_4", freeze=7, drop_path=0.5)
    assert not [name for name, p in net.encoder.named_parameters() if p.requires_grad]
    image = pixels(2, 4, 64, 64)
    backward(net.train()(image))
    assert without_gradient(net) == []
    net.eval()
    assert torch.equal(net(image), net(image))


@pytest.mark.parametrize("kind", sorted(set(NETWORKS) - {"unet2015"}))
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_depth(kind, depth):
    net = network(kind, depth=depth)
    assert tuple(net.eval()(pixels(1, 4, 33, 47)).shape) == (1, 3, 33, 47)
    backward(net.train()(pixels(1, 4, 33, 47)))
    assert without_gradient(net) == []


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_activation_is_used(kind):
    relu, gelu = network(kind, activation="relu"), network(kind, activation="gelu")
    assert [m for m in gelu.decoder.modules() if isinstance(m, nn.GELU)]
    assert len(list(relu.parameters())) == len(list(gelu.parameters()))


def test_the_shelf_holds_what_a_recipe_can_name():
    sections = get_args(Recipe.model_fields["model"].annotation)
    assert list(NETWORKS) == list(NARROW) == [s.model_fields["kind"].default for s in sections]


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_atto"])
def test_unet_equals_an_independent_one(encoder):
    theirs = smp.Unet(f"tu-{encoder}", encoder_weights=None, in_channels=4, classes=3).eval()
    ours = create_model("unet", encoder=encoder, bands=4, classes=3).eval()
    for part, other in (("encoder", "encoder"), ("decoder", "decoder"), ("head", "segmentation_head")):
        source = getattr(theirs, other).state_dict().values()
        target = getattr(ours, part).state_dict()
        getattr(ours, part).load_state_dict(dict(zip(target, source, strict=True)))
    image = torch.randn(1, 4, 96, 128)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


def test_depth_and_widths_shape_the_decoder():
    net = network(depth=3, decoder_channels=[40, 24, 8])
    assert net.encoder.strides == (2, 4, 8)
    assert [b.conv2[0].out_channels for b in net.decoder.blocks] == [40, 24, 8]
    assert tuple(net(pixels(1, 4, 33, 47)).shape) == (1, 3, 33, 47)


def test_statistics_normalise_raw_pixels():
    net = network().eval()
    net.set_statistics([10.0, 20.0, 30.0, 40.0], [2.0, 4.0, 1.0, 0.0])
    raw = pixels(1, 4, 32, 32)
    plain = network().eval()
    plain.set_statistics([0.0] * 4, [1.0] * 4)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k not in ("mean", "std")}, strict=False)
    mean, std = torch.tensor([10.0, 20.0, 30.0, 40.0]), torch.tensor([2.0, 4.0, 1.0, 1.0])  # a constant band: centred
    expected = plain((raw - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(net(raw), expected, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    net, image = network(dropout=0.5, norm="group"), pixels(1, 4, 32, 32)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"kind": "unett"}, "there is no network 'unett'\n  -> did you mean 'unet'?"),
        ({"decoder_chanels": [8]}, "decoder_chanels: unknown key; did you mean 'decoder_channels'?"),
        ({"norm": "groups"}, "norm: Input should be 'batch', 'group', 'instance', 'layer' or 'none' (got 'groups')"),
        ({"encoder": "resnet43"}, "timm has no model 'resnet43'\n  -> did you mean"),
        ({"decoder_channels": [64, 32]}, "2 widths, but this encoder halves the size 5 times\n  -> give 5 widths"),
        ({"bands": 0}, "a network of 0 bands and 3 classes"),
        ({"auxiliary": {"stage": 5}}, "model.auxiliary.stage: 5, but the encoder has 5 stages"),
        ({"kind": "unet2015", "encoder": "resnet18"}, "encoder: unknown key"),
    ],
)
def test_create_model_says_what_is_wrong(call, message):
    with pytest.raises(RecipeError) as caught:
        create_model(**{"bands": 4, "classes": 3, "encoder": "test_resnet", **call})
    assert message in str(caught.value)


def test_another_number_of_bands_is_refused():
    net = network()
    with pytest.raises(SceneError, match=r"an image of shape \(1, 3, 8, 8\) for a network of 4 bands"):
        net(pixels(1, 3, 8, 8))
    with pytest.raises(SceneError, match=r"mean of 3 bands for a network of 4"):
        net.set_statistics([0.0] * 3, [1.0] * 4)


def test_a_recipe_section_and_create_model_agree():
    torch.manual_seed(0)
    built = NETWORKS["unet"](UNet(encoder="test_resnet", norm="group", **NARROW["unet"]), 4, 3)
    made = network(norm="group")
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), made.parameters(), strict=True))
