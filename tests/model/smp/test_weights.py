"""Checkpoints of segmentation_models_pytorch give its logits here, or are refused with the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import BundleError, RecipeError
from pipeline.model import bundle as bundles
from pipeline.model.smp.encoder_taps import ENCODERS
from pipeline.model.smp.families import FAMILIES, guess
from pipeline.model.smp.weights import from_smp
from tests.model.smp.smp_peers import CLASSES, Peers, difference, image, is_as_near_to_exact, ours, peer, settle

# Decoders narrower than SMP's, so that the tests are quick.
NARROW = {
    "unet": {"decoder_channels": (32, 24, 16, 8, 8)},
    "unetplusplus": {"decoder_channels": (32, 24, 16, 8, 8)},
    "manet": {"decoder_channels": (32, 24, 16, 8, 8), "decoder_pab_channels": 16},
    "linknet": {},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "pspnet": {"psp_out_channels": 32},
    "pan": {},
    "deeplabv3": {"decoder_channels": 32},
    "deeplabv3plus": {"decoder_channels": 32},
    "upernet": {"decoder_channels": 32},
    "segformer": {"decoder_segmentation_channels": 32},
    "dpt": {"decoder_fusion_channels": 32, "decoder_intermediate_channels": (16, 24, 32, 32)},
}
SCSE = {"decoder_attention_type": "scse", "decoder_channels": (32, 24, 16, 16, 16)}  # SMP needs 16 channels for it
HUGE = {  # of each family with such a member, the smaller ones are compared
    "resnext101_32x16d",
    "resnext101_32x32d",
    "resnext101_32x48d",
    "timm-efficientnet-l2",
    "timm-efficientnet-b6",  # with random weights chaotic, even in float64: bench/smp.py
    "timm-efficientnet-b8",
    "senet154",
    "dpn107",
    "dpn131",
    "mit_b5",
}


def size(architecture, encoder="resnet18"):
    """SMP's PAN pools three times; towers have a size of their own."""
    return (160, 160) if encoder.startswith("tu-test_vit") else (128, 128) if architecture == "pan" else (64, 96)


def compare(architecture, encoder, *, tolerance=1e-5, **options):
    options = {**NARROW[architecture], **options}
    model = peer(architecture, encoder, **options)
    network = ours(architecture, encoder, model.state_dict(), **options)
    x = image(2, options.get("in_channels", 3), *size(architecture, encoder))
    assert difference(model, network, x) <= tolerance
    return model, network


@pytest.mark.parametrize("architecture", FAMILIES)
def test_logits_are_smps_for_every_architecture(architecture):
    compare(architecture, "tu-test_vit" if architecture == "dpt" else "resnet18")


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unet", "mit_b0"),
        ("unet", "vgg11_bn"),
        ("unet", "densenet121"),
        ("unet", "efficientnet-b1"),
        ("unet", "timm-efficientnet-b0"),
        ("unet", "mobilenet_v2"),
        ("unet", "dpn68"),
        ("unet", "tu-test_convnext"),
        ("unetplusplus", "vgg11_bn"),
        ("segformer", "mit_b0"),
        ("manet", "mit_b0"),
        ("upernet", "tu-test_convnext"),
        ("deeplabv3plus", "efficientnet-b0"),
        ("deeplabv3", "tu-test_resnet"),
        ("pan", "mit_b0"),
        ("linknet", "tu-test_efficientnet"),
    ],
)
def test_logits_are_smps_for_every_kind_of_encoder(architecture, encoder):
    compare(architecture, encoder, tolerance=1e-4 if encoder.startswith("mit") else 1e-5)


