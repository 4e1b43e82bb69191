"""An optimised network computes what it was made from, with less."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from pipeline.errors import RecipeError
from pipeline.model.optimise import difference, faster_precision, fold, layout_of, optimised
from tests.model import small
from tests.model.families import CASES, HELPED, network, pixels


def grown(kind, encoder, **options):
    """A network whose norms have seen something, so that folding them wrongly shows."""
    net = network(kind, encoder, **options).train()
    for seed in range(2):
        torch.manual_seed(seed)
        net(torch.rand(2, 4, 64, 64) * 200)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.rand_like(parameter)
        assert name
    return net.eval()


def batch_norms(net):
    return [name for name, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


# In other encoders there are other norms; each family on one, and one family on each.
QUICK = [
    (kind, encoder) for kind, encoder in CASES if encoder == "conv" or (kind == "unet" and encoder != "fixed_size")
]


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in QUICK)],
)
def test_float32_gives_the_same_logits(kind, encoder):
    net, image = grown(kind, encoder), pixels(2, 4, 75, 101)
    with torch.no_grad():
        assert difference(optimised(net, precision="fp32")(image), net(image)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "encoder"), [("unet", "conv"), ("unet", "norm_act"), ("fpn", "conv"), ("manet", "conv")]
)
def test_every_norm_behind_a_convolution_goes(kind, encoder):
    net = grown(kind, encoder)
    assert batch_norms(net)
    assert batch_norms(optimised(net, precision="fp32")) == []


def test_bfloat16_is_near_and_gives_float32():
    net, image = grown("unet", "conv"), pixels(2, 4, 96, 96)
    fast = optimised(net, precision="bf16")
    assert {p.dtype for p in fast.parameters()} == {torch.bfloat16}
    assert (fast.mean.dtype, fast.std.dtype) == (torch.float32, torch.float32)
    with torch.no_grad():
        logits, expected = fast(image), net(image)
    assert logits.dtype == torch.float32
    assert difference(logits, expected) < 0.05
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.97  # of random weights, whose classes are close


def test_tokens_are_in_the_same_precision():
    fast = optimised(network("dpt", "plain_vit"), precision="bf16")
    assert fast(pixels(1, 4, 40, 40)).isfinite().all()


def test_the_network_itself_is_not_changed():
    net = network("unet", "conv", **HELPED).train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fast = optimised(net)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in (*net.modules(), *fast.modules()))


def test_it_does_not_learn():
    fast = optimised(network(**HELPED))
    assert not fast(pixels(1, 4, 32, 32)).requires_grad
    assert not fast.helped or fast.labels is None
    with pytest.raises(RecipeError, match="does not learn"):
        fast.train()
    assert not fast.eval().training
    assert not copy.deepcopy(fast).training


def test_a_norm_stays_where_folding_it_would_change_something():
    class Twice(nn.Module):
        """The convolution's result has two readers."""

        def __init__(self, conv, norm):
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, x):
            out = self.conv(x)
            return self.norm(out) + out

    net = grown("linknet", "conv")
    conv, norm = net.head[1], nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(0.3)
    net.head[1] = Twice(conv, norm)
    image = pixels(1, 4, 64, 64)
    expected = net(image)
    fold(net)
    assert batch_norms(net) == ["head.1.norm"]
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)


def test_standardised_weights_stay():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)

    net = grown("linknet", "conv")
    norm = nn.BatchNorm2d(3).eval()
    norm.running_var.fill_(4.0)
    net.head[1] = nn.Sequential(Standardised(8, 3, 1), norm)
    image = pixels(1, 4, 64, 64)
    expected = net(image)
    fold(net)
    assert batch_norms(net) == ["head.1.1"]
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_gives_it(tmp_path):
    bundle = small.save(tmp_path / "bundle")
    image = pixels(1, 4, 64, 64)
    assert difference(bundle.optimised(precision="fp32")(image), bundle.network(image)) < 1e-4


def test_the_rules():
    assert layout_of(network("unet", "conv")) is torch.channels_last
    assert layout_of(network("segformer", "plain_vit")) is torch.contiguous_format
    with pytest.raises(RecipeError, match="precision: there is no 'int8'"):
        optimised(network(), precision="int8")


@pytest.mark.parametrize("slow", [torch.bfloat16, torch.float32])
def test_the_precision_is_the_faster_one_of_this_very_processor(monkeypatch: pytest.MonkeyPatch, slow) -> None:
    """Whatever instructions it says it has: a convolution that is slow in one type decides."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    convolve = torch.nn.Conv2d.forward

    def delayed(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == slow:
            time.sleep(0.02)
        return convolve(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", delayed)
    net = network("unet", "conv").eval()
    assert faster_precision(net, torch.contiguous_format) == ("fp32" if slow == torch.bfloat16 else "bf16")
    assert optimised(net).dtype == (torch.float32 if slow == torch.bfloat16 else torch.bfloat16)


def test_bfloat16_is_not_tried_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert faster_precision(network("unet", "conv").eval(), torch.contiguous_format) == "fp32"
