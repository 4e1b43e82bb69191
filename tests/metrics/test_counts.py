"""Counts of every task, against scikit-learn, SMP and a hand count."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import Counts, count
from tests.metrics.batches import same

K = 4
SHAPES = {"multiclass": ((3, K, 9, 7), (3, 9, 7)), "binary": ((3, 9, 7),) * 2, "multilabel": ((3, K, 9, 7),) * 2}
TASKS = list(SHAPES)


def batch(task, seed=0, ignore=0.2):
    """Logits and a mask with IGNORE in it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SHAPES[task][0], generator=generator)
    mask = torch.randint(0, K if task == "multiclass" else 2, SHAPES[task][1], generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < ignore] = IGNORE
    return logits, mask


def ids_of(logits, task):
    return logits.argmax(1) if task == "multiclass" else (logits > 0).long()


@pytest.mark.parametrize("task", TASKS)
class TestEveryTask:
    def test_counts_equal_scikit_learn_image_by_image(self, task):
        logits, mask = batch(task)
        counts = count(logits, mask, task=task)
        ids = ids_of(logits, task)
        for image in range(3):
            measured = mask[image] != IGNORE
            if task == "multiclass":
                found = sklearn.metrics.multilabel_confusion_matrix(
                    mask[image][measured], ids[image][measured], labels=range(K)
                )
            else:
                planes = zip(mask[image].view(-1, 63), ids[image].view(-1, 63), strict=True)
                found = [sklearn.metrics.confusion_matrix(m[m != 255], p[m != 255], labels=[0, 1]) for m, p in planes]
            for k, ((tn, fp), (fn, tp)) in enumerate(found):
                assert [int(part[image, k]) for part in counts] == [tp, fp, fn, tn]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64])
    def test_ids_and_masks_are_of_any_integer_type(self, task, dtype):
        logits, mask = batch(task)
        ids = ids_of(logits, task)
        options = {} if task == "binary" else {"num_classes": K}
        expected = count(ids, mask, task=task, **options)
        assert same(count(ids.to(dtype), mask.to(dtype), task=task, **options), expected)

    def test_ids_count_as_their_logits(self, task):
        logits, mask = batch(task)
        ids = ids_of(logits, task)
        expected = count(logits, mask, task=task)
        assert all(part.dtype == torch.int64 for part in expected)
        for given_ids in (ids, ids.to(torch.uint8), *([ids.bool()] if task != "multiclass" else [])):
            assert same(count(given_ids, mask.to(torch.uint8), K if task != "binary" else None, task=task), expected)

    def test_ignored_pixels_never_count(self, task):
        logits, mask = batch(task)
        hidden = (mask == IGNORE).unsqueeze(1) if task == "multiclass" else mask == IGNORE
        garbage = torch.where(hidden, 50 * torch.randn(logits.shape), logits)
        assert same(count(garbage, mask, task=task), count(logits, mask, task=task))
        ids = ids_of(logits, task)
        ids[0] = IGNORE  # not predicted
        without = count(ids, mask, K if task != "binary" else 1, task=task)
        assert not any(part[0].any() for part in without)
        assert sum(part[1:].sum() for part in without) == sum(part[1:].sum() for part in count(logits, mask, task=task))
        nothing = count(logits, torch.full_like(mask, IGNORE), task=task)
        assert not any(part.any() for part in nothing)

    def test_counts_equal_smp_where_it_can_count(self, task):
        logits, mask = batch(task, ignore=0)
        output = logits.argmax(1) if task == "multiclass" else logits.sigmoid()
        options = {"num_classes": K} if task == "multiclass" else {"threshold": 0.5}
        if task == "binary":
            output, mask = output[:, None], mask[:, None]
        expected = smp.metrics.get_stats(output, mask, mode=task, **options)
        assert same(count(logits, mask, task=task), expected)

    def test_memory_layout_does_not_matter(self, task):
        logits, mask = batch(task)
        turned = [part.transpose(-1, -2).contiguous().transpose(-1, -2) for part in (logits, mask)]
        assert not turned[0].is_contiguous()
        assert same(count(*turned, task=task), count(logits, mask, task=task))

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 2**31))
    def test_order_of_pixels_and_images_does_not_matter(self, task, seed):
        logits, mask = batch(task, seed)
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randperm(63, generator=generator)
        images = torch.randperm(3, generator=generator)
        shuffled = [part.flatten(-2)[..., pixels].view(part.shape)[images] for part in (logits, mask)]
        expected = [part[images] for part in count(logits, mask, task=task)]
        assert same(count(*shuffled, task=task), expected)


def test_binary_takes_a_class_axis_of_one():
    logits, mask = batch("binary")
    expected = count(logits, mask, task="binary")
    assert expected.num_classes == 1
    assert same(count(logits[:, None], mask, task="binary"), expected)
    assert same(count(logits[:, None], mask[:, None], 1, task="binary"), expected)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_positive_is_a_probability_above_the_threshold(threshold, dtype):
    logits = torch.linspace(-4, 4, 2000).to(dtype).view(1, 40, 50)
    mask = torch.ones(1, 40, 50, dtype=torch.uint8)
    counts = count(logits, mask, task="binary", threshold=threshold)
    assert int(counts.tp) == int((logits.double().sigmoid() > threshold).sum())


