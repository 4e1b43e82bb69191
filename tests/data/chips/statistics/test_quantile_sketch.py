"""Percentiles of any number of pixels: near numpy's, whatever the parts and their order."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.chips.statistics.quantile_sketch import QuantileSketch
from pipeline.errors import ManifestError

PERCENTS = (0.1, 1, 2, 10, 25, 50, 75, 90, 98, 99, 99.9)
values = npst.arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6, allow_subnormal=False))


def rank_errors(sketch: QuantileSketch, data: np.ndarray) -> np.ndarray:
    """Percent by which each percentile's rank is off; ranks within a run of equal values are all right."""
    ordered, found = np.sort(data), sketch.percentiles(PERCENTS)
    low = np.searchsorted(ordered, found, "left") / len(data) * 100
    high = np.searchsorted(ordered, found, "right") / len(data) * 100
    return np.maximum(0, np.maximum(low - PERCENTS, PERCENTS - high))


@pytest.mark.parametrize("kind", ["gamma", "bimodal", "integers"])
def test_ranks_are_right_within_one_percent_and_the_order_of_merging_does_not_matter(kind):
    rng = np.random.default_rng(0)
    data = {
        "gamma": rng.gamma(2, 200, 400_000),
        "bimodal": np.concatenate([rng.normal(0, 1, 200_000), rng.normal(1000, 5, 200_000)]),
        "integers": rng.poisson(40, 400_000),
    }[kind]
    rng.shuffle(data)
    parts = [QuantileSketch.of(part) for part in np.array_split(data, 200)]
    for order in (parts, parts[::-1]):
        errors = rank_errors(reduce(QuantileSketch.merge, order), data)
        assert errors.max() < 1
        assert errors[[0, 1, -2, -1]].max() < 0.1
    assert reduce(QuantileSketch.merge, parts) == reduce(QuantileSketch.merge, parts)


@given(values, values)
def test_ends_are_exact_and_nothing_changes_nothing(a, b):
    both = QuantileSketch.of(a).merge(QuantileSketch.of(b))
    whole = np.concatenate([a, b])
    assert both.percentiles((0, 100)) == (whole.min(), whole.max())
    assert both.merge(QuantileSketch()) == QuantileSketch().merge(both) == both
    assert QuantileSketch.from_json(both.to_json()) == both


def test_histogram_gives_shares_below_between_and_above():
    sketch = QuantileSketch.of(np.arange(10_000))
    np.testing.assert_allclose(sketch.histogram([1000, 5000]), [0.1, 0.4, 0.5], atol=0.01)
    assert QuantileSketch().histogram([1, 2]) == (0, 0, 0)


def test_no_value_has_no_percentile():
    with pytest.raises(ValueError, match="no value"):
        QuantileSketch().percentiles((50,))
    tree = Statistics.of(np.ones((1, 4))).to_json()
    del tree["sketches"]  # as older versions wrote them
    old = Statistics.from_json(tree)
    assert old.count == 4
    with pytest.raises(ManifestError, match="no percentiles"):
        old.percentiles((50,))


def test_one_of_every_few_pixels_is_enough():
    pixels = np.random.default_rng(0).gamma(2, 200, (2, 300_000))
    found = Statistics.of(pixels, sketch_every=10).percentiles(PERCENTS)
    np.testing.assert_allclose(found, np.percentile(pixels, PERCENTS, axis=1).T, rtol=0.05, atol=2)
    ramp = np.tile(np.arange(512), 512)[None]  # a stride of 16 or 32 would see few columns
    assert Statistics.of(ramp, sketch_every=32).percentiles((50,))[0][0] == pytest.approx(256, abs=8)
