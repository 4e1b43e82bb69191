"""Metrics as functions of counts, all of the same signature.

A metric is a fraction; where its denominator is zero it has no value, and `zero_division` says what stands there. The
same rule holds in every reduction: NaN (the default) is left out of means, and a mean of nothing is NaN itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, TypedDict, Unpack, get_args

import torch
from torch import Tensor

from pipeline.metrics.counts import Counts
from pipeline.metrics.tables import nearest

Reduction = Literal[
    "micro",
    "macro",
    "weighted",
    "none",
    "micro_imagewise",
    "macro_imagewise",
    "weighted_imagewise",
    "none_imagewise",
]
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Numerator and denominator from tp, fp, fn, tn (float64, of any one shape)."""

_ARGUMENTS: Final = """

    Args:
        counts: of `count` or `Tally.counts`.
        reduction: micro: of the sums over images and classes. macro: mean of the classes' values. weighted: their
            mean by class_weights, or by support (tp + fn). none: one value per class [K]. With `_imagewise`: so for
            every image, then the mean of the images (none_imagewise: [N,K]); needs counts per image.
        zero_division: stands where a denominator is zero; NaN is left out of means, and a mean of nothing is this too.
        class_weights: K weights of the reduction weighted, in any unit: they are divided by the sum of those used.

    Returns:
        float64, a scalar unless the reduction is none.

    Raises:
        ValueError: an unknown reduction; weights that do not fit; an imagewise reduction of pooled counts.
    """


class Options(TypedDict, total=False):
    """Options of every metric; the defaults are those of `reduced`."""

    reduction: Reduction
    zero_division: float
    class_weights: Sequence[float] | Tensor | None


def f_beta_formula(beta: float) -> Formula:
    """The formula of F-beta; a ValueError if `beta` is not positive."""
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta: {beta} is not positive")
    square = beta * beta
    return lambda tp, fp, fn, tn: ((1 + square) * tp, (1 + square) * tp + square * fn + fp)


