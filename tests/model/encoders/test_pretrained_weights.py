"""Weights from files and from timm: whatever their prefixes and bands, what fits is taken and the rest is told."""

from __future__ import annotations

import logging
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline import store
from pipeline.errors import RecipeError
from pipeline.model.encoders.encoder import Encoder
from tests.servers import S3

NAMES = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"]


def test_a_download_that_fails_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RecipeError) as caught:
        Encoder("resnet18", pretrained=True)
    assert "the weights of resnet18 cannot be downloaded" in str(caught.value)
    assert "give the path of a local weight file, or set model.pretrained=false" in str(caught.value)


@pytest.mark.parametrize("depth", [None, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_file_gives_the_features_of_the_model_it_came_from(name, depth, tmp_path):
    source = classifier(name)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    encoder = Encoder(name, pretrained=str(tmp_path / "weights.safetensors"), depth=depth).eval()
    image = torch.rand(1, 3, 64, 96)
    deepest = source.forward_intermediates(image, intermediates_only=True, norm=False)[encoder.stages - 1]
    torch.testing.assert_close(encoder(image)[-1], deepest)


@pytest.mark.parametrize("bands", [1, 4, 13])
def test_a_weight_file_fits_any_number_of_bands(bands, tmp_path):
    source = classifier("resnet10t")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    ours = Encoder("resnet10t", bands=bands, pretrained=str(tmp_path / "weights.safetensors")).model.conv1[0].weight
    three = source.conv1[0].weight
    expected = three.sum(1, keepdim=True) if bands == 1 else three[:, [i % 3 for i in range(bands)]] * (3 / bands)
    torch.testing.assert_close(ours, expected)


def test_a_pickle_with_prefixes_is_read_and_what_did_not_fit_is_told(tmp_path, caplog):
    state = {f"module.encoder.model.{k}": v for k, v in classifier("resnet10t").state_dict().items()}
    del state["module.encoder.model.layer4.0.bn2.bias"]
    state["module.decoder.blocks.0.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "old.pth")
    with caplog.at_level(logging.INFO, "pipeline"):
        encoder = Encoder("resnet10t", pretrained=str(tmp_path / "old.pth"))
    expected = state["module.encoder.model.layer1.0.conv1.weight"]
    assert torch.equal(encoder.model.layer1[0].conv1.weight, expected)
    assert "1 missing or of another shape, left as they were: layer4.0.bn2.bias" in caplog.text
    assert "1 not used: decoder.blocks.0.weight" in caplog.text
    assert "fc" not in caplog.text


def test_weights_of_another_model_are_refused(tmp_path):
    save_file({"a.weight": torch.zeros(3), "b.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match=r"nothing in .*w.safetensors fits the encoder \(it holds a.weight, b.bias;"):
        Encoder("resnet10t", pretrained=str(tmp_path / "w.safetensors"))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save(Harmful(tmp_path / "touched"), tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"w.pth cannot be read"):
        Encoder("resnet10t", pretrained=str(tmp_path / "w.pth"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":', b"not weights at all"])
def test_damaged_weight_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=r"cannot be read"):
        Encoder("resnet10t", pretrained=str(tmp_path / name))


@pytest.mark.parametrize("where", ["nowhere.pth", "file:///nowhere.pth", "s3"])
def test_a_missing_weight_file_is_named(where, tmp_path, s3_server: S3):
    path = s3_server.uri("nowhere.pth") if where == "s3" else where
    with pytest.raises(RecipeError, match=r"no weight file .*nowhere.pth"):
        Encoder("test_resnet", pretrained=path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_come_from_a_bucket(name, tmp_path, s3_server: S3):
    source = classifier("test_resnet")
    save = save_file if name.endswith("safetensors") else torch.save
    save(source.state_dict(), tmp_path / name)
    remote = s3_server.uri(name)
    store.upload_file(tmp_path / name, remote)
    for uri in (remote, f"file://{tmp_path / name}"):
        encoder = Encoder("test_resnet", pretrained=uri)
        assert torch.equal(encoder.model.conv1[0].weight, source.conv1[0].weight)


def test_weights_of_a_tower_fill_the_blocks_and_leave_the_pyramid(tmp_path):
    source = classifier("test_vit")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    encoder = Encoder("test_vit", pretrained=str(tmp_path / "w.safetensors"), bands=5, flat=True).eval()
    three = source.patch_embed.proj.weight
    torch.testing.assert_close(encoder.model.model.patch_embed.proj.weight, three[:, [0, 1, 2, 0, 1]] * (3 / 5))
    tower = Encoder("test_vit", pretrained=str(tmp_path / "w.safetensors")).eval()
    assert torch.equal(tower.model.model.blocks[3].attn.qkv.weight, source.blocks[3].attn.qkv.weight)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def classifier(name: str) -> nn.Module:
    """A whole timm model with random weights and moments."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for key, value in model.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return model
