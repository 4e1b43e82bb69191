"""Encoders: stages of timm models, weights from files, and no parameter without a gradient."""

from __future__ import annotations

import logging
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import RecipeError
from pipeline.model.encoders.encoder import Encoder

NAMES = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"]


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_stages_are_as_announced(name, depth):
    encoder = Encoder(name, bands=4, depth=depth).eval()
    features = encoder(torch.zeros(1, 4, 64, 96))
    assert len(features) == encoder.stages == (depth or encoder.stages)
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert tuple(feature.shape) == (1, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("name", NAMES)
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


def test_encoders_that_put_channels_last_are_turned_round():
    encoder = Encoder("swin_tiny_patch4_window7_224", depth=2)
    assert [tuple(f.shape) for f in encoder(torch.zeros(1, 3, 64, 96))] == [(1, 96, 16, 24), (1, 192, 8, 12)]


def test_equal_seeds_give_equal_weights_from_the_first_time_on():
    def weights():
        torch.manual_seed(3)
        return Encoder("resnet10t", bands=7).model.conv1[0].weight

    assert torch.equal(weights(), weights())  # the first call also draws the plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet3"}, "timm has no model 'resnet3'\n  -> did you mean resnet34"),
        ({"name": "hf-hub:timm/resnet18"}, "timm has no model"),
        ({"name": "resnet18.nonsense"}, "resnet18 has no weights 'nonsense'\n  -> it has a1_in1k"),
        ({"name": "vit_tiny_patch16_224"}, "gives no features at growing scales"),
        ({"name": "maxvit_tiny_rw_224"}, "does not take images of every size"),
        ({"name": "resnet18", "depth": 6}, "resnet18 has 5 stages, not 6\n  -> use 1 to 5"),
    ],
)
def test_unusable_encoders_are_refused(options, message):
    with pytest.raises(RecipeError) as caught:
        Encoder(**options)
    assert message in str(caught.value)


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


def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no weight file .*nowhere.pth"):
        Encoder("resnet10t", pretrained=str(tmp_path / "nowhere.pth"))


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