@pytest.mark.parametrize(
    ("architecture", "encoder", "options"),
    [
        ("unet", "resnet18", SCSE),
        ("unet", "mit_b0", SCSE),
        ("unetplusplus", "resnet18", SCSE),
        ("unet", "resnet18", {"decoder_use_norm": False, "decoder_interpolation": "bilinear", "in_channels": 5}),
        ("unet", "resnet18", {"decoder_use_norm": {"type": "instancenorm", "affine": True}}),
        ("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}),
        ("unet", "efficientnet-b0", {"encoder_depth": 4, "decoder_channels": (16, 8, 8, 8)}),
        ("unet", "resnet18", {"aux_params": {"classes": CLASSES, "pooling": "max"}}),
        ("fpn", "resnet18", {"decoder_merge_policy": "cat", "decoder_interpolation": "bilinear"}),
        ("deeplabv3", "resnet18", {"encoder_output_stride": 16, "decoder_aspp_separable": True}),
        ("deeplabv3plus", "resnet18", {"encoder_output_stride": 8, "decoder_atrous_rates": (2, 3, 4)}),
        ("pspnet", "resnet18", {"decoder_use_norm": False}),
        ("dpt", "tu-test_vit", {"decoder_readout": "add"}),
        ("dpt", "tu-test_vit", {"decoder_readout": "ignore"}),
    ],
)
def test_options_mean_what_they_mean_to_smp(architecture, encoder, options):
    # InstanceNorm of 2×3 pixels makes rounding large.
    compare(architecture, encoder, tolerance=1e-4 if "instance" in str(options) else 1e-5, **options)


def test_label_head_is_smps():
    model, network = compare("unet", "resnet18", aux_params={"classes": CLASSES, "dropout": 0.5})
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.outputs(x).labels, model(x)[1], rtol=1e-4, atol=1e-5)


def test_a_label_head_is_asked_about_and_may_be_left_away():
    options = {"architecture": "unet", "encoder": "resnet18", **NARROW["unet"]}
    model = peer("unet", "resnet18", aux_params={"classes": 7}, **NARROW["unet"])
    with pytest.raises(BundleError, match="or aux_params=None to leave the label head away"):
        from_smp(model.state_dict(), **options)
    bundle = from_smp(model.state_dict(), aux_params=None, **options)
    assert bundle.recipe["from_smp"]["unused"] == ["classification_head.3.weight", "classification_head.3.bias"]
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(bundle.network(x), model(x)[0], rtol=1e-4, atol=1e-4)


# --- what a checkpoint may look like


@pytest.fixture(scope="module")
def model():
    return peer("unet", "resnet18", **NARROW["unet"])


def same(bundle, model, x=None):
    x = image(1, 3, 64, 64) if x is None else x
    with torch.no_grad():
        torch.testing.assert_close(bundle.network(x), model(x), rtol=1e-4, atol=1e-4)
    return bundle


def told(source, **changes):
    options = {"architecture": "unet", "encoder": "resnet18", **NARROW["unet"], **changes}
    return from_smp(source, **{name: value for name, value in options.items() if value is not None})


def test_a_state_dict_is_left_as_it_is(model):
    state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    bundle = same(told(state, classes=CLASSES), model)
    assert list(state) == list(before)
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert bundle.classes.names == ("class_0", "class_1", "class_2")
    assert bundle.recipe["from_smp"]["unused"] == bundle.recipe["from_smp"]["missing"] == []
    assert all(
        p.untyped_storage().data_ptr() != state["encoder.conv1.weight"].untyped_storage().data_ptr()
        for p in bundle.network.parameters()
    )


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [("", ".pth"), ("module.", ".pt"), ("model.", ".ckpt"), ("net.model.", ".safetensors"), ("_orig_mod.", ".pth")],
)
def test_files_and_prefixes(model, tmp_path, prefix, suffix):
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    state["loss_fn.weight"] = torch.ones(3)
    path = tmp_path / f"old{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == ".ckpt" else state, path)
    bundle = same(told(path), model)
    assert bundle.recipe["from_smp"]["unused"] == ["loss_fn.weight"]
    assert bundle.recipe["from_smp"]["source"] == str(path)


