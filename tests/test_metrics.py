"""Counts and scores against torchmetrics and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.classes import IGNORE
from pipeline.metrics import confusion, predict_classes, scores

K = 5
NAMES = [f"c{k}" for k in range(K)]


@pytest.fixture
def labelled():
    """Prediction and mask; class 3 is never predicted, class 4 is nowhere."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 3, (3, 20, 30), generator=generator, dtype=torch.uint8)
    mask = torch.where(torch.rand(prediction.shape, generator=generator) < 0.6, prediction, 3 - prediction)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
    return prediction, mask


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 8, 9, 9))),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_largest_logit_wins_and_of_equal_ones_the_lowest_class(shape, levels, seed, dtype, layout):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(-levels, levels + 1, shape, generator=generator)  # few levels: many ties
    logits = torch.where(steps == levels, torch.inf, torch.where(steps == -levels, -torch.inf, steps / 3))
    logits = logits.to(dtype).contiguous(memory_format=layout)
    classes = predict_classes(logits)
    assert classes.dtype == torch.uint8
    first = np.argmax(logits.double().numpy(), 1)  # numpy promises the first of equal ones
    assert np.array_equal(classes.numpy(), first)
    assert torch.equal(classes.long(), logits.argmax(1))


def test_blocks_leave_no_seams():
    logits = torch.randn(2, 6, 301, 517)
    assert torch.equal(predict_classes(logits).long(), logits.argmax(1))
    assert torch.equal(predict_classes(logits[..., 40:-3]).long(), logits[..., 40:-3].argmax(1))


def test_255_classes_fit_a_byte():
    assert int(predict_classes(torch.eye(255)[None, :, :, None])[0, 254]) == 254


def test_confusion_equals_a_plain_loop(labelled):
    prediction, mask = labelled
    expected = np.zeros((K, K), int)
    for truth, predicted in zip(mask.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != IGNORE:
            expected[truth, predicted] += 1
    counts = confusion(prediction, mask, K)
    assert counts.dtype == torch.int64
    assert np.array_equal(counts.numpy(), expected)
    assert torch.equal(counts, sum(confusion(p, m, K) for p, m in zip(prediction, mask, strict=True)))


def test_pixels_without_a_prediction_are_left_out(labelled):
    prediction, mask = labelled
    prediction[0] = IGNORE
    assert torch.equal(confusion(prediction, mask, K), confusion(prediction[1:], mask[1:], K))


@pytest.mark.parametrize(("prediction", "truth"), [(5, 0), (0, 5), (0, 254), (300, 0), (0, 300)])
def test_ids_outside_the_classes_are_refused(prediction, truth):
    with pytest.raises(ValueError, match="class id"):
        confusion(torch.tensor([[prediction]]), torch.tensor([[truth]]), K)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(torch.zeros(1, 2, 2), torch.zeros(2, 2), K)


@pytest.mark.parametrize(
    ("score", "metric"),
    [
        ("iou", torchmetrics.JaccardIndex),
        ("dice", torchmetrics.F1Score),
        ("precision", torchmetrics.Precision),
        ("recall", torchmetrics.Recall),
    ],
)
def test_scores_equal_torchmetrics(labelled, score, metric):
    prediction, mask = labelled
    ours = scores(confusion(prediction, mask, K), NAMES)
    options = {"task": "multiclass", "num_classes": K, "ignore_index": IGNORE}
    per_class = metric(average="none", **options)(prediction, mask.long())
    for k in range(4):
        assert ours[f"{score}.c{k}"] == pytest.approx(float(per_class[k]), abs=1e-6)
    assert math.isnan(ours[f"{score}.c4"])
    assert ours[f"m{score}"] == pytest.approx(float(per_class[:4].mean()), abs=1e-6)
    # Its macro mean leaves classes out by the same rule.
    assert ours[f"m{score}"] == pytest.approx(float(metric(average="macro", **options)(prediction, mask.long())))


def test_accuracy_equals_torchmetrics(labelled):
    prediction, mask = labelled
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=K, ignore_index=IGNORE, average="micro")
    ours = scores(confusion(prediction, mask, K), NAMES)["accuracy"]
    assert ours == pytest.approx(float(metric(prediction, mask.long())))


def test_scores_by_hand():
    counts = torch.tensor([[6, 2, 0], [1, 0, 0], [0, 0, 0]])
    assert scores(counts, ["a", "b", "c"]) == pytest.approx(
        {
            "accuracy": 6 / 9,
            "miou": 6 / 9 / 2,
            "iou.a": 6 / 9,
            "iou.b": 0,
            "iou.c": math.nan,
            "mdice": 12 / 15 / 2,
            "dice.a": 12 / 15,
            "dice.b": 0,
            "dice.c": math.nan,
            "mprecision": 6 / 7 / 2,
            "precision.a": 6 / 7,
            "precision.b": 0,
            "precision.c": math.nan,
            "mrecall": 6 / 8 / 2,
            "recall.a": 6 / 8,
            "recall.b": 0,
            "recall.c": math.nan,
        },
        nan_ok=True,
    )


def test_nothing_counted_is_nan():
    assert all(math.isnan(value) for value in scores(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"]).values())
