"""Every loss, for every task it takes, keeps the same promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import LOSSES, create_loss
from pipeline.recipe.losses import LossTerm
from tests.model.losses.batches import CHANNELS, WEIGHTS, evaluate, make_logits, make_mask

GEOMETRIC = {"edge_cross_entropy", "boundary", "hausdorff", "cldice"}
"""What lies beside a pixel matters."""
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)
CASES = {f"{kind}, {task}": ({"kind": kind}, task) for kind in LOSSES for task in LOSSES[kind].tasks}
CASES["ohem, multiclass"] = ({"kind": "ohem", "threshold": 0.4, "min_kept": 9}, "multiclass")
OPTIONS = [
    {"kind": "cross_entropy", "class_weights": WEIGHTS},
    {"kind": "cross_entropy", "class_weights": WEIGHTS, "label_smoothing": 0.2},
    {"kind": "ohem", "share": 0.25},
    {"kind": "focal", "gamma": 0.5, "class_weights": WEIGHTS},
    {"kind": "dice", "absent": "count", "smooth": 2.0},
    {"kind": "dice", "class_weights": WEIGHTS},
    {"kind": "generalised_dice", "absent": "count"},
    {"kind": "lovasz", "absent": "count", "class_weights": WEIGHTS},
    {"kind": "cldice", "smooth": 0.0},
]
CASES |= {", ".join(f"{k}={v}" if k != "kind" else v for k, v in o.items()): (o, "multiclass") for o in OPTIONS}
CASES["bce, smoothed"] = ({"kind": "bce", "label_smoothing": 0.2, "pos_weight": [0.5, 3.0, 1.0]}, "multilabel")
CASES["focal, alpha"] = ({"kind": "focal", "alpha": 0.25}, "binary")


def build(fields, task):
    return create_loss([fields], CHANNELS[task], task=task)


def ignored(mask, task, logits):
    """bool like the logits."""
    return ((mask == IGNORE)[:, None] if task != "multilabel" else mask == IGNORE).expand_as(logits)


@pytest.mark.parametrize(("fields", "task"), CASES.values(), ids=CASES.keys())
class TestEveryLoss:
    def test_a_divided_batch_has_the_loss_and_gradient_of_the_whole(self, fields, task):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        mask[0] = IGNORE  # one worker has less to say than the other
        value, gradient = evaluate(loss, logits, mask)
        local = [loss.sums(x, y) for x, y in zip(logits.split([1, 3]), mask.split([1, 3]), strict=True)]
        total = sum(s.detach() for s in local)
        values = [loss.value(s + (total - s.detach())) for s in local]
        for divided in values:
            torch.testing.assert_close(divided.detach(), value, rtol=1e-5, atol=1e-6)
        divided = sum(torch.autograd.grad(v, logits, retain_graph=True)[0] for v in values)
        torch.testing.assert_close(divided, gradient, rtol=1e-4, atol=1e-6)

    def test_ignored_pixels_have_no_gradient_at_all(self, fields, task):
        logits, mask = make_logits(task), make_mask(task)
        gradient = evaluate(build(fields, task), logits, mask)[1]
        assert (gradient[ignored(mask, task, logits)] == 0).all()
        assert (gradient[~ignored(mask, task, logits)] != 0).any()

    @pytest.mark.parametrize("under", [1e4, math.inf, math.nan])
    def test_what_is_under_ignored_pixels_does_not_matter(self, fields, task, under):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        other = torch.where(ignored(mask, task, logits), under, logits.detach()).requires_grad_()
        value, gradient = evaluate(loss, logits, mask)
        other_value, other_gradient = evaluate(loss, other, mask)
        torch.testing.assert_close(other_value, value, rtol=0, atol=0)
        torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", INTEGERS, ids=str)
    def test_a_mask_is_of_any_integer_type(self, fields, task, dtype):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        if dtype == torch.int8:
            mask[mask == IGNORE] = 0  # int8 does not hold IGNORE
        value, gradient = evaluate(loss, logits, mask)
        other_value, other_gradient = evaluate(loss, logits, mask.to(dtype))
        torch.testing.assert_close(other_value, value, rtol=0, atol=0)
        torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=0)

    def test_nothing_but_ignored_pixels_is_zero(self, fields, task):
        logits, mask = make_logits(task), torch.full_like(make_mask(task), IGNORE)
        value, gradient = evaluate(build(fields, task), logits, mask)
        assert value == 0
        assert (gradient == 0).all()

    def test_gradient_is_that_of_finite_differences(self, fields, task):
        loss, size = build(fields, task), {"images": 2, "height": 4, "width": 3}
        logits, mask = make_logits(task, **size, dtype=torch.float64), make_mask(task, **size)
        weights = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(2)) + 0.5
        assert torch.autograd.gradcheck(lambda x: loss(x, mask, weights), logits, eps=1e-7, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_sums_are_float32_under_autocast(self, fields, task, dtype):
        loss, logits, mask = build(fields, task), make_logits(task).detach().to(dtype), make_mask(task)
        with torch.autocast("cpu", dtype):
            half = loss.sums(logits.requires_grad_(), mask)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss.sums(logits.float(), mask), rtol=0, atol=0)
        assert torch.autograd.grad(loss.value(half), logits)[0].isfinite().all()

    def test_large_logits_stay_finite(self, fields, task):
        value, gradient = evaluate(
            build(fields, task), make_logits(task).detach().mul(1e4).requires_grad_(), make_mask(task)
        )
        assert value.isfinite()
        assert gradient.isfinite().all()

    def test_the_order_of_the_chips_does_not_matter(self, fields, task):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        value, gradient = evaluate(loss, logits, mask)
        turned_value, turned = evaluate(loss, logits.detach().flip(0).requires_grad_(), mask.flip(0))
        torch.testing.assert_close(turned_value, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(turned.flip(0), gradient, rtol=1e-4, atol=1e-6)

    def test_layout_crop_and_type_of_the_mask_do_not_matter(self, fields, task):
        loss, logits, mask = build(fields, task), make_logits(task).detach(), make_mask(task)
        value, gradient = evaluate(loss, logits.clone().requires_grad_(), mask)
        laid = logits.clone(memory_format=torch.channels_last).requires_grad_()
        cropped = torch.nn.functional.pad(logits, (0, 3, 0, 2))[..., :-2, :-3].requires_grad_()
        for x, y in ((laid, mask.int()), (cropped, mask.long())):
            other_value, other = evaluate(loss, x, y)
            torch.testing.assert_close(other_value, value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)

    def test_the_truth_is_better_than_chance_and_its_opposite(self, fields, task):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task, ignore=0.0)
        mask[:, ..., :4] = 0  # a region
        ids = torch.arange(CHANNELS[task])[:, None, None] if task == "multiclass" else 1
        sure = 1.5 if fields.get("label_smoothing") else 20.0
        true = torch.where((mask if task == "multilabel" else mask[:, None]) == ids, sure, -sure)
        best, chance, worst = (float(loss(x.detach(), mask)) for x in (true, logits, -true))
        assert best < chance
        assert best < worst
        if fields["kind"] != "boundary" and not fields.get("label_smoothing"):
            assert best == pytest.approx(0, abs=1e-3)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_it_is_the_same(self, fields, task):
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        value, gradient = evaluate(loss, logits, mask)
        there = evaluate(loss, logits.detach().cuda().requires_grad_(), mask.cuda())
        again = evaluate(loss, logits.detach().cuda().requires_grad_(), mask.cuda())
        torch.testing.assert_close(there[0].cpu(), value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(there[1].cpu(), gradient, rtol=1e-4, atol=1e-6)
        assert torch.equal(there[0], again[0])

    def test_class_weights_of_one_change_nothing(self, fields, task):
        logits, mask = make_logits(task), make_mask(task)
        plain = {k: v for k, v in fields.items() if k != "class_weights"}
        value, gradient = evaluate(build(plain, task), logits, mask)
        other_value, other = evaluate(build({**plain, "class_weights": [1.0] * CHANNELS[task]}, task), logits, mask)
        torch.testing.assert_close(other_value, value)
        torch.testing.assert_close(other, gradient)

    def test_equal_pixel_weights_change_nothing(self, fields, task):
        if fields.get("smooth") or fields["kind"] == "cldice":
            return  # pixels are added to the sums
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        value, gradient = evaluate(loss, logits, mask)
        other_value, other = evaluate(loss, logits, mask, torch.full((4, 9, 7), 3.0))
        torch.testing.assert_close(other_value, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)

    def test_pixels_of_no_weight_are_as_ignored(self, fields, task):
        if fields["kind"] in GEOMETRIC:
            return  # they still are somebody's neighbours
        loss, logits, mask = build(fields, task), make_logits(task), make_mask(task)
        weights = (torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(3)) > 0.4).float()
        without = torch.where((weights[:, None] if task == "multilabel" else weights) == 0, IGNORE, mask)
        value, gradient = evaluate(loss, logits, without)
        other_value, other = evaluate(loss, logits, mask, weights)
        torch.testing.assert_close(other_value, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)

    def test_a_pixel_of_weight_two_is_two_pixels(self, fields, task):
        if fields["kind"] in GEOMETRIC | {"ohem"}:
            return  # which pixels are the hardest is counted, not weighed
        loss = build(fields, task)
        logits, mask = (t(task, images=1, height=1, width=40).detach() for t in (make_logits, make_mask))
        times = torch.randint(1, 4, (40,), generator=torch.Generator().manual_seed(4))
        value = loss(logits, mask, times.float()[None, None])
        expected = loss(logits.repeat_interleave(times, -1), mask.repeat_interleave(times, -1))
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@given(
    case=st.sampled_from(list(CASES.values())),
    images=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    ignore=st.sampled_from([0.0, 0.5, 0.95]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_batch_the_sums_of_its_chips_add_up(case, images, height, width, scale, ignore, seed):
    loss, size = build(*case), {"images": images, "height": height, "width": width, "seed": seed}
    logits = (make_logits(case[1], **size).detach() * scale).requires_grad_()
    mask = make_mask(case[1], **size, ignore=ignore)
    sums = loss.sums(logits, mask)
    parts = sum(loss.sums(logits[i : i + 1], mask[i : i + 1]) for i in range(images))
    torch.testing.assert_close(sums, parts, rtol=1e-4, atol=1e-4)
    gradient = torch.autograd.grad(loss.value(sums), logits)[0]
    assert loss.value(sums).isfinite()
    assert gradient.isfinite().all()
    assert (gradient[ignored(mask, case[1], logits)] == 0).all()


QUICK = ["cross_entropy", "focal", "dice", "generalised_dice", "mcc"]


@pytest.mark.parametrize(
    ("terms", "task"),
    [(QUICK, "multiclass"), *(pytest.param(None, task, marks=pytest.mark.slow) for task in CHANNELS)],
)
def test_all_are_finite_at_2048_in_half_precision(terms, task):
    terms = terms or [kind for kind in LOSSES if task in LOSSES[kind].tasks]
    loss = create_loss(terms, 2 if task != "binary" else 1, task=task)
    logits = torch.randn(1, loss.num_classes, 2048, 2048).half().requires_grad_()
    mask = torch.randint(0, 2, (1, 2, 64, 64) if task == "multilabel" else (1, 64, 64), dtype=torch.uint8)
    mask = mask.repeat_interleave(32, -1).repeat_interleave(32, -2)
    sums = loss.sums(logits, mask)
    assert all(math.isfinite(part) for part in loss.parts(sums).values())
    assert torch.autograd.grad(loss.value(sums), logits)[0].isfinite().all()


def test_every_kind_is_in_the_documentation():
    text = (Path(__file__).parents[3] / "docs" / "losses.md").read_text()
    rows = [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row in LOSSES] == list(LOSSES)


def test_kinds_are_those_of_the_recipe():
    kinds = get_args(get_args(LossTerm)[0])
    assert list(LOSSES) == [kind.model_fields["kind"].default for kind in kinds]
