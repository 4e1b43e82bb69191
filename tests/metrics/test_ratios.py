"""Every metric in every reduction, against scikit-learn, SMP, torchmetrics and plain arithmetic."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import functional as tm

from pipeline import metrics
from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import Counts, count
from pipeline.metrics.ratios import ALIASES, METRICS, Reduction, formula_of, reduced

K, N = 4, 3
REDUCTIONS = get_args(Reduction)
WEIGHTS = [1.0, 0.0, 2.5, 4.0]
nan = math.nan

# One class against the rest, from two vectors of booleans.
REFERENCE = {
    "iou": sk.jaccard_score,
    "f1": sk.f1_score,
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "specificity": lambda t, p: sk.recall_score(t, p, pos_label=False),
    "negative_predictive_value": lambda t, p: sk.precision_score(t, p, pos_label=False),
    "false_negative_rate": lambda t, p: 1 - sk.recall_score(t, p),
    "false_positive_rate": lambda t, p: 1 - sk.recall_score(t, p, pos_label=False),
    "false_discovery_rate": lambda t, p: 1 - sk.precision_score(t, p),
    "false_omission_rate": lambda t, p: 1 - sk.precision_score(t, p, pos_label=False),
    "positive_likelihood_ratio": lambda t, p: sk.class_likelihood_ratios(t, p)[0],
    "negative_likelihood_ratio": lambda t, p: sk.class_likelihood_ratios(t, p)[1],
    "mcc": sk.matthews_corrcoef,
    "kappa": sk.cohen_kappa_score,
}


@pytest.fixture(scope="module")
def labelled():
    """Class ids; every class is right and wrong somewhere in every image, so that no denominator is zero."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(N, 15, 16, generator=generator) ** 2 * K).long()  # unequal shares
    prediction = torch.where(torch.rand(mask.shape, generator=generator) < 0.5, mask, (mask + 1) % K)
    mask[torch.rand(mask.shape, generator=generator) < 0.1] = IGNORE
    return prediction, mask


@pytest.fixture(scope="module")
def counts(labelled):
    return count(*labelled, K)


def expected(name, labelled, reduction, weights):
    """The reduction by its words, on pixels instead of counts."""
    prediction, mask = labelled

    def value(images, classes):
        measured = mask[images] != IGNORE
        truth = torch.cat([(mask[images] == k)[measured] for k in classes])
        guess = torch.cat([(prediction[images] == k)[measured] for k in classes])
        return float(REFERENCE[name](truth.numpy(), guess.numpy()))

    def among(images):
        kind = reduction.removesuffix("_imagewise")
        if kind == "micro":
            return value(images, range(K))
        values = [value(images, [k]) for k in range(K)]
        support = [int((mask[images] == k).sum()) for k in range(K)]
        by = {"macro": [1] * K, "weighted": weights or support}.get(kind)
        return values if by is None else sum(v * w for v, w in zip(values, by, strict=True)) / sum(by)

    if not reduction.endswith("_imagewise"):
        return torch.tensor(among(slice(None)), dtype=torch.float64)
    found = torch.tensor([among(slice(i, i + 1)) for i in range(N)], dtype=torch.float64)
    return found if reduction.startswith("none") else found.mean()


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_equals_scikit_learn(self, name, reduction, labelled, counts):
        for weights in (None, WEIGHTS) if reduction.startswith("weighted") else (None,):
            found = getattr(metrics, name)(counts, reduction=reduction, class_weights=weights)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, expected(name, labelled, reduction, weights), rtol=1e-9, atol=1e-12)

    def test_all_have_one_signature_and_a_docstring(self, name, counts):
        function = getattr(metrics, name)
        assert str(inspect.signature(function)) == str(inspect.signature(metrics.iou))
        assert "zero_division" in inspect.signature(function).parameters
        assert function.__name__ == name
        assert len(function.__doc__.splitlines()[0]) > 8

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("instead", [nan, 0.0, 1.0])
    def test_nothing_to_count_gives_the_zero_division_value(self, name, reduction, instead):
        blank = torch.full((2, 5, 5), IGNORE)
        for images in (blank, blank[:0]):
            empty = count(torch.zeros_like(images), images, K)
            value = getattr(metrics, name)(empty, reduction=reduction, zero_division=instead)
            torch.testing.assert_close(value, torch.full_like(value, instead), equal_nan=True)
            assert value.shape == {"none": (K,), "none_imagewise": (len(images), K)}.get(reduction, ())

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**31))
    def test_is_defined_or_nan_and_within_its_range(self, name, seed):
        generator = torch.Generator().manual_seed(seed)
        four = torch.randint(0, 3, (4, 5, K), generator=generator)
        values = getattr(metrics, name)(Counts(*four), reduction="none_imagewise")
        assert not values.isinf().any()
        values = values[~values.isnan()]
        assert values.min() >= (-1 - 1e-12 if name in ("mcc", "kappa") else 0)
        assert "likelihood" in name or values.max() <= 1 + 1e-12

    def test_pooled_counts_give_the_same_where_images_do_not_matter(self, name, counts):
        for reduction in ("micro", "macro", "weighted", "none"):
            function = getattr(metrics, name)
            assert torch.equal(function(counts.pooled(), reduction=reduction), function(counts, reduction=reduction))

    def test_counts_of_a_continent_do_not_overflow(self, name):
        small = Counts(*torch.tensor([[[3]], [[1]], [[2]], [[4]]]))
        large = Counts(*(part * 10**14 for part in small))
        torch.testing.assert_close(getattr(metrics, name)(large), getattr(metrics, name)(small))