def test_a_folder_of_save_pretrained_knows_everything(tmp_path):
    options = {"decoder_channels": (16, 16, 16), "encoder_depth": 3, "decoder_attention_type": "scse", "in_channels": 4}
    model = peer("unet", "resnet18", **options)
    model.save_pretrained(tmp_path / "saved")
    bundle = from_smp(tmp_path / "saved", out=tmp_path / "bundle", names=["a", "b", "c"])
    same(bundles.load(tmp_path / "bundle"), model, image(1, 4, 64, 64))
    assert (bundle.classes.names, bundle.num_bands) == (("a", "b", "c"), 4)
    unused = bundle.recipe["from_smp"]["unused"]
    assert {key.split(".")[1] for key in unused if key.startswith("encoder.")} == {"layer3", "layer4"}
    assert all(key.startswith(("encoder.", "decoder.blocks.2.attention1.")) for key in unused)


def test_deeplab_of_before_0_3():
    model = peer("deeplabv3", "resnet18", **NARROW["deeplabv3"])
    old = {"aspp.": "0.", "conv.": "1.", "bn.": "2."}
    state = model.state_dict()
    for key in list(state):
        for new, before in old.items():
            if key.startswith(f"decoder.{new}"):
                state[f"decoder.{before}{key.removeprefix(f'decoder.{new}')}"] = state.pop(key)
    bundle = from_smp(state, architecture="deeplabv3", encoder="resnet18", **NARROW["deeplabv3"])
    same(bundle, model)


def test_tensors_that_older_torch_did_not_keep_are_not_needed(model):
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    bundle = same(told(state), model)
    assert all(key.endswith("num_batches_tracked") for key in bundle.recipe["from_smp"]["missing"])
    assert bundle.recipe["from_smp"]["missing"]


def test_older_encoder_names_and_keys():
    model = peer("unet", "timm-regnetx_002", **NARROW["unet"])
    settle(model.encoder, image(2, 3, 64, 64))
    state = {key.replace("encoder.model.", "encoder."): value for key, value in model.eval().state_dict().items()}
    same(told(state, encoder="timm-regnetx_002"), model)


@pytest.mark.parametrize(("architecture", "encoder"), [("unet", "resnet18"), ("dpt", "tu-test_vit")])
def test_one_logit_becomes_two_classes(architecture, encoder):
    model = peer(architecture, encoder, classes=1, **NARROW[architecture])
    bundle = from_smp(
        model.state_dict(), architecture=architecture, encoder=encoder, names=["cell"], **NARROW[architecture]
    )
    x = image(2, 3, *size(architecture, encoder))
    with torch.no_grad():
        logits, expected = bundle.network(x), model(x)
    assert bundle.classes.names == ("background", "cell")
    assert torch.equal(logits[:, 0], torch.zeros_like(logits[:, 0]))
    torch.testing.assert_close(logits[:, 1:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], expected.sigmoid())


