"""SMP's encoders on timm: the same features from the same weights, and nothing that no feature needs."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from pipeline.errors import RecipeError
from pipeline.model.encoders.deferred_init import ShapeOnlyInit
from pipeline.model.smp.encoder_taps import ENCODERS, FrozenConv2d
from pipeline.model.smp.smp_encoder import SMPEncoder, TimmEncoder, build, current_name
from pipeline.recipe.networks import DPT, UNet
from tests.model.smp.smp_peers import image, settle, stir

# One of each way of cutting; b3 because its padding is frozen for odd sizes, s4 because of its attention.
SAMPLE = [
    "resnet18",
    "se_resnet50",
    "vgg11_bn",
    "densenet121",
    "dpn68",
    "inceptionv4",
    "xception",
    "efficientnet-b0",
    "efficientnet-b3",
    "mobilenet_v2",
    "timm-efficientnet-b0",
    "timm-tf_efficientnet_lite0",
    "timm-skresnet18",
    "mit_b0",
    "mobileone_s4",
]
LARGE = {"timm-efficientnet-l2", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d"}


def theirs(name: str, **options):
    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder(name, weights=None, **options)
    settle(encoder, image(8, options.get("in_channels", 3), 64, 96))
    stir(encoder)
    # In float64 rounding hides no difference of functions, however deep the network.
    return encoder.double().eval()


def filled(ours, peer):
    state = peer.state_dict()
    names = ours.find(state)
    assert set(names) == set(ours.state_dict()), "a tensor of ours has no name there"
    assert all(ours.is_unused(key) for key in state.keys() - set(names.values()))
    ours.double().load_state_dict({key: state[name] for key, name in names.items()})
    return ours.eval()


@torch.no_grad()
def check(ours, peer, bands=3):
    x = image(2, bands, 64, 96).double()
    found, expected = ours(x), [f for f in peer(x) if f.shape[1] and f.shape[2] < 64]
    assert ours.stages == len(found)
    for feature, peers_, channels, stride in zip(found, expected, ours.channels, ours.strides, strict=True):
        assert tuple(feature.shape) == (2, channels, 64 // stride, 96 // stride)
        assert (feature - peers_).abs().max() <= 1e-10 * peers_.abs().max()


@pytest.mark.parametrize("name", SAMPLE)
def test_features_are_smps(name):
    peer = theirs(name)
    check(filled(SMPEncoder(name), peer), peer)


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet18", 16), ("resnet18", 8), ("efficientnet-b0", 8), ("mobilenet_v2", 16), ("mit_b0", 8)]
)
def test_dilated_features_are_smps(name, stride):
    peer = theirs(name, output_stride=stride)
    ours = filled(SMPEncoder(name, output_stride=stride), peer)
    assert ours.multiple == stride
    check(ours, peer)


@pytest.mark.parametrize(("name", "depth", "stages"), [("resnet18", 3, 3), ("mit_b0", 3, 2), ("efficientnet-b0", 4, 4)])
def test_depth_counts_halvings_and_deeper_stages_are_not_there(name, depth, stages):
    peer = theirs(name, depth=depth, in_channels=5)
    ours = filled(SMPEncoder(name, depth=depth, bands=5), peer)
    assert (ours.stages, ours.strides[-1]) == (stages, 2**depth)
    check(ours, peer, bands=5)


@pytest.mark.parametrize("name", SAMPLE)
def test_every_parameter_has_a_gradient(name):
    ours = SMPEncoder(name)
    sum(f.float().square().mean() for f in ours(image(2, 3, 64, 64))).backward()
    assert [key for key, p in ours.named_parameters() if p.grad is None] == []


def test_all_names_are_known():
    assert set(ENCODERS) == set(smp.encoders.get_encoder_names())


def test_padding_of_odd_sizes_is_frozen():
    frozen = [m for m in SMPEncoder("efficientnet-b1").modules() if isinstance(m, FrozenConv2d)]
    assert [m.frozen for m in frozen] == [(0, 1, 0, 1), (0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1)]


@pytest.mark.parametrize(
    "name", ["tu-test_resnet", "tu-test_convnext", "timm-regnetx_002", pytest.param("tu-vgg11", marks=pytest.mark.slow)]
)
def test_timms_encoders_are_smps(name):
    peer = theirs(name)
    ours = build(UNet(encoder=name, compat="smp"), 3)
    assert isinstance(ours, TimmEncoder)
    check(filled(ours, peer), peer)


def test_dpt_takes_the_blocks_of_a_tower_and_their_tokens():
    ours = build(DPT(encoder="tu-test_vit", compat="smp"), 3)
    assert ours.strides == (16,) * ours.stages
    features, tokens = ours.forward_tokens(image(1, 3, 160, 160))
    assert [tuple(t.shape) for t in tokens] == [(1, ours.num_prefix_tokens, f.shape[1]) for f in features]


def test_frozen_stages_do_not_learn_or_count():
    ours = SMPEncoder("resnet18", freeze=2).train()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    sum(f.sum() for f in ours(image(2, 3, 64, 64))).backward()
    learns = {key.split(".")[1] for key, p in ours.named_parameters() if p.grad is not None}
    changed = {key.split(".")[1] for key, value in ours.state_dict().items() if not torch.equal(value, before[key])}
    assert learns == changed == {"2", "3", "4"}


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain, thrifty = SMPEncoder("resnet18"), SMPEncoder("resnet18", checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    for ours in (plain, thrifty):
        sum(f.square().mean() for f in ours(image(2, 3, 64, 64))).backward()
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), thrifty.buffers(), strict=True))


def test_compiles_without_a_break():
    ours = SMPEncoder("efficientnet-b1", depth=2).eval()
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    for a, b in zip(compiled(image(1, 3, 64, 64)), ours(image(1, 3, 64, 64)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("resnet34", "resnet34"),
        ("timm-efficientnet-b0", "timm-efficientnet-b0"),
        ("timm-regnetx_002", "tu-regnetx_002"),
        ("timm-mobilenetv3_large_100", "tu-tf_mobilenetv3_large_100"),
        ("timm-resnest14d", "tu-resnest14d"),
    ],
)
def test_older_names(old, new):
    assert current_name(old) == new


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (UNet(encoder="efficientnet_b0"), "SMP has no encoder 'efficientnet_b0'\n  -> did you mean efficientnet-b0"),
        (UNet(encoder="convnext_tiny"), "SMP has no encoder 'convnext_tiny'\n  -> timm's are tu-convnext_tiny"),
        (UNet(encoder="vgg16", output_stride=16), "SMP cannot dilate vgg16"),
        (UNet(encoder="mit_b0", depth=1), "mit_b0 cannot have a depth of 1\n  -> use 2 to 5"),
        (UNet(encoder="resnet18", depth=6), "resnet18 cannot have a depth of 6\n  -> use 1 to 5"),
        (UNet(encoder="vgg16", drop_path=0.1), "vgg16 has no stochastic depth"),
        (UNet(encoder="tu-vit_tiny_patch16_224"), "blocks at one stride only"),
        (UNet(encoder="tu-resnet43"), "timm has no model 'resnet43'"),
        (UNet(encoder="resnet18", pretrained=True), "gets its weights from a checkpoint of SMP"),
        (DPT(encoder="resnet18"), "SMP's DPT takes timm's models only, not resnet18"),
    ],
)
def test_refusals(section, message):
    with pytest.raises(RecipeError) as caught:
        build(section.model_copy(update={"compat": "smp"}), 3)
    assert message in str(caught.value)


@pytest.mark.slow
def test_every_encoder_is_as_the_table_says():
    for name, source in ENCODERS.items():
        with torch.device("meta"), ShapeOnlyInit():
            features = SMPEncoder(name).eval()(torch.empty(1, 3, 64, 64))
        assert [f.shape[1] for f in features] == list(source.channels), name
        assert [64 // f.shape[2] for f in features] == list(source.strides), name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in LARGE])
def test_features_of_every_encoder_are_smps(name):
    peer = theirs(name)
    check(filled(SMPEncoder(name), peer), peer)
    if ENCODERS[name].dilates:
        dilated = theirs(name, output_stride=8)
        check(filled(SMPEncoder(name, output_stride=8), dilated), dilated)
    else:
        with pytest.raises(ValueError, match="dilated"):
            theirs(name, output_stride=8)
