"""The pass over the logits against the plain form, however it is cut into blocks."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.losses import create_loss, fused
from tests.model.losses.batches import evaluate, make_logits, make_mask

SPREADS = torch.tensor([[0.5, 2.0, 0.0, 1.5], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)


def both_forms(logits, mask, weights, regions=True):
    """Results and, for random incoming gradients, the gradient; of the pass and of the plain form."""
    found = []
    for form in (
        lambda *given: fused._Pass.apply(*given[:4], True, given[4], torch.float64),
        lambda *given: fused._plain(*given, torch.float64),
    ):
        out = form(logits, mask, weights, SPREADS, regions)
        generator = torch.Generator().manual_seed(5)
        value = sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in out)
        found.append((*(t.detach() for t in out), torch.autograd.grad(value, logits)[0]))
    return found


@pytest.mark.parametrize("elements", [1, 100, 400, 4 * 9 * 7 * 3, 1 << 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_of_any_size_give_the_plain_form(elements, weighted, monkeypatch):
    monkeypatch.setitem(fused._ELEMENTS, "cpu", elements)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    logits = make_logits("multiclass", dtype=torch.float64)
    weights = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(2)) if weighted else None
    blocks = list(fused._blocks(logits))
    assert (len(blocks) > 1) == (elements < 4 * 4 * 9 * 7)
    ours, plain = both_forms(logits, make_mask("multiclass"), weights)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_sums_per_class_can_be_left_out():
    ours, plain = both_forms(make_logits("multiclass", dtype=torch.float64), make_mask("multiclass"), None, False)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_sums_of_many_pixels_lose_nothing():
    """Ones in float32 stop adding up at 2^24."""
    logits = torch.zeros(1, 2, 1, 1).expand(5, 2, 2048, 2048)
    mask = torch.zeros(5, 2048, 2048, dtype=torch.uint8)
    sums = create_loss("dice", 2).sums(logits, mask).view(4, 2)
    assert sums[2, 0] == 5 * 2**22
    torch.testing.assert_close(sums[1], torch.full((2,), 2.5 * 2**22), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("kinds", [["cross_entropy", "dice"], ["lovasz", "ohem"], ["boundary", "cldice"]])
def test_compiled_it_is_the_same(kinds):
    logits, mask = make_logits("multiclass"), make_mask("multiclass")
    loss = create_loss(kinds, 4)
    expected = evaluate(loss, logits, mask)
    torch._dynamo.reset()
    compiled = torch.compile(loss.sums, backend="aot_eager", fullgraph="dice" in kinds)
    value = loss.value(compiled(logits, mask))
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], expected[1])
