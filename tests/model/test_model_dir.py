"""A network alone goes to a directory and comes back; what is damaged says so."""

from __future__ import annotations

import json

import pytest
import torch

import pipeline
from pipeline.errors import BundleError
from pipeline.model.networks import save_model
from pipeline.model.optimise import optimised
from pipeline.registry.open_uri import load_model
from tests.model import small
from tests.model.families import HELPED, network, pixels


@pytest.mark.parametrize(
    ("kind", "encoder", "options"),
    [("unet", "conv", HELPED), ("dpt", "plain_vit", {}), ("unet2015", "conv", {}), ("fpn", "dilated", {})],
)
def test_a_network_goes_round(tmp_path, kind, encoder, options):
    net = network(kind, encoder, **options)
    net.train()(pixels(2, 4, 64, 64))  # moves the moments
    net.save(tmp_path / "net")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loaded = pipeline.load_model(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), before), "loading drew random numbers"
    assert not loaded.training
    assert loaded.section == net.section
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), net.state_dict().values(), strict=True))
    image = pixels(1, 4, 33, 47)
    assert torch.equal(loaded(image), net.eval()(image))


def test_what_was_pretrained_is_loaded_without_a_download(tmp_path):
    net = network()
    net.section = net.section.model_copy(update={"pretrained": "s3://nowhere/weights.safetensors"})
    net.save(tmp_path / "net")
    assert load_model(tmp_path / "net").section.pretrained is False


def test_it_replaces_what_was_there_and_leaves_nothing_else(tmp_path):
    network().save(tmp_path / "net")
    (tmp_path / "net/old").touch()
    network(classes=5).save(tmp_path / "net")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["net", "network.json", "weights.safetensors"]
    assert load_model(tmp_path / "net").classes == 5


def test_a_bundle_is_a_network_too(tmp_path):
    bundle = small.save(tmp_path / "bundle")
    image = pixels(1, 4, 33, 47)
    assert torch.equal(load_model(tmp_path / "bundle")(image), bundle.network(image))


def test_what_its_section_does_not_describe_is_not_saved(tmp_path):
    net = network()
    net.head[1] = torch.nn.Conv2d(8, 7, 1)
    for other in (net, optimised(network(), precision="fp32")):
        with pytest.raises(BundleError, match="not what its section describes"):
            save_model(other, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_damage_is_named(tmp_path):
    folder = tmp_path / "net"
    network().save(folder)
    meta, weights = folder / "network.json", folder / "weights.safetensors"
    record, state = meta.read_text(), weights.read_bytes()

    def refused(match):
        with pytest.raises(BundleError, match=match):
            load_model(folder)
        meta.write_text(record)
        weights.write_bytes(state)

    weights.write_bytes(state[:-1])
    refused("has changed since it was saved")
    weights.unlink()
    refused("it has no weights.safetensors")
    meta.write_text(record[:40])
    refused("network.json is damaged")
    meta.write_text("[]")
    refused("no network_version")
    meta.write_text(json.dumps(json.loads(record) | {"network_version": 2}))
    refused("network of version 2")
    for key in ("model", "bands", "classes", "weights_sha256"):
        tree = json.loads(record)
        del tree[key]
        meta.write_text(json.dumps(tree))
        refused(f"no '{key}'")
    meta.write_text(json.dumps(json.loads(record) | {"classes": 9}))
    refused("do not fit the network")
    with pytest.raises(BundleError, match="neither a network nor a bundle"):
        load_model(tmp_path)
    load_model(folder)