def test_statistics_normalise_raw_pixels(model):
    mean, std = [10.0, 20.0, 30.0], [2.0, 3.0, 4.0]
    bundle = told(model.state_dict(), mean=mean, std=std)
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (1, 3, 64, 64), np.uint8))
    with torch.no_grad():
        expected = model((raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        torch.testing.assert_close(bundle.network(raw), expected, rtol=1e-4, atol=1e-4)
    assert bundle.statistics.mean == tuple(mean)


def test_nobody_elses_random_numbers_change(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    told(model.state_dict())
    assert torch.equal(torch.rand(3), expected)


# --- what is refused


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_architecture_is_told_from_its_keys(architecture):
    encoder = "tu-test_vit" if architecture == "dpt" else "resnet18"
    keys = [k.removeprefix("decoder.") for k in peer(architecture, encoder).state_dict() if k.startswith("decoder.")]
    assert guess(keys) == architecture


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"architecture": "linknet", "decoder_channels": None},
            BundleError,
            "not of linknet: their decoder is that of unet",
        ),
        ({"architecture": "linknet", "decoder_channels": None}, BundleError, "-> give architecture='unet'"),
        ({"architecture": "unett"}, RecipeError, "SMP has no 'unett'\n  -> did you mean 'unet'?"),
        ({"architecture": None}, RecipeError, "do not say their architecture\n  -> give architecture='unet'"),
        ({"encoder": "resnet81"}, RecipeError, "SMP has no encoder 'resnet81'\n  -> did you mean resnet18"),
        ({"encoder": "resnet34"}, BundleError, "the weights are not of unet on resnet34"),
        ({"encoder": "resnet34"}, BundleError, "missing: encoder.layer1.2.conv1.weight"),
        ({"encoder": "mit_b0"}, BundleError, "the weights are not of unet on mit_b0"),
        ({"classes": 4}, BundleError, "of 3 classes, not 4: segmentation_head.0.weight is (3, 8, 3, 3)"),
        ({"in_channels": 4}, BundleError, "of 3 bands, not 4: encoder.conv1.weight is (64, 3, 7, 7)"),
        ({"decoder_channels": (64, 24, 16, 8, 8)}, BundleError, "(32, 768, 3, 3) instead of (64, 768, 3, 3)"),
        ({"decoder_attention_type": "scse"}, BundleError, "missing: decoder.blocks.0.attention1"),
        ({"encoder_depth": 4}, BundleError, "not of unet on resnet18"),
        ({"decoder_use_norm": "layernorm"}, RecipeError, "'layernorm' has no counterpart here"),
        ({"decoder_chanels": 3}, RecipeError, "no such option of unet\n  -> did you mean 'decoder_channels'?"),
        ({"aux_params": {"classes": 7}}, RecipeError, "a label head of 7 classes in addition to 3 classes"),
        ({"names": ["a", "b"]}, RecipeError, "2 names for 3 classes"),
        ({"mean": [0.5]}, RecipeError, "mean of 1 bands for a network of 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(model, changes, error, message):
    with pytest.raises(error) as caught:
        told(model.state_dict(), **changes)
    assert message in str(caught.value)


def test_a_deeper_network_is_not_taken_for_a_shallow_one():
    state = peer("unet", "resnet34", **NARROW["unet"]).state_dict()
    with pytest.raises(BundleError, match=r"that it does not have: encoder\.layer1\.2"):
        told(state)


def test_things_that_are_no_network_of_smp(model, tmp_path):
    with pytest.raises(BundleError, match="this is no network of SMP"):
        told({"fc.weight": torch.zeros(3)})
    both = {f"{p}{key}": value for p in ("model.", "ema.") for key, value in model.state_dict().items()}
    with pytest.raises(BundleError, match=r"several networks: model\.\* and ema\.\*"):
        told(both)
    with pytest.raises(BundleError, match="no weight file"):
        told(tmp_path / "nothing.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="is no folder of save_pretrained"):
        told(tmp_path / "empty")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_name": "resnet18"}))
    with pytest.raises(BundleError, match="is no folder of save_pretrained"):
        told(tmp_path)


def test_a_pickle_with_code_in_it_is_not_run(model, tmp_path):
    torch.save(model, tmp_path / "whole.pth")
    with pytest.raises(BundleError, match="cannot be read"):
        told(tmp_path / "whole.pth")


# --- every architecture on nearly every encoder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name not in HUGE])
def test_every_architecture_on_every_encoder(encoder):
    peers, found = Peers(encoder), {}
    tolerance = 1e-4 if encoder.startswith("mit") else 1e-5
    for architecture in (name for name in FAMILIES if name != "dpt"):
        try:
            model, network = peers.pair(architecture)
        except (ValueError, NotImplementedError) as error:  # SMP does not take this encoder
            assert not isinstance(error, RecipeError), (architecture, error)
            continue
        x = image(1, 3, *size(architecture))
        found[architecture] = difference(model, network, x)
        if found[architecture] > tolerance and is_as_near_to_exact(model, network, x):
            found[architecture] = 0.0
    assert len(found) >= 8
    assert {name: value for name, value in found.items() if value > tolerance} == {}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["tu-vit_tiny_patch16_224", "tu-deit3_small_patch16_224"])
def test_dpt_on_towers(encoder):
    model = peer("dpt", encoder)
    assert difference(model, ours("dpt", encoder, model.state_dict()), image(1, 3, 224, 224)) <= 1e-4
