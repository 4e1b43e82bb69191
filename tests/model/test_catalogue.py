"""The shelf says what is on it, what fits what, and why not."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

import pipeline
from pipeline.__main__ import main
from pipeline.errors import RecipeError
from pipeline.model import catalogue
from pipeline.model.networks import NETWORKS, create_model


def run(capsys, *words):
    """Exit code and JSON record of a command."""
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_table_is_what_is_built():
    for name in ("resnet34", "test_vit", "test_convnext"):
        model = catalogue.table()[name]
        encoder = create_model(encoder=name).encoder
        assert (model.channels, model.strides) == (encoder.channels, encoder.strides)
        assert model.problem == ""


def test_first_the_architectures(capsys):
    code, record = run(capsys, "models", "list")
    assert code == 0
    assert list(record["architectures"]) == list(NETWORKS)
    assert all(len(line) > 10 for line in record["architectures"].values())
    assert record["encoders"] >= 1300
    main(["models", "list"])
    assert "segpipe models show unet resnet34" in capsys.readouterr().out


def test_encoders_by_pattern_and_size(capsys):
    code, record = run(capsys, "models", "list", "--encoder", "resnet1??", "--max-params", "6e6")
    assert code == 0
    assert [m["name"] for m in record["models"]] == ["resnet10t"]
    assert record["models"][0]["refused"] == {}
    main(["models", "list", "--encoder", "resnet1??"])
    text = capsys.readouterr().out
    assert "2,4,8,16,32" in text
    assert "all 15" in text


def test_with_an_architecture_the_whole_network_is_counted():
    (model,) = pipeline.list_models("linknet", "test_resnet")
    expected = sum(p.numel() for p in create_model("linknet", encoder="test_resnet").parameters())
    assert model.whole
    assert model.parameters == expected
    assert pipeline.list_models("linknet", "test_resnet", max_parameters=expected - 1) == ()


def test_what_cannot_be_dilated_is_told(capsys):
    (model,) = pipeline.list_models("deeplabv3", "swin_tiny_patch4_window7_224")
    assert model.undilated == ("deeplabv3",)
    main(["models", "list", "--encoder", "swin_tiny_patch4_window7_224", "--architecture", "deeplabv3"])
    assert "cannot be dilated" in capsys.readouterr().out


def test_what_is_no_encoder_has_a_reason(monkeypatch, capsys):
    broken = catalogue.Model("broken", "", (), (), 0, problem="it gives no features")
    monkeypatch.setattr(catalogue, "table", lambda: {"broken": broken})
    assert main(["models", "list", "--encoder", "broken"]) == 0
    out = capsys.readouterr().out
    assert "nothing" in out
    assert "- broken: it gives no features" in out


def test_models_newer_than_the_table_are_looked_at(monkeypatch):
    known = dict(catalogue.table())
    expected = known.pop("test_resnet")
    monkeypatch.setattr(catalogue, "table", lambda: known)
    found = catalogue.listing("unet", "test_resnet")
    assert (found.models[0].channels, found.models[0].output_strides) == (expected.channels, expected.output_strides)
    monkeypatch.setattr(catalogue, "LOOKED_AT", 0)
    assert catalogue.listing("unet", "test_res*").not_looked_at == 1


def test_an_architecture_with_its_own_encoder():
    (model,) = pipeline.list_models("unet2015", "test_resnet")
    assert model.refused == {"unet2015": "has its own encoder"}


def test_strides_stand_for_each_other_in_long_lists():
    models = pipeline.list_models("unet", "*net*")
    assert len(models) > 100
    assert not any(m.whole for m in models)
    assert sum(not m.refused for m in models) > 100


def test_a_network_is_shown(capsys, tmp_path):
    picture = tmp_path / "stages.svg"
    words = ["unet", "test_resnet", "decoder_channels=[32,24,16,8,8]", "--size", "64", "--bands", "5"]
    code, record = run(capsys, "models", "show", *words, "--picture", str(picture))
    assert code == 0
    assert record["model"]["decoder_channels"] == [32, 24, 16, 8, 8]
    net = create_model(encoder="test_resnet", bands=5, decoder_channels=[32, 24, 16, 8, 8])
    assert sum(record["cost"]["parameters"].values()) == sum(p.numel() for p in net.parameters())
    assert record["cost"]["flops"] > 0
    texts = [node.text for node in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"encoder.0", "blocks.4", "head"} <= set(texts)
    main(["models", "show", *words])
    text = capsys.readouterr().out
    assert "decoder.blocks.4" in text
    assert "GFLOP" in text


@pytest.mark.parametrize("words", [["unet2015", "widths=[8,16]"], ["dpt", "test_vit"], ["upernet", "test_resnet"]])
def test_every_kind_can_be_shown_and_drawn(capsys, tmp_path, words):
    assert main(["models", "show", *words, "--size", "64", "--picture", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--architecture", "dtp"], "did you mean 'dpt'?"),
        (["list", "--encoder", "reznet34"], "did you mean resnet34"),
        (["show", "unett", "resnet34"], "did you mean 'unet'?"),
        (["show", "unet", "resnet43"], "did you mean resnet"),
        (["show", "unet", "resnet34", "decoder_chanels=[1]"], "did you mean 'decoder_channels'?"),
        (["show", "unet", "resnet34", "--bands", "0"], "use 1 or more"),
        (["show", "linknet", "test_resnet", "--size", "64", "--picture", "a.bmp"], "none of .svg, .png, .pdf"),
        (["show", "linknet", "test_resnet", "--size", "64", "--picture", "none/a.svg"], "none/a.svg"),
    ],
)
def test_bad_input_is_named(capsys, words, message):
    assert main(["models", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_network_of_the_catalogue_has_no_memory():
    made = catalogue.network("unet", "test_resnet")
    assert {p.device.type for p in made.parameters()} == {"meta"}
    with pytest.raises(RecipeError):
        catalogue.network("unet", "test_resnet", ["depth=9"])
