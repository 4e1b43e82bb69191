"""Weights drawn once have the values that their initialisers say."""

from __future__ import annotations

import timm
import torch
from torch import nn

from pipeline.model.encoders.deferred_init import Drawing, ShapeOnlyInit


def drawn(build, seed=0):
    torch.manual_seed(seed)
    with Drawing() as drawing:
        model = build()
        drawing.finish(model)
    return model


def test_the_last_initialiser_wins():
    def build():
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=5.0)
        nn.init.constant_(layer.bias, 2.0)
        return layer

    layer = drawn(build)
    assert 4 < layer.weight.std() < 6 and (layer.bias == 2).all()


def test_values_that_are_looked_at_are_there():
    seen = []

    def build():
        layer = nn.Linear(64, 64, bias=False)
        seen.append(layer.weight.abs().max().item())
        layer.weight.data.mul_(100)
        layer.weight.data[0] = 7.0
        return layer

    layer = drawn(build)
    assert 0 < seen[0] <= 1 / 8 and (layer.weight[0] == 7).all()
    assert 100 * seen[0] >= layer.weight[1:].abs().max() > 5


def test_weights_that_are_copied_over_are_never_drawn():
    given = torch.rand(300, 300)

    def build():
        layer = nn.Linear(300, 300)
        layer.load_state_dict({"weight": given, "bias": torch.zeros(300)})
        return layer

    torch.manual_seed(0)
    expected = torch.rand(1)
    assert torch.equal(drawn(build).weight, given) and torch.equal(torch.rand(1), expected)


def test_equal_seeds_give_equal_weights_with_any_number_of_processors():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = drawn(lambda: timm.create_model("test_vit")).state_dict()
        torch.set_num_threads(4)
        four = drawn(lambda: timm.create_model("test_vit")).state_dict()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[key], four[key]) for key in one)
    other = drawn(lambda: timm.create_model("test_vit"), seed=1).state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_distributions_are_those_of_timm():
    for name in ("test_resnet", "test_vit", "test_convnext", "test_efficientnet"):
        plain = timm.create_model(name).state_dict()
        for key, value in drawn(lambda name=name: timm.create_model(name)).state_dict().items():
            if not value.is_floating_point():
                continue
            assert value.isfinite().all(), key
            if value.numel() > 2000:
                assert abs(value.std() / plain[key].std() - 1) < 0.15, key
            elif plain[key].numel() > 1 and plain[key].std() == 0:
                assert torch.equal(value, plain[key]), key


def test_a_sketch_is_as_large_as_the_model():
    with torch.device("meta"), ShapeOnlyInit():
        sketch = timm.create_model("test_vit")
    real = timm.create_model("test_vit")
    assert {k: v.shape for k, v in sketch.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    assert all(p.is_meta for p in sketch.parameters())