def test_the_functions_are_those_of_the_dict():
    assert set(REFERENCE) == set(METRICS)
    assert all(getattr(metrics, alias) is getattr(metrics, name) for alias, name in ALIASES.items())
    assert set(metrics.__all__) >= {*METRICS, *ALIASES}


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta(beta, labelled, counts):
    prediction, mask = (part[labelled[1] != IGNORE] for part in labelled)
    for reduction, average in [("macro", "macro"), ("micro", "micro"), ("weighted", "weighted"), ("none", None)]:
        theirs = sk.fbeta_score(mask, prediction, beta=beta, average=average)
        found = metrics.f_beta(counts, beta=beta, reduction=reduction)
        torch.testing.assert_close(found, torch.as_tensor(theirs, dtype=torch.float64))
    for wrong in (0.0, -1.0, nan, math.inf):
        with pytest.raises(ValueError, match="beta"):
            metrics.f_beta(counts, beta=wrong)


def test_the_page_lists_all():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name in (*METRICS, *ALIASES, *REDUCTIONS, "f_beta", *(cls.__name__ for cls in metrics.Metric.__subclasses__())):
        assert f"`{name}`" in page, name


SMP_NAMES = {"iou": "iou_score", "f1": "f1_score"}


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("mcc", "kappa")])
def test_equals_smp_where_it_is_right(name, labelled, counts):
    prediction, mask = labelled
    stats = smp.metrics.get_stats(prediction, mask, mode="multiclass", num_classes=K, ignore_index=IGNORE)
    theirs = getattr(smp.metrics, SMP_NAMES.get(name, name))
    ours = getattr(metrics, name)
    for reduction in ("micro", "macro", "micro-imagewise", "macro-imagewise", "none"):
        mine = ours(counts, reduction=("none_imagewise" if reduction == "none" else reduction).replace("-", "_"))
        torch.testing.assert_close(theirs(*stats, reduction=reduction).double(), mine, rtol=1e-5, atol=1e-6)
    mine = ours(counts, reduction="weighted", class_weights=WEIGHTS)
    torch.testing.assert_close(
        theirs(*stats, reduction="weighted", class_weights=WEIGHTS).double(), mine, rtol=1e-5, atol=1e-6
    )
    # It divides by the number of classes once more than by the sum of the weights.
    mine = ours(counts, reduction="weighted_imagewise", class_weights=WEIGHTS)
    found = theirs(*stats, reduction="weighted-imagewise", class_weights=WEIGHTS).double()
    torch.testing.assert_close(found * K, mine, rtol=1e-5, atol=1e-6)


TORCHMETRICS = {
    "iou": tm.jaccard_index,
    "f1": tm.f1_score,
    "precision": tm.precision,
    "recall": tm.recall,
    "specificity": tm.specificity,
    "negative_predictive_value": tm.negative_predictive_value,
}


@pytest.mark.parametrize("name", TORCHMETRICS)
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "none"])
def test_equals_torchmetrics(name, average, labelled, counts):
    options = {"task": "multiclass", "num_classes": K, "ignore_index": IGNORE, "average": average}
    theirs = TORCHMETRICS[name](*labelled, **options)
    ours = getattr(metrics, name)
    torch.testing.assert_close(theirs.double(), ours(counts, reduction=average), rtol=1e-5, atol=1e-6)
    if name != "iou":  # has no samplewise form
        theirs = TORCHMETRICS[name](*labelled, **options, multidim_average="samplewise").double()
        mine = ours(counts, reduction=f"{average}_imagewise")
        torch.testing.assert_close(theirs if average == "none" else theirs.mean(), mine, rtol=1e-5, atol=1e-6)


