"""Normalisation inside the network: equal to its definition in numpy, saved, loaded and exported with the weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.data.chips.statistics import normalise
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.errors import SceneError
from pipeline.model import bundle as bundles
from pipeline.model.export import export
from pipeline.model.optimise import optimised
from pipeline.recipe import pixels as recipe
from pipeline.registry.open_uri import load_model
from tests.model import small
from tests.model.families import network

RAW = np.random.default_rng(0).gamma(2, 300, (2, 4, 64, 96)).clip(0, 60_000).astype(np.uint16)
STATISTICS = Statistics.of(RAW.transpose(1, 0, 2, 3).reshape(4, -1), (1, 2, 3))
KINDS = ["mean_std", "percentile", "scale", "log", "per_scene"]


def normalisation(kind: str) -> normalise.Normalisation:
    tree = {"kind": kind} | ({"factor": [1e-3, 1e-4, -1e-3, 1e-3], "offset": -0.1} if kind == "scale" else {})
    section = TypeAdapter(recipe.Normalise).validate_python(tree)
    return normalise.of(section, STATISTICS, dtype="uint16", pretrained=False)


def normalised_network(kind: str):
    net = network().eval()
    net.set_normalisation(normalisation(kind))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_encoder_sees_equals_numpy(kind):
    net = normalised_network(kind)
    seen = []
    net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        net(torch.from_numpy(RAW))
    np.testing.assert_allclose(seen[0].numpy(), normalisation(kind).apply(RAW), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_left_alone_and_have_gradients(kind):
    net, image = normalised_network(kind), torch.from_numpy(RAW.astype(np.float32))
    before = image.clone()
    net(image.requires_grad_()).sum().backward()
    assert torch.equal(image, before)
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_keeps_it(kind, tmp_path: Path):
    state = bundles.build(small.UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8]), 4, 3)
    state.set_normalisation(normalisation(kind))
    saved = bundles.save(tmp_path / "b", state.eval(), **fields(), normalisation=normalisation(kind))
    loaded = bundles.load(tmp_path / "b")
    image = torch.from_numpy(RAW) if kind != "per_scene" else torch.randn(2, 4, 64, 96)  # it comes normalised
    assert loaded == saved and loaded.fill == normalisation(kind).fill
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(image), state(image), rtol=1e-4, atol=1e-4)
        fast = loaded.optimised(precision="fp32")(image)
        torch.testing.assert_close(fast, state(image), rtol=1e-3, atol=1e-3)


def test_a_bundle_of_the_first_version_normalises_by_mean_and_deviation(tmp_path: Path):
    saved = small.save(tmp_path / "b")
    path = tmp_path / "b" / bundles.META
    tree = json.loads(path.read_text()) | {"bundle_version": 1}
    del tree["normalisation"], tree["statistics"]["sketches"]
    path.write_text(json.dumps(tree))
    old = bundles.load(tmp_path / "b")
    assert old.fill == old.statistics.mean == saved.fill
    assert old.normalisation.kind == "mean_std"
    with torch.no_grad():
        torch.testing.assert_close(old.network(torch.from_numpy(RAW)), saved.network(torch.from_numpy(RAW)))


@pytest.mark.parametrize("kind", ["percentile", "log"])
def test_a_network_alone_keeps_it(kind, tmp_path: Path):
    net, image = normalised_network(kind), torch.from_numpy(RAW)
    net.save(tmp_path / "n")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "n")(image), net(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [pytest.param("percentile", marks=pytest.mark.slow), "log"])
def test_exported_files_normalise(kind, format, tmp_path: Path):
    export(normalised_network(kind), tmp_path / f"n.{format}")  # which compares at several sizes


def test_padding_becomes_zero():
    """What is put at the edge of sizes that the network cannot take is what invalid pixels become."""
    for kind in KINDS:
        net = normalised_network(kind)
        with torch.no_grad():
            inside = net.mean.expand(1, 4, 40, 40)
            seen = []
            net.encoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
            net(inside)
            assert seen[0].abs().max() < 1e-4


def test_half_precision_leaves_it_exact():
    net = normalised_network("log")
    fast = optimised(net, precision="bf16")
    assert fast.normalise.shift.dtype == torch.float32


def test_other_bands_are_refused():
    with pytest.raises(SceneError, match="a normalisation of 4 bands for a network of 3"):
        network(bands=3).set_normalisation(normalisation("log"))


def fields():
    return {
        "model": small.UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8]),
        "classes": small.CLASSES,
        "bands": ("a", "b", "c", "d"),
        "dtype": "uint16",
        "statistics": STATISTICS,
        "predict": small.Predict(window=64),
        "recipe": {"name": "small"},
        "fingerprint": "0123456789ab",
        "manifest_digest": "ab" * 32,
        "step": 7,
        "scores": {},
    }