METRICS: Final[dict[str, Formula]] = {
    "iou": lambda tp, fp, fn, tn: (tp, tp + fp + fn),
    "f1": f_beta_formula(1.0),
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
    "balanced_accuracy": lambda tp, fp, fn, tn: (tp * (tn + fp) + tn * (tp + fn), 2 * (tp + fn) * (tn + fp)),
    "precision": lambda tp, fp, fn, tn: (tp, tp + fp),
    "recall": lambda tp, fp, fn, tn: (tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: (tn, tn + fp),
    "negative_predictive_value": lambda tp, fp, fn, tn: (tn, tn + fn),
    "false_negative_rate": lambda tp, fp, fn, tn: (fn, fn + tp),
    "false_positive_rate": lambda tp, fp, fn, tn: (fp, fp + tn),
    "false_discovery_rate": lambda tp, fp, fn, tn: (fp, fp + tp),
    "false_omission_rate": lambda tp, fp, fn, tn: (fn, fn + tn),
    "positive_likelihood_ratio": lambda tp, fp, fn, tn: (tp * (fp + tn), fp * (tp + fn)),
    "negative_likelihood_ratio": lambda tp, fp, fn, tn: (fn * (fp + tn), tn * (tp + fn)),
    "mcc": lambda tp, fp, fn, tn: (
        tp * tn - fp * fn,
        ((tp + fp) * (tp + fn)).sqrt() * ((tn + fp) * (tn + fn)).sqrt(),
    ),
    "kappa": lambda tp, fp, fn, tn: (2 * (tp * tn - fp * fn), (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)),
}
"""Every metric by name: the formula of one class against the rest."""

ALIASES: Final = {
    "jaccard": "iou",
    "dice": "f1",
    "sensitivity": "recall",
    "positive_predictive_value": "precision",
}
"""Other names of the same."""


def formula_of(name: str) -> Formula:
    """The formula called `name` in METRICS or ALIASES.

    Raises:
        ValueError: there is none; says which is nearest.
    """
    known = ALIASES.get(name, name)
    if known not in METRICS:
        raise ValueError(f"metric: {name!r} is unknown{nearest(name, [*METRICS, *ALIASES])}")
    return METRICS[known]


def check_reduction(reduction: str, class_weights: Sequence[float] | Tensor | None) -> None:
    """Raise a ValueError for an unknown reduction, or class weights that it would not use."""
    if reduction not in get_args(Reduction):
        # torchmetrics says average, SMP writes a hyphen.
        near = nearest(reduction.replace("-", "_"), get_args(Reduction))
        raise ValueError(f"reduction: {reduction!r} is unknown{near}")
    if class_weights is not None and not reduction.startswith("weighted"):
        raise ValueError(f"class_weights: reduction {reduction!r} does not use them, weighted does")


def reduced(
    formula: Formula,
    counts: Counts,
    *,
    reduction: Reduction = "macro",
    zero_division: float = math.nan,
    class_weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Any formula, your own included, from counts; the arguments are those of every metric, as of `iou`."""
    check_reduction(reduction, class_weights)
    imagewise = reduction.endswith("_imagewise")
    if imagewise and not counts.per_image:
        raise ValueError(f"reduction {reduction!r} needs counts per image [N,K], these are pooled [K]")
    # Sums while they are integers: exact, in any order.
    cells = torch.stack([part if imagewise else part.sum(0, keepdim=True) for part in _per_image(counts)])
    weights = _weights(cells, class_weights) if reduction.startswith("weighted") else None
    if reduction.startswith("micro"):
        cells = cells.sum(2, keepdim=True)
    part, whole = formula(*cells.double())
    values = torch.where(whole == 0, zero_division, part / whole)
    if reduction.startswith("none"):
        return values if imagewise else values[0]
    return _mean(_mean(values, weights, zero_division), None, zero_division)


def _per_image(counts: Counts) -> Counts:
    if counts.tp.device.type == "mps":  # has no float64
        counts = counts.to("cpu")
    return counts if counts.per_image else Counts(*(part[None] for part in counts))


def _weights(cells: Tensor, given: Sequence[float] | Tensor | None) -> Tensor:
    """Weights [n,K] of the classes; by default their support in every image."""
    if given is None:
        return (cells[0] + cells[2]).double()
    weights = torch.as_tensor(given, dtype=torch.float64, device=cells.device)
    if weights.shape != cells.shape[2:]:
        raise ValueError(f"class_weights: {tuple(weights.shape)} for {cells.shape[2]} classes")
    if not bool(((weights >= 0) & weights.isfinite()).all()) or not bool(weights.any()):
        raise ValueError(f"class_weights: {weights.tolist()} are not finite, not negative and not all zero")
    return weights.expand(cells.shape[1:])


def _mean(values: Tensor, weights: Tensor | None, empty: float) -> Tensor:
    """Mean over the last axis of what is not NaN; `empty` where nothing is."""
    known = ~values.isnan()
    weights = known.double() if weights is None else weights * known
    total = weights.sum(-1)
    mean = (values.nan_to_num() * weights).sum(-1) / total
    return torch.where(total > 0, mean, empty)


class Ratio(Protocol):
    """The signature that all metrics have."""

    def __call__(self, counts: Counts, **options: Unpack[Options]) -> Tensor:
        """One metric from counts."""


def _function(name: str, summary: str) -> Ratio:
    formula = METRICS[name]

    def metric(counts: Counts, **options: Unpack[Options]) -> Tensor:
        return reduced(formula, counts, **options)

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = summary + _ARGUMENTS
    full = inspect.signature(reduced)
    metric.__dict__["__signature__"] = full.replace(parameters=list(full.parameters.values())[1:])
    return metric


iou = jaccard = _function("iou", "Intersection over union, Jaccard's index (1912): tp / (tp + fp + fn).")
f1 = dice = _function("f1", "F1, Dice's coefficient (1945): 2 tp / (2 tp + fp + fn).")
accuracy = _function(
    "accuracy",
    "Share of right decisions, true negatives among them: (tp + tn) / (tp + fp + fn + tn).\n\n"
    "    The share of right pixels of a multiclass map is `recall` with the reduction micro.",
)
balanced_accuracy = _function("balanced_accuracy", "Mean of recall and specificity.")
precision = positive_predictive_value = _function("precision", "Positive predictive value: tp / (tp + fp).")
recall = sensitivity = _function("recall", "Sensitivity, true positive rate: tp / (tp + fn).")
specificity = _function("specificity", "True negative rate: tn / (tn + fp).")
negative_predictive_value = _function("negative_predictive_value", "tn / (tn + fn).")
false_negative_rate = _function("false_negative_rate", "Miss rate, 1 - recall: fn / (fn + tp).")
false_positive_rate = _function("false_positive_rate", "Fall-out, 1 - specificity: fp / (fp + tn).")
false_discovery_rate = _function("false_discovery_rate", "1 - precision: fp / (fp + tp).")
false_omission_rate = _function("false_omission_rate", "1 - negative predictive value: fn / (fn + tn).")
positive_likelihood_ratio = _function(
    "positive_likelihood_ratio", "recall / false positive rate; without false positives it has no value."
)
negative_likelihood_ratio = _function(
    "negative_likelihood_ratio", "false negative rate / specificity; without true negatives it has no value."
)
mcc = _function(
    "mcc",
    "Matthews' correlation (1975) of every class against the rest; of all classes at once: `multiclass_mcc`.",
)
kappa = _function(
    "kappa", "Cohen's kappa (1960) of every class against the rest; of all classes at once: `multiclass_kappa`."
)


def f_beta(counts: Counts, *, beta: float, **options: Unpack[Options]) -> Tensor:
    """F-beta (van Rijsbergen 1979): (1 + beta²) tp / ((1 + beta²) tp + beta² fn + fp).

    `beta` is how many times more recall weighs than precision; the other arguments are those of every metric (`iou`).
    """
    return reduced(f_beta_formula(beta), counts, **options)


def multiclass_mcc(confusion: Tensor, *, zero_division: float = math.nan) -> Tensor:
    """Correlation of truth and prediction over all classes, R_K (Gorodkin 2004), from a confusion [K,K]; float64."""
    right, truth, predicted, total = _margins(confusion)
    part = right * total - truth @ predicted
    whole = (total * total - truth @ truth).sqrt() * (total * total - predicted @ predicted).sqrt()
    return torch.where(whole == 0, zero_division, part / whole)


def multiclass_kappa(confusion: Tensor, *, zero_division: float = math.nan) -> Tensor:
    """Cohen's kappa (1960) over all classes, unweighted, from a confusion [K,K]; float64."""
    right, truth, predicted, total = _margins(confusion)
    whole = total * total - truth @ predicted
    return torch.where(whole == 0, zero_division, (right * total - truth @ predicted) / whole)


def _margins(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion {tuple(confusion.shape)} is not [K,K]")
    counts = confusion.to("cpu", torch.float64)
    return counts.diagonal().sum(), counts.sum(1), counts.sum(0), counts.sum()


def scores(confusion: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Ratios from counts, as reports have them.

    Per class NAME: iou.NAME, dice.NAME (F1), precision.NAME, recall.NAME. A class neither present nor predicted is NaN
    and left out of the means; one that is present and never predicted has precision 0, and the other way round.
    Means over classes: miou, mdice, mprecision, mrecall. Over pixels: accuracy; multilabel: over pixels and classes.
    NaN where there is nothing to count.

    Args:
        confusion: [K,K], rows the truth, columns the prediction; of a multilabel task [K,2,2], one for each class.
        names: of the K classes.
    """
    table = torch.as_tensor(confusion).to("cpu")
    if table.shape not in ((len(names), len(names)), (len(names), 2, 2)):
        raise ValueError(f"confusion {tuple(table.shape)} for {len(names)} classes")
    counts = Counts.from_tables(table[None].to(torch.int64)).pooled()
    tp, fp, fn, tn = counts
    planes = table.dim() == 3
    right = (tp + tn).sum().double() / (tp + fp + fn + tn).sum() if planes else recall(counts, reduction="micro")
    out = {"accuracy": float(right)}
    for score in ("iou", "dice", "precision", "recall"):
        ratios = reduced(formula_of(score), counts, reduction="none", zero_division=0.0)
        values = torch.where(tp + fp + fn > 0, ratios, torch.nan)
        out[f"m{score}"] = float(values.nanmean())
        out |= {f"{score}.{name}": float(value) for name, value in zip(names, values, strict=True)}
    return out
