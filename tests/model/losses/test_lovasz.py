"""Lovász against SMP, and against the Jaccard loss that it extends."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import create_loss, lovasz
from tests.model.losses.batches import CHANNELS, assert_equal, evaluate, make_logits, make_mask


@pytest.mark.parametrize("classes_absent", [False, True])
def test_softmax_equals_smp(classes_absent):
    mask = make_mask("multiclass")
    if classes_absent:
        mask[0][mask[0] == 2] = 0
    theirs = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=IGNORE)
    assert_equal(create_loss("lovasz", 4), theirs, make_logits("multiclass"), mask)


@pytest.mark.parametrize("empty", [False, True])
def test_hinge_equals_smp(empty):
    mask = make_mask("binary")
    if empty:
        mask[0][mask[0] == 1] = 0
    theirs = smp.losses.LovaszLoss("binary", per_image=True, ignore_index=IGNORE)
    assert_equal(create_loss("lovasz", 1, task="binary"), theirs, make_logits("binary"), mask)


def test_each_channel_of_a_multilabel_is_a_binary():
    logits, mask = make_logits("multilabel"), make_mask("multilabel")
    binary = create_loss("lovasz", 1, task="binary")
    channels = [binary(logits[:, k : k + 1], mask[:, k]) for k in range(3)]
    torch.testing.assert_close(create_loss("lovasz", 3, task="multilabel")(logits, mask), sum(channels) / 3)


@pytest.mark.parametrize("absent", ["skip", "count"])
def test_of_hard_predictions_it_is_the_jaccard_loss(absent):
    logits, mask = make_logits("multiclass").detach() * 1e4, make_mask("multiclass")
    mask[1][mask[1] == 3] = IGNORE
    chips = []
    for x, y in zip(logits, mask, strict=True):
        guess, losses = x.argmax(0)[y != IGNORE], []
        for k in range(4):
            a, b = guess == k, y[y != IGNORE] == k
            if b.any() or absent == "count":
                losses.append(1 - float((a & b).sum()) / float((a | b).sum()))
        chips.append(sum(losses) / len(losses))
    assert float(create_loss("lovasz", 4, absent=absent)(logits, mask)) == pytest.approx(sum(chips) / 4, abs=1e-6)


def test_the_slope_of_equal_errors_is_one_of_their_orders():
    logits = torch.zeros(1, 2, 2, 3, requires_grad=True)
    mask = torch.tensor([[[0, 1, 1], [0, 0, IGNORE]]])
    value, gradient = evaluate(create_loss("lovasz", 2), logits, mask)
    assert float(value) == pytest.approx(0.5)
    assert gradient.isfinite().all()


def test_a_chip_too_large_for_whole_numbers_in_float32_is_counted_in_float64(monkeypatch):
    logits, mask = make_logits("multiclass"), make_mask("multiclass")
    expected = evaluate(create_loss("lovasz", 4), logits, mask)
    monkeypatch.setattr(lovasz, "_EXACT", 0)
    torch.testing.assert_close(evaluate(create_loss("lovasz", 4), logits, mask), expected)


@pytest.mark.parametrize("task", CHANNELS)
def test_classes_may_be_sorted_one_or_many_at_a_time(task, monkeypatch):
    logits, mask = make_logits(task), make_mask(task)
    loss, found = create_loss("lovasz", CHANNELS[task], task=task), []
    for keys in (1, 130, 1 << 20):
        monkeypatch.setattr(lovasz, "_KEYS", keys)
        found.append(evaluate(loss, logits, mask))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))
