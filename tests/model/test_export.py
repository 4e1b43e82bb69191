"""Networks compile as one graph, and as a file take any size and compute the same."""

from __future__ import annotations

import importlib.util

import onnx
import pytest
import torch

from pipeline.__main__ import main
from pipeline.errors import RecipeError
from pipeline.model import export as exporting
from pipeline.model.export import export
from pipeline.model.networks import NETWORKS
from tests.model import small
from tests.model.families import CASES, HELPED, SUPERVISED, network, pixels

# Each family on one encoder, and one family on each kind of encoder; the rest takes minutes.
TRACED = [("unet", "conv"), ("deeplabv3plus", "conv"), ("segformer", "conv"), ("dpt", "plain_vit")]


def split(quick):
    return [*quick, *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in quick)]


@pytest.mark.parametrize(("kind", "encoder"), split([*TRACED, ("unetplusplus", "conv"), ("ocrnet", "conv")]))
def test_compiles_as_one_graph(kind, encoder):
    torch._dynamo.reset()
    net, image = network(kind, encoder).eval(), pixels(2, 4, 75, 101)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(image), net(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_compiles_for_training_with_all_its_heads(kind):
    torch._dynamo.reset()
    net, image = network(kind, "conv", **HELPED, **SUPERVISED.get(kind, {})), pixels(2, 4, 64, 64)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    outputs = torch.compile(net, fullgraph=True, backend="aot_eager")(image)
    expected = net(image)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-4)
    outputs.logits.sum().backward()


@pytest.mark.slow
def test_compiles_by_inductor():
    torch._dynamo.reset()
    net, image = network("unet").eval(), pixels(2, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True)(image), net(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "encoder"), split(TRACED))
def test_exported_program_takes_any_size(kind, encoder, tmp_path):
    net = network(kind, encoder).eval()
    export(net, tmp_path / "net.pt2", verify=False)
    program = torch.export.load(tmp_path / "net.pt2").module()
    # The tracer takes it for granted that PAN's coarsest map has more than one pixel; fixed sizes are large multiples.
    sizes = [(133, 147), (160, 129)] if (kind, encoder) != ("pan", "fixed_size") else [(500, 490), (485, 520)]
    for count, size in zip((1, 3), sizes, strict=True):
        shape = (count, 4, *size)
        image = pixels(*shape, dtype=torch.float32)
        torch.testing.assert_close(program(image), net(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "encoder"), split([("unet", "conv"), ("segformer", "conv"), ("dpt", "plain_vit")]))
def test_onnx_takes_any_size(kind, encoder, tmp_path):
    export(network(kind, encoder), tmp_path / "net.onnx")  # which compares with ONNX Runtime
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert {p.key: p.value for p in model.metadata_props}["classes"] == "3"


def test_one_size_only(tmp_path):
    net = network("linknet").eval()
    export(net, tmp_path / "net.pt2", size=(70, 50), dynamic=False)
    image = pixels(1, 4, 70, 50, dtype=torch.float32)
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(image), net(image), rtol=1e-4, atol=1e-4)


def test_the_network_stays_as_it_is(tmp_path):
    net = network("linknet", **HELPED).train()
    export(net, tmp_path / "net.pt2", size=(64, 64), dynamic=False)
    assert net.training
    assert net.helped
    assert all(p.requires_grad for p in net.parameters())


def test_from_the_command_line(tmp_path, capsys):
    bundle = small.save(tmp_path / "bundle")
    target = tmp_path / "net.pt2"
    assert main(["models", "export", bundle.uri, str(target), "--size", "64", "64"]) == 0
    assert str(target) in capsys.readouterr().out
    image = pixels(1, 4, 64, 64, dtype=torch.float32)
    found = torch.export.load(target).module()(image)
    torch.testing.assert_close(found, bundle.network(image), rtol=1e-4, atol=1e-4)


def test_what_does_not_work_is_said(tmp_path, monkeypatch):
    net = network("linknet")
    with pytest.raises(RecipeError, match="there is no format 'tflite'"):
        export(net, tmp_path / "net.tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"ONNX needs onnx, onnxscript, onnxruntime") as caught:
        export(net, tmp_path / "net.onnx")
    assert "segpipe[onnx]" in caught.value.hint

    class Refuses(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    net.head[0] = Refuses()
    with pytest.raises(RecipeError, match=r"linknet on test_resnet cannot be exported to pt2"):
        export(net, tmp_path / "net.pt2")
    monkeypatch.setattr(exporting, "_READERS", {"pt2": lambda path: lambda image: image.new_zeros(1, 3, 64, 64)})
    with pytest.raises(RecipeError, match="was written, but its logits differ"):
        export(network("linknet"), tmp_path / "net.pt2", size=(64, 64), dynamic=False)
