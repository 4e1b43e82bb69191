"""Class ids from logits, and pairs of class ids counted, against numpy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import confusion, confusion_of_logits, predict_classes, tables

K = 5


@pytest.fixture
def labelled():
    """Prediction and mask; class 3 is never predicted, class 4 is nowhere."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 3, (3, 20, 30), generator=generator, dtype=torch.uint8)
    mask = torch.where(torch.rand(prediction.shape, generator=generator) < 0.6, prediction, 3 - prediction)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
    return prediction, mask


def looped(prediction, mask, num_classes):
    expected = np.zeros((num_classes, num_classes), int)
    for truth, predicted in zip(mask.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if IGNORE not in (truth, predicted):
            expected[truth, predicted] += 1
    return torch.from_numpy(expected)


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_leave_no_seams(monkeypatch, layout):
    logits = torch.randn(3, 6, 301, 517).contiguous(memory_format=layout)
    expected = logits.argmax(1)
    assert torch.equal(predict_classes(logits).long(), expected)
    assert torch.equal(predict_classes(logits[..., 40:-3]).long(), expected[..., 40:-3])
    monkeypatch.setattr(tables, "_WHOLE_PIXELS", 1 << 12)  # whole images become too large
    assert torch.equal(predict_classes(logits).long(), expected)
    assert torch.equal(predict_classes(logits.expand(1, 3, 6, 301, 517)[0]).long(), expected)


def test_255_classes_fit_a_byte():
    assert int(predict_classes(torch.eye(255)[None, :, :, None])[0, 254]) == 254


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_no_pixels_have_no_classes(shape):
    assert predict_classes(torch.zeros(shape)).shape == (shape[0], *shape[2:])
    assert not confusion_of_logits(torch.zeros(shape), torch.zeros(shape[0], *shape[2:], dtype=torch.uint8)).any()


def test_logits_of_a_training_step_and_of_integers():
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    assert torch.equal(predict_classes(logits).long(), logits.argmax(1))
    steps = (logits * 3).int()
    assert torch.equal(predict_classes(steps), predict_classes(steps.float()))


def test_confusion_equals_a_plain_loop(labelled):
    prediction, mask = labelled
    counts = confusion(prediction, mask, K)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, looped(prediction, mask, K))
    assert torch.equal(counts, sum(confusion(p, m, K) for p, m in zip(prediction, mask, strict=True)))


@pytest.mark.parametrize("num_classes", [1, 2, 13, 14, 15, 60, 178, 179, 180, 255])
def test_any_number_of_classes_of_any_number_of_images(num_classes):
    """Numbers on either side of where a larger type begins."""
    generator = torch.Generator().manual_seed(num_classes)
    prediction, mask = torch.randint(0, num_classes, (2, 3, 20, 20), generator=generator)
    prediction[:, 0, 0] = num_classes - 1
    mask[:, 0] = num_classes - 1
    mask[:, 1], prediction[:, 2] = IGNORE, IGNORE
    assert torch.equal(confusion(prediction, mask, num_classes), looped(prediction, mask, num_classes))
    per_image = tables.tabulate(prediction, mask, num_classes)
    expected = torch.stack([looped(p, m, num_classes) for p, m in zip(prediction, mask, strict=True)])
    assert torch.equal(per_image, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_ids_of_any_integer_type(labelled, dtype):
    prediction, mask = labelled
    assert torch.equal(confusion(prediction.to(dtype), mask.to(dtype), K), confusion(prediction, mask, K))
    assert torch.equal(confusion(prediction, mask.to(dtype), K), confusion(prediction, mask, K))


def test_confusion_of_logits_is_that_of_their_classes(labelled):
    prediction, mask = labelled
    logits = torch.randn(3, K, 20, 30)
    assert torch.equal(confusion_of_logits(logits, mask), confusion(predict_classes(logits), mask, K))
    certain = torch.nn.functional.one_hot(prediction.long(), K).permute(0, 3, 1, 2).float()
    assert torch.equal(confusion_of_logits(certain, mask), confusion(prediction, mask, K))


def test_pixels_without_a_prediction_are_left_out(labelled):
    prediction, mask = labelled
    prediction[0] = IGNORE
    assert torch.equal(confusion(prediction, mask, K), confusion(prediction[1:], mask[1:], K))


@pytest.mark.parametrize(("prediction", "truth"), [(5, 0), (0, 5), (0, 254), (300, 0), (0, 300), (-1, 0), (0, -100)])
def test_ids_outside_the_classes_are_refused(prediction, truth):
    with pytest.raises(ValueError, match="class id") as refusal:
        confusion(torch.tensor([[prediction, 1]]), torch.tensor([[truth, 1]]), K)
    assert str(prediction or truth) in str(refusal.value)
    assert ("prediction" if prediction else "mask") in str(refusal.value)


def test_shapes_and_types_must_agree():
    ids = torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(ids, ids[0], K)
    with pytest.raises(ValueError, match="same size"):
        confusion_of_logits(torch.zeros(1, K, 2, 3), ids)
    with pytest.raises(ValueError, match="float32 instead of class ids"):
        confusion(ids, ids.float(), K)
    with pytest.raises(ValueError, match=r"not in 1\.\.255"):
        confusion(ids, ids, 256)
