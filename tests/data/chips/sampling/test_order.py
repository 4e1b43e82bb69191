"""The order of the chips: a pure function of digest, sampling, seed and number."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.chips.sampling.order import Order, permute, words
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import Uniform

SIZES = [(300, 200), (64, 64), (30, 500), (20, 20), (1000, 700)]


def order(sizes=SIZES, digest: str = "d", seed: int = 0, **sampling) -> Order:
    return Order(sizes, Uniform(**{"size": 64, **sampling}), digest, seed)


def epoch(order: Order, number: int) -> list:
    return [order.chip(number * order.epoch_size + i) for i in range(order.epoch_size)]


@given(length=st.integers(1, 3000), key=st.text(max_size=5))
@settings(max_examples=60, deadline=None)
def test_permute_meets_every_element_once(length: int, key: str) -> None:
    keys = words(key, count=6)
    assert sorted(permute(i, length, keys) for i in range(length)) == list(range(length))


def test_permute_spreads_evenly() -> None:
    """Each element comes first equally often over many keys (chi square, 99.9 % quantile of 15 degrees)."""
    counts = Counter(permute(0, 16, words(key, count=6)) for key in range(3200))
    assert sum((counts[i] - 200) ** 2 / 200 for i in range(16)) < 37.7


def test_an_epoch_covers_the_scenes_by_area() -> None:
    plan = order()
    needed = {0: 15, 1: 1, 2: 4, 3: 1, 4: 171}
    assert plan.epoch_size == sum(needed.values())
    for number in range(3):
        assert Counter(ref.scene for ref in epoch(plan, number)) == needed


def test_weight_scene_draws_scenes_alike() -> None:
    counts = Counter(ref.scene for ref in epoch(order(weight="scene"), 0))
    assert sum(counts.values()) == 192
    assert set(counts.values()) <= {38, 39}


@given(size=st.integers(1, 400), epoch_size=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_shares_of_any_epoch_are_proportional(size: int, epoch_size: int) -> None:
    plan = order([(100, 100), (200, 200)], size=size, epoch_size=epoch_size)
    slots = [-(-10_000 // size**2), -(-40_000 // size**2)]
    counts = Counter(ref.scene for ref in epoch(plan, 0))
    for scene in (0, 1):
        assert abs(counts[scene] - epoch_size * slots[scene] / sum(slots)) < 1.001


def test_a_short_epoch_meets_other_scenes_in_other_epochs() -> None:
    plan = order([(64, 64)] * 100, epoch_size=10)
    assert len({ref.scene for number in range(60) for ref in epoch(plan, number)}) > 90


def test_epochs_differ_in_order_and_windows() -> None:
    first, second = epoch(order(), 0), epoch(order(), 1)
    assert [r.scene for r in first] != [r.scene for r in second]
    assert len({r.window for r in first} & {r.window for r in second}) < len(first) / 4
    assert {r.epoch for r in second} == {1}
    assert [r.index for r in second] == list(range(len(second)))


def test_seed_and_digest_change_the_order_and_nothing_else_does() -> None:
    base = epoch(order(), 0)
    assert epoch(order(), 0) == base
    assert epoch(order(seed=1), 0) != base
    assert epoch(order(digest="e"), 0) != base
    assert epoch(pickle.loads(pickle.dumps(order())), 0) == base


@given(number=st.integers(0, 10**12))
@settings(max_examples=200, deadline=None)
def test_a_chip_does_not_depend_on_what_was_asked_before(number: int) -> None:
    fresh = order().chip(number)
    assert fresh.number == number
    assert fresh == TRAVELLED.chip(number)


TRAVELLED = order()
for _ in range(500):
    TRAVELLED.chip(_)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), size=st.integers(1, 600), number=st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_windows_lie_inside_or_begin_at_zero(height: int, width: int, size: int, number: int) -> None:
    window = order([(height, width)], size=size).chip(number).window
    assert (window.height, window.width) == (size, size)
    for start, length in ((window.row, height), (window.col, width)):
        assert 0 <= start <= max(0, length - size)


def test_every_position_is_reached() -> None:
    plan = order([(10, 12)], size=8, epoch_size=1000)
    counts = Counter((ref.window.row, ref.window.col) for ref in epoch(plan, 0))
    assert len(counts) == 3 * 5
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_hundred_thousand_scenes_are_planned_at_once() -> None:
    sizes = [(10_000 + i % 977, 10_000) for i in range(100_000)]
    tracemalloc.start()
    began = time.perf_counter()
    plan = order(sizes)
    refs = [plan.chip(i * 7_919_993) for i in range(1000)]
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.epoch_size > 10**9
    assert len({ref.scene for ref in refs}) > 950
    assert seconds < 1
    assert peak < 20e6


@pytest.mark.parametrize(
    ("sizes", "sampling", "expected"),
    [
        (SIZES, {}, "322fe0af2dcbaa63"),
        ([(10_000 + i % 977, 10_000) for i in range(1000)], {"size": 100, "weight": "scene"}, "b935d7daaf351d3c"),
        ([(5000, 3000)] * 7, {"size": 256, "epoch_size": 50}, "3367842ba35037c7"),
    ],
)
def test_the_order_never_changes(sizes, sampling, expected: str) -> None:
    """Runs of other versions go on with the same chips."""
    plan = order(sizes, "digest", 3, **sampling)
    refs = [plan.chip(i) for i in [*range(300), *range(10**6, 10**6 + 790_000, 7919)]]
    text = json.dumps([[ref.number, ref.epoch, ref.index, ref.scene, *ref.window] for ref in refs])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected


def test_no_scene_is_an_error() -> None:
    with pytest.raises(ManifestError, match="no scene"):
        order([])