cells = st.lists(st.integers(0, 2), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    table=st.integers(1, 3).flatmap(
        lambda k: st.lists(st.lists(cells, min_size=k, max_size=k), min_size=1, max_size=3)
    ),
    reduction=st.sampled_from([r for r in REDUCTIONS if not r.startswith("none")]),
    instead=st.sampled_from([nan, 0.0, 1.0, 0.25]),
    given_weights=st.one_of(st.none(), st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=3, max_size=3)),
)
def test_the_zero_division_rule_holds_in_every_reduction(table, reduction, instead, given_weights):
    """Plain arithmetic on precision, whose denominator is often zero here."""
    classes = len(table[0])
    weights = given_weights[:classes] if given_weights and reduction.startswith("weighted") else None
    if weights and not any(weights):
        weights = None

    def mean(values, by):
        kept = [(v, w) for v, w in zip(values, by, strict=True) if not math.isnan(v) and w > 0]
        return sum(v * w for v, w in kept) / sum(w for _, w in kept) if kept else instead

    def precision(cells):
        tp, fp = sum(c[0] for c in cells), sum(c[1] for c in cells)
        return tp / (tp + fp) if tp + fp else instead

    def among(images):
        columns = [[image[k] for image in images] for k in range(classes)]
        if reduction.startswith("micro"):
            return precision([cell for column in columns for cell in column])
        support = [sum(c[0] + c[2] for c in column) for column in columns]
        by = (weights or support) if reduction.startswith("weighted") else [1] * classes
        return mean([precision(column) for column in columns], by)

    groups = [[image] for image in table] if reduction.endswith("imagewise") else [table]
    wanted = mean([among(group) for group in groups], [1] * len(groups))
    counts = Counts(*torch.tensor(table).permute(2, 0, 1))
    found = metrics.precision(counts, reduction=reduction, zero_division=instead, class_weights=weights)
    assert float(found) == pytest.approx(wanted, nan_ok=True)


def test_weights_have_any_unit(counts):
    for reduction in ("weighted", "weighted_imagewise"):
        by = [metrics.iou(counts, reduction=reduction, class_weights=[w * f for w in WEIGHTS]) for f in (1, 10, 1e-3)]
        torch.testing.assert_close(by[1], by[0])
        torch.testing.assert_close(by[2], by[0])
        ones = metrics.iou(counts, reduction=reduction, class_weights=torch.ones(K))
        torch.testing.assert_close(ones, metrics.iou(counts, reduction=reduction.replace("weighted", "macro")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "macros"}, "did you mean 'macro'"),
        ({"reduction": "macro-imagewise"}, "did you mean 'macro_imagewise'"),
        ({"reduction": "sum"}, "known are micro"),
        ({"class_weights": [1, 1, 1, 1]}, "'macro' does not use them, weighted does"),
        ({"reduction": "weighted", "class_weights": [1, 1]}, r"\(2,\) for 4 classes"),
        ({"reduction": "weighted", "class_weights": [1, 1, 1, -1]}, "not negative"),
        ({"reduction": "weighted", "class_weights": [1, 1, 1, nan]}, "not finite"),
        ({"reduction": "weighted", "class_weights": [0, 0, 0, 0]}, "not all zero"),
    ],
)
def test_wrong_options_are_refused(options, message, counts):
    with pytest.raises(ValueError, match=message):
        metrics.iou(counts, **options)


def test_imagewise_reductions_need_images(counts):
    with pytest.raises(ValueError, match="pooled"):
        metrics.iou(counts.pooled(), reduction="macro_imagewise")


def test_unknown_metrics_are_refused():
    assert formula_of("dice") is METRICS["f1"]
    with pytest.raises(ValueError, match="did you mean 'kappa'"):
        formula_of("kapa")


def test_a_formula_of_your_own(counts):
    tp, fp, fn, _ = (int(part.sum()) for part in counts)
    threat = reduced(lambda tp, fp, fn, tn: (tp, tp + 2 * fp + fn), counts, reduction="micro")
    assert float(threat) == pytest.approx(tp / (tp + 2 * fp + fn))
