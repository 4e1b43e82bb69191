"""Every network on every kind of encoder keeps the same promises."""

from __future__ import annotations

from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from pipeline.errors import RecipeError, SceneError
from pipeline.model.networks import NETWORKS, create_model
from pipeline.recipe import Recipe
from pipeline.recipe.networks import UNet

# Strides from 2; strides from 4 and no BatchNorm; activations beside norms; activations inside norms.
ENCODERS = ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"]
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


WIDTHS = [32, 24, 16, 8, 8]


def network(kind="unet", encoder="resnet10t", **options):
    torch.manual_seed(0)
    made = create_model(kind, encoder=encoder, **{"bands": 4, "classes": 3, "decoder_channels": WIDTHS, **options})
    made.set_statistics([100.0] * made.bands, [50.0] * made.bands)
    return made


def pixels(*shape, dtype=torch.uint8):
    return torch.randint(0, 200, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", NETWORKS)
class TestEveryNetwork:
    def test_logits_have_the_size_of_the_input(self, kind, encoder):
        net = network(kind, encoder).eval()
        for size in [(1, 1), (33, 47), (64, 64), (5, 130)]:
            logits = net(pixels(2, 4, *size))
            assert tuple(logits.shape) == (2, 3, *size)
            assert logits.dtype == torch.float32
            assert logits.isfinite().all()

    @pytest.mark.parametrize("bands", [1, 13])
    def test_takes_any_number_of_bands(self, kind, encoder, bands):
        net = network(kind, encoder, bands=bands, classes=2).eval()
        assert tuple(net(pixels(1, bands, 33, 47)).shape) == (1, 2, 33, 47)

    def test_every_pixel_type_gives_the_same_logits(self, kind, encoder):
        net = network(kind, encoder).eval()
        expected = net(pixels(1, 4, 33, 47))
        for dtype in (torch.uint16, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64):
            image = pixels(1, 4, 33, 47, dtype=dtype)
            before = image.clone()
            assert torch.equal(net(image), expected), dtype
            assert torch.equal(image, before), "the caller's pixels were changed"

    def test_memory_layout_changes_nothing(self, kind, encoder):
        net, image = network(kind, encoder).eval(), pixels(2, 4, 64, 64)
        expected = net(image)
        laid = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(laid, expected, rtol=1e-4, atol=1e-4)

    def test_bf16_is_near(self, kind, encoder):
        net, image = network(kind, encoder).eval(), pixels(1, 4, 33, 47)
        expected = net(image)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(image)
        assert logits.dtype == torch.bfloat16
        assert (logits - expected).abs().max() < 0.1 * expected.abs().max()

    @pytest.mark.parametrize("norm", ["batch", "group", "none"])
    @pytest.mark.parametrize("size", [(1, 1), (32, 32)])
    def test_learns_from_one_chip(self, kind, encoder, norm, size):
        net = network(kind, encoder, norm=norm).train()
        net(pixels(1, 4, *size)).square().mean().backward()
        without = [name for name, p in net.named_parameters() if p.grad is None]
        assert without == []
        assert all(p.grad.isfinite().all() for p in net.parameters())

    @pytest.mark.parametrize("norm", ["group", "none"])
    def test_without_batch_norm_there_is_none(self, kind, encoder, norm):
        net = network(kind, encoder, norm=norm)
        assert not [m for m in net.modules() if isinstance(m, BATCH_NORMS)]
        image = pixels(2, 4, 64, 64)
        together, alone = net(image), net(image[:1])
        torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)  # in training mode

    def test_a_state_dict_goes_round(self, kind, encoder, tmp_path):
        net, image = network(kind, encoder).eval(), pixels(1, 4, 33, 47)
        torch.save(net.state_dict(), tmp_path / "state.pt")
        other = create_model(kind, encoder=encoder, bands=4, classes=3, decoder_channels=WIDTHS).eval()
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(other(image), net(image))

    def test_evaluation_is_repeatable_and_ignores_the_rest_of_the_batch(self, kind, encoder):
        net, image = network(kind, encoder, dropout=0.5).eval(), pixels(2, 4, 33, 47)
        logits = net(image)
        assert torch.equal(net(image), logits)
        torch.testing.assert_close(net(image[1:]), logits[1:], rtol=1e-4, atol=1e-4)


def test_the_shelf_holds_what_a_recipe_can_name():
    section = Recipe.model_fields["model"].annotation
    sections = get_args(section) or (section,)
    assert list(NETWORKS) == [s.model_fields["kind"].default for s in sections]


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
    plain = create_model(encoder="resnet10t", bands=4, classes=3, decoder_channels=WIDTHS).eval()
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
        ({"norm": "layer"}, "norm: Input should be 'batch', 'group' or 'none' (got 'layer')"),
        ({"encoder": "resnet43"}, "timm has no model 'resnet43'\n  -> did you mean"),
        ({"decoder_channels": [64, 32]}, "2 widths, but this encoder halves the size 5 times\n  -> give 5 widths"),
        ({"bands": 0}, "a network of 0 bands and 3 classes"),
    ],
)
def test_create_model_says_what_is_wrong(call, message):
    with pytest.raises(RecipeError) as caught:
        network(**call)
    assert message in str(caught.value)


def test_another_number_of_bands_is_refused():
    net = network()
    with pytest.raises(SceneError, match=r"an image of shape \(1, 3, 8, 8\) for a network of 4 bands"):
        net(pixels(1, 3, 8, 8))
    with pytest.raises(SceneError, match=r"mean of 3 bands for a network of 4"):
        net.set_statistics([0.0] * 3, [1.0] * 4)


def test_a_recipe_section_and_create_model_agree():
    torch.manual_seed(0)
    built = NETWORKS["unet"](UNet(encoder="resnet10t", norm="group", decoder_channels=WIDTHS), 4, 3)
    made = network(norm="group")
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), made.parameters(), strict=True))
