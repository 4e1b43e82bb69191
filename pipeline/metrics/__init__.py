"""Metrics as counts: they are added over batches, scenes and workers, ratios are made last. Usable alone.

counts = metrics.count(logits, mask)                    # tp, fp, fn, tn of every image and class
metrics.iou(counts), metrics.f1(counts, reduction="micro")

tally = metrics.Tally(num_classes=6)                    # or task="binary"
for logits, mask in batches:
    tally.update(logits, mask)
tally.over_ranks().compute("iou", reduction="none")     # exact, whatever the batches and the ranks

iou = metrics.IoU(6)                                    # update, compute, reset: for other people's loops
"""

from __future__ import annotations

from pipeline.metrics.counts import Counts, count
from pipeline.metrics.objects import (
    F1,
    MCC,
    Accuracy,
    BalancedAccuracy,
    FalseDiscoveryRate,
    FalseNegativeRate,
    FalseOmissionRate,
    FalsePositiveRate,
    FBeta,
    IoU,
    Kappa,
    Metric,
    NegativeLikelihoodRatio,
    NegativePredictiveValue,
    PositiveLikelihoodRatio,
    Precision,
    Recall,
    Specificity,
)
from pipeline.metrics.ratios import (
    ALIASES,
    METRICS,
    Options,
    Reduction,
    accuracy,
    balanced_accuracy,
    dice,
    f1,
    f_beta,
    false_discovery_rate,
    false_negative_rate,
    false_omission_rate,
    false_positive_rate,
    iou,
    jaccard,
    kappa,
    mcc,
    multiclass_kappa,
    multiclass_mcc,
    negative_likelihood_ratio,
    negative_predictive_value,
    positive_likelihood_ratio,
    positive_predictive_value,
    precision,
    recall,
    reduced,
    scores,
    sensitivity,
    specificity,
)
from pipeline.metrics.streaming import Tally
from pipeline.metrics.tables import Task, confusion, confusion_of_logits, predict_classes

__all__ = [
    "ALIASES",
    "F1",
    "MCC",
    "METRICS",
    "Accuracy",
    "BalancedAccuracy",
    "Counts",
    "FBeta",
    "FalseDiscoveryRate",
    "FalseNegativeRate",
    "FalseOmissionRate",
    "FalsePositiveRate",
    "IoU",
    "Kappa",
    "Metric",
    "NegativeLikelihoodRatio",
    "NegativePredictiveValue",
    "Options",
    "PositiveLikelihoodRatio",
    "Precision",
    "Recall",
    "Reduction",
    "Specificity",
    "Tally",
    "Task",
    "accuracy",
    "balanced_accuracy",
    "confusion",
    "confusion_of_logits",
    "count",
    "dice",
    "f1",
    "f_beta",
    "false_discovery_rate",
    "false_negative_rate",
    "false_omission_rate",
    "false_positive_rate",
    "iou",
    "jaccard",
    "kappa",
    "mcc",
    "multiclass_kappa",
    "multiclass_mcc",
    "negative_likelihood_ratio",
    "negative_predictive_value",
    "positive_likelihood_ratio",
    "positive_predictive_value",
    "precision",
    "predict_classes",
    "recall",
    "reduced",
    "scores",
    "sensitivity",
    "specificity",
]