def test_the_cut_is_not_rounded_to_half_precision():
    logit = torch.tensor([[[0.84765625]]], dtype=torch.bfloat16)  # what log(0.7 / 0.3) = 0.8473 is rounded to
    assert int(count(logit, torch.ones(1, 1, 1).long(), task="binary", threshold=0.7).tp) == 1


def test_exactly_the_threshold_is_negative_as_in_an_argmax():
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8)
    assert int(count(zero, one, task="binary").fn) == 1
    assert int(count(torch.zeros(1, 2, 1, 1), one).fn[0, 1]) == 1


@pytest.mark.parametrize(
    ("prediction", "mask", "options", "message"),
    [
        ((2, 3, 4, 4), (2, 4, 5), {}, "same size"),
        ((2, 3, 4, 4), (2, 3, 4, 4), {}, "same size"),
        ((2, 3, 4, 4), (2, 4, 4), {"num_classes": 4}, "3 classes instead of 4"),
        ((2, 3, 4), (2, 3, 4), {}, "multiclass: logits"),
        ((2, 2, 4, 4), (2, 4, 4), {"task": "binary"}, "one shape"),
        ((2, 2, 4, 4), (2, 2, 4, 4), {"task": "binary"}, "2 classes instead of 1"),
        ((2, 2, 4, 4), (2, 2, 4, 4), {"task": "multilabel", "num_classes": 3}, "2 classes instead of 3"),
        ((2, 2, 4, 4), (2, 4, 4), {"task": "multilabel"}, "one shape"),
        ((2, 3, 4, 4), (2, 4, 4), {"task": "multi-class"}, "did you mean 'multiclass'"),
        ((2, 3, 4, 4), (2, 4, 4), {"task": "pixels"}, "known are multiclass, binary, multilabel"),
        ((2, 4, 4), (2, 4, 4), {"task": "binary", "threshold": 1.0}, "threshold"),
    ],
)
def test_shapes_and_options_that_do_not_fit_are_refused(prediction, mask, options, message):
    with pytest.raises(ValueError, match=message):
        count(torch.zeros(prediction), torch.zeros(mask, dtype=torch.uint8), **options)


def test_ids_need_the_number_of_classes_and_labels_are_0_or_1():
    ids = torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="num_classes is needed"):
        count(ids, ids)
    with pytest.raises(ValueError, match="mask holds 2"):
        count(ids, ids + 2, task="binary")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int64])
def test_an_id_beyond_a_byte_is_refused_in_any_integer_type(dtype):
    ids = torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="mask: class id 256"):
        count(ids, torch.full((1, 2, 2), 256).to(dtype), 3)


class TestCounts:
    def test_images_are_joined_and_totals_added(self):
        logits, mask = batch("multiclass")
        whole, first, rest = (count(logits[part], mask[part]) for part in (slice(None), slice(1), slice(1, None)))
        assert same(first + rest, whole)
        assert (first + rest).per_image
        assert same(first.pooled() + rest, whole.pooled())
        assert not whole.pooled().per_image

    def test_selected_classes_are_those_columns(self):
        counts = count(*batch("multiclass"))
        assert same(counts.select([3, 1]), [part[:, [3, 1]] for part in counts])
        assert same(counts.pooled().select(range(1, K)), [part[1:] for part in counts.pooled()])
        with pytest.raises(ValueError, match=r"\[4, -1\] are not in 0..3"):
            counts.select([4, 0, -1])

    def test_four_parts_of_one_shape_of_integers(self):
        part = torch.zeros(2, 3, dtype=torch.int64)
        with pytest.raises(ValueError, match="shapes"):
            Counts(part, part, part, part[0])
        with pytest.raises(ValueError, match="integers"):
            Counts(part, part, part, part.float())
        with pytest.raises(ValueError, match="of 3 and of 2 classes"):
            Counts(part, part, part, part) + Counts(*[part[:, :2]] * 4)

    def test_moves(self):
        assert count(*batch("binary"), task="binary").to("meta").tp.device.type == "meta"


@settings(max_examples=30, deadline=None)
@given(tables=arrays.arrays("int64", (2, 3, 3), elements=st.integers(0, 1 << 40)))
def test_counts_of_large_tables_are_exact(tables):
    counts = Counts.from_tables(torch.from_numpy(tables))
    for image, table in enumerate(tables.tolist()):
        total = sum(map(sum, table))
        for k in range(3):
            tp = table[k][k]
            fn, fp = sum(table[k]) - tp, sum(row[k] for row in table) - tp
            assert [int(part[image, k]) for part in counts] == [tp, fp, fn, total - tp - fp - fn]
