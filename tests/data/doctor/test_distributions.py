"""Distributions: what one band tells, which scenes stand apart, percentiles and histograms."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.doctor import distributions
from pipeline.data.labels.classes import IGNORE


def scenes(seed: int, count: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two noisy bands and their classes: 10 % of class 1, 1 % of class 2, some not annotated."""
    rng = np.random.default_rng(seed)
    ids = [rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), 8000, p=[0.8, 0.1, 0.01, 0.09]) for _ in range(count)]
    values = [np.stack([rng.normal(k * 0.5, 1, k.shape), rng.normal(0, 1, k.shape)]).astype(np.float32) for k in ids]
    return values, ids


def test_a_band_made_from_the_label_tells_it() -> None:
    values, ids = scenes(0)
    leaking = [np.concatenate([v, (k * 30 % 251)[None]]) for v, k in zip(values, ids, strict=True)]
    predicted = distributions.predicted_by_one_band(leaking, ids)
    assert (
        predicted[2].accuracy > 0.99
        and predicted[2].iou > 0.99
        and predicted[2].gain > 0.9
        and predicted[2].num_values <= 3
    )
    assert predicted[2].majority == pytest.approx(0.8 / 0.91, abs=0.01)
    assert all(t.gain < 0.1 and t.iou < 0.5 and t.num_values > 32 for t in predicted[:2]), (
        "an ordinary band tells little"
    )


def test_a_class_map_with_errors_is_far_better_than_the_most_frequent_class() -> None:
    rng = np.random.default_rng(5)
    ids = [(rng.random(20_000) < 0.3).astype(np.uint8) for _ in range(4)]
    maps = [np.where(rng.random(k.shape) < 0.88, k, 1 - k)[None] * 80 for k in ids]
    (rule,) = distributions.predicted_by_one_band(maps, ids)
    assert rule.accuracy == pytest.approx(0.88, abs=0.01) and rule.majority == pytest.approx(0.7, abs=0.01)
    both = 0.3 * 0.88 / (0.3 + 0.7 * 0.12), 0.7 * 0.88 / (0.7 + 0.3 * 0.12)
    assert rule.iou == pytest.approx(sum(both) / 2, abs=0.01)
    assert rule.gain == pytest.approx((rule.iou - 0.35) / 0.65, abs=0.02)


def test_a_rule_is_tried_where_it_was_not_made() -> None:
    # Each scene has other values for the same classes: within it the band tells all, and elsewhere nothing.
    rng = np.random.default_rng(1)
    ids = [rng.integers(0, 2, 4000).astype(np.uint8) for _ in range(2)]
    values = [np.stack([ids[0] * 100.0]), np.stack([100.0 - ids[1] * 100.0])]
    assert distributions.predicted_by_one_band(values, ids)[0].accuracy < 0.1


def test_a_single_scene_is_divided() -> None:
    values, ids = scenes(2, 1)
    assert len(distributions.predicted_by_one_band([np.concatenate([values[0], ids[0][None] * 1.0])], ids)) == 3


def test_without_two_classes_nothing_is_said() -> None:
    values, ids = scenes(3)
    assert distributions.predicted_by_one_band(values, [np.zeros_like(k) for k in ids]) == []
    assert distributions.predicted_by_one_band(values, [np.full_like(k, IGNORE) for k in ids]) == []
    assert distributions.predicted_by_one_band([], []) == []


def test_the_scene_that_stands_apart_has_the_largest_score() -> None:
    medians = np.random.default_rng(0).normal(100, 5, (20, 3))
    medians[7, 1] = 1000
    scores = distributions.apart(medians, np.full_like(medians, 4.0))
    assert np.unravel_index(np.abs(scores).argmax(), scores.shape) == (7, 1)
    assert scores[7, 1] > 50 and np.abs(np.delete(scores, 7, axis=0)).max() < 6


def test_equal_scenes_do_not_stand_apart_by_a_hair() -> None:
    medians = np.full((10, 1), 100.0)
    medians[3] = 104
    assert np.abs(distributions.apart(medians, np.ones((10, 1)))).max() < 1
    medians[3] = 130
    assert distributions.apart(medians, np.full((10, 1), 1.0))[3] == pytest.approx(6, rel=0.01)
    assert distributions.apart(medians, np.full((10, 1), 40.0))[3] == pytest.approx(3), "within what one scene holds"
    assert np.isnan(distributions.apart(np.full((3, 2), np.nan), np.ones((3, 2)))).all()


def test_percentiles_and_histograms_are_those_of_the_pixels() -> None:
    values = np.arange(10_000, dtype=np.uint16).reshape(1, -1)
    (row,) = distributions.band_rows({"train": [values[:, ::2], values[:, 1::2]], "val": []}, ("gray",))
    assert row.percentiles == pytest.approx(
        {"p1": 99.99, "p2": 199.98, "p50": 4999.5, "p98": 9799.02, "p99": 9899.01, "min": 0, "max": 9999}
    )
    assert list(row.histogram) == ["train"] and sum(row.histogram["train"]) == pytest.approx(1, abs=1e-3)
    assert row.mean == pytest.approx(4999.5) and row.std == pytest.approx(values.std())
    constant = distributions.band_rows({"train": [np.full((1, 9), 7, np.uint8)]}, ("dead",))[0]
    assert (constant.low, constant.high) == (6.5, 7.5)
    assert distributions.band_rows({"train": []}, ("gray",)) == ()


def test_values_that_pile_up_are_saturated_and_categories_are_not() -> None:
    values = np.random.default_rng(0).normal(200, 60, 10_000).clip(0, 255).astype(np.uint8)
    assert distributions.piled_up(values) == pytest.approx((values == 255).mean())
    assert distributions.piled_up((values > 128).astype(np.uint8)) == 0
    assert distributions.piled_up(values[:0]) == 0
