"""What is made of a whole confusion matrix: the scores of reports, and the correlations over all classes."""

from __future__ import annotations

import math

import pytest
import sklearn.metrics as sk
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import functional as tm

from pipeline import metrics
from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import Counts

NAMES = [f"c{k}" for k in range(5)]
nan = math.nan


class TestAllClassesAtOnce:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**31), classes=st.integers(2, 5))
    def test_equal_scikit_learn_and_torchmetrics(self, seed, classes):
        generator = torch.Generator().manual_seed(seed)
        prediction, mask = torch.randint(0, classes, (2, 1, 60), generator=generator)
        table = metrics.confusion(prediction, mask, classes)
        mcc, kappa = metrics.multiclass_mcc(table), metrics.multiclass_kappa(table)
        assert float(mcc) == pytest.approx(sk.matthews_corrcoef(mask[0], prediction[0]), abs=1e-9)
        assert float(kappa) == pytest.approx(sk.cohen_kappa_score(mask[0], prediction[0]), abs=1e-9)
        options = {"task": "multiclass", "num_classes": classes}
        assert float(mcc) == pytest.approx(float(tm.matthews_corrcoef(prediction, mask, **options)), abs=1e-5)
        assert float(kappa) == pytest.approx(float(tm.cohen_kappa(prediction, mask, **options)), abs=1e-5)

    def test_of_two_classes_they_are_those_of_one(self):
        table = torch.tensor([[5, 2], [1, 7]])
        one = Counts.from_tables(table[None]).select([1])
        torch.testing.assert_close(metrics.multiclass_mcc(table), metrics.mcc(one))
        torch.testing.assert_close(metrics.multiclass_kappa(table), metrics.kappa(one))

    def test_of_one_class_alone_there_is_no_value(self):
        table = torch.tensor([[5, 0], [0, 0]])
        for function in (metrics.multiclass_mcc, metrics.multiclass_kappa):
            assert math.isnan(function(table))
            assert float(function(table, zero_division=0.0)) == 0
            with pytest.raises(ValueError, match=r"\[K,K\]"):
                function(table[0])


class TestScores:
    """What reports hold."""

    @pytest.fixture
    def labelled(self):
        """Class 3 is never predicted, class 4 is nowhere."""
        generator = torch.Generator().manual_seed(0)
        prediction = torch.randint(0, 3, (3, 20, 30), generator=generator, dtype=torch.uint8)
        mask = torch.where(torch.rand(prediction.shape, generator=generator) < 0.6, prediction, 3 - prediction)
        mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
        return prediction, mask

    @pytest.mark.parametrize(
        ("score", "metric"),
        [
            ("iou", torchmetrics.JaccardIndex),
            ("dice", torchmetrics.F1Score),
            ("precision", torchmetrics.Precision),
            ("recall", torchmetrics.Recall),
        ],
    )
    def test_equal_torchmetrics(self, labelled, score, metric):
        prediction, mask = labelled
        ours = metrics.scores(metrics.confusion(prediction, mask, 5), NAMES)
        options = {"task": "multiclass", "num_classes": 5, "ignore_index": IGNORE}
        per_class = metric(average="none", **options)(prediction, mask.long())
        for k in range(4):
            assert ours[f"{score}.c{k}"] == pytest.approx(float(per_class[k]), abs=1e-6)
        assert math.isnan(ours[f"{score}.c4"])
        assert ours[f"m{score}"] == pytest.approx(float(per_class[:4].mean()), abs=1e-6)
        # Its macro mean leaves classes out by the same rule.
        macro = metric(average="macro", **options)(prediction, mask.long())
        assert ours[f"m{score}"] == pytest.approx(float(macro))

    def test_accuracy_equals_torchmetrics(self, labelled):
        prediction, mask = labelled
        metric = torchmetrics.Accuracy(task="multiclass", num_classes=5, ignore_index=IGNORE, average="micro")
        ours = metrics.scores(metrics.confusion(prediction, mask, 5), NAMES)["accuracy"]
        assert ours == pytest.approx(float(metric(prediction, mask.long())))

    def test_by_hand(self):
        counts = torch.tensor([[6, 2, 0], [1, 0, 0], [0, 0, 0]])
        assert metrics.scores(counts, ["a", "b", "c"]) == pytest.approx(
            {
                "accuracy": 6 / 9,
                "miou": 6 / 9 / 2,
                "iou.a": 6 / 9,
                "iou.b": 0,
                "iou.c": nan,
                "mdice": 12 / 15 / 2,
                "dice.a": 12 / 15,
                "dice.b": 0,
                "dice.c": nan,
                "mprecision": 6 / 7 / 2,
                "precision.a": 6 / 7,
                "precision.b": 0,
                "precision.c": nan,
                "mrecall": 6 / 8 / 2,
                "recall.a": 6 / 8,
                "recall.b": 0,
                "recall.c": nan,
            },
            nan_ok=True,
        )

    def test_nothing_counted_is_nan(self):
        empty = metrics.scores(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"])
        assert all(math.isnan(value) for value in empty.values())

    def test_names_and_classes_agree(self):
        with pytest.raises(ValueError, match="for 3 classes"):
            metrics.scores(torch.zeros(2, 2, dtype=torch.int64), ["a", "b", "c"])
