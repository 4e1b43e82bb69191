"""Losses against independent implementations, and the promises of sums."""

from __future__ import annotations

from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from pipeline.data.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.model import losses
from pipeline.recipe.losses import CrossEntropy, Dice, LossTerm

K = 4
WEIGHTS = [0.5, 2.0, 0.0, 1.5]
MIXES = {
    "ce": [CrossEntropy()],
    "ce weighted": [CrossEntropy(class_weights=WEIGHTS)],
    "ce smoothed": [CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.2)],
    "dice": [Dice()],
    "dice count": [Dice(absent="count")],
    "all": [CrossEntropy(weight=0.7), Dice(weight=2), CrossEntropy(label_smoothing=0.1)],
}


@pytest.fixture
def logits():
    return (torch.randn(4, K, 9, 7, generator=torch.Generator().manual_seed(0)) * 3).requires_grad_()


@pytest.fixture
def mask():
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, K, (4, 9, 7), generator=generator, dtype=torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = IGNORE
    return mask


def evaluate(terms, logits, mask):
    """Value and gradient."""
    loss = losses.build(terms, K)
    value = loss.value(loss.sums(logits, mask))
    return value, torch.autograd.grad(value, logits)[0]


def assert_equal(terms, reference, logits, mask):
    value, gradient = evaluate(terms, logits, mask)
    expected = reference(logits, mask.long())
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(logits, mask, weights, smoothing):
    tensor = None if weights is None else torch.tensor(weights)

    def reference(x, y):
        return F.cross_entropy(x, y, tensor, ignore_index=IGNORE, label_smoothing=smoothing)

    assert_equal([CrossEntropy(class_weights=weights, label_smoothing=smoothing)], reference, logits, mask)


@pytest.mark.parametrize("absent", ["skip", "count"])
def test_dice_equals_smp_where_every_class_is_present(logits, mask, absent):
    assert_equal([Dice(absent=absent)], smp.losses.DiceLoss("multiclass", ignore_index=IGNORE), logits, mask)


@pytest.mark.parametrize("absent", ["skip", "count"])
def test_dice_equals_a_plain_loop_where_a_class_is_absent(logits, mask, absent):
    mask[mask == 2] = 0

    def reference(x, y):
        p, terms = x.softmax(1), []
        for k in range(K):
            inside = p[:, k][y != IGNORE]
            truth = (y[y != IGNORE] == k).float()
            if absent == "count" or truth.any():
                terms.append(1 - 2 * (inside * truth).sum() / (inside.sum() + truth.sum()))
        return torch.stack(terms).mean()

    assert_equal([Dice(absent=absent)], reference, logits, mask)


def test_a_mix_is_the_weighted_sum_of_its_parts(logits, mask):
    loss = losses.build(MIXES["all"], K)
    sums = loss.sums(logits, mask)
    parts = loss.parts(sums)
    assert list(parts) == ["cross_entropy", "dice", "cross_entropy_2"]
    alone = [float(evaluate([t.model_copy(update={"weight": 1.0})], logits, mask)[0].detach()) for t in MIXES["all"]]
    assert list(parts.values()) == pytest.approx(alone)
    assert float(loss.value(sums.detach())) == pytest.approx(0.7 * alone[0] + 2 * alone[1] + alone[2])


@pytest.mark.parametrize("terms", MIXES.values(), ids=MIXES.keys())
class TestEveryLoss:
    def test_a_divided_batch_has_the_loss_and_gradient_of_the_whole(self, terms, logits, mask):
        mask[0] = IGNORE  # one worker has less to say than the other
        value, gradient = evaluate(terms, logits, mask)
        loss = losses.build(terms, K)
        local = [loss.sums(x, y) for x, y in zip(logits.split([1, 3]), mask.split([1, 3]), strict=True)]
        total = sum(s.detach() for s in local)
        values = [loss.value(s + (total - s.detach())) for s in local]
        for divided in values:
            torch.testing.assert_close(divided, value, rtol=1e-6, atol=1e-6)
        divided = sum(torch.autograd.grad(v, logits, retain_graph=True)[0] for v in values)
        torch.testing.assert_close(divided, gradient, rtol=1e-5, atol=1e-7)

    def test_ignored_pixels_have_no_gradient_at_all(self, terms, logits, mask):
        gradient = evaluate(terms, logits, mask)[1].movedim(1, -1)
        assert (gradient[mask == IGNORE] == 0).all()
        assert (gradient[mask == 1] != 0).any()

    def test_what_is_under_ignored_pixels_does_not_matter(self, terms, logits, mask):
        other = torch.where((mask == IGNORE)[:, None], 1e4 * torch.randn_like(logits), logits)
        value, gradient = evaluate(terms, logits, mask)
        other_value, other_gradient = evaluate(terms, other.detach().requires_grad_(), mask)
        torch.testing.assert_close(other_value, value, rtol=0, atol=0)
        torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=0)

    def test_nothing_but_ignored_pixels_is_zero(self, terms, logits):
        value, gradient = evaluate(terms, logits, torch.full((4, 9, 7), IGNORE, dtype=torch.uint8))
        assert value == 0
        assert (gradient == 0).all()

    def test_gradient_is_that_of_finite_differences(self, terms, mask):
        loss = losses.build(terms, K)
        small, labels = torch.randn(1, K, 2, 2, dtype=torch.float64, requires_grad=True), mask[:1, :2, :2]
        analytic = torch.autograd.grad(loss.value(loss.sums(small, labels)), small)[0]
        step = 1e-2  # the sums are float32
        for i in range(small.numel()):
            shift = torch.zeros(small.numel(), dtype=torch.float64)
            shift[i] = step
            shifted = (small.detach() + s * shift.view_as(small) for s in (1, -1))
            high, low = (loss.value(loss.sums(x, labels)) for x in shifted)
            assert float(high - low) / (2 * step) == pytest.approx(float(analytic.flatten()[i]), abs=2e-3)

    def test_sums_are_float32_under_autocast(self, terms, logits, mask):
        loss = losses.build(terms, K)
        with torch.autocast("cpu", torch.bfloat16):
            half = loss.sums(logits.bfloat16(), mask)
        assert half.dtype == torch.float32
        expected = loss.sums(logits.bfloat16().float(), mask)
        torch.testing.assert_close(half, expected, rtol=0, atol=0)

    def test_large_logits_stay_finite(self, terms, logits, mask):
        value, gradient = evaluate(terms, logits * 1e4, mask)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_tags_are_those_of_the_recipe():
    kinds = get_args(get_args(LossTerm)[0])
    assert list(losses.LOSSES) == [kind.model_fields["kind"].default for kind in kinds]


def test_class_weights_must_match_the_classes():
    with pytest.raises(RecipeError, match=r"3 class_weights for 4 classes"):
        losses.build([CrossEntropy(class_weights=[1, 2, 3])], K)
