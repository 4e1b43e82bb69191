"""How mixed the chips are, against scipy's analysis of variance and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.data.chips.sampling.order import Order
from pipeline.data.feed.batch_diversity import BatchDiversity, Groups, known, shares_of, summary_text
from pipeline.data.feed.batches import Batch
from pipeline.data.labels.classes import IGNORE
from pipeline.recipe.sampling import Locality, Uniform

NEAR = Locality(tile=64, tiles=2, chips=4, pool=5)
SIDES = [(1000, 1000)] * 7


def order(near: Locality | None) -> Order:
    return Order(SIDES, Uniform(size=64, locality=near, epoch_size=400), "d", 0)


def masks_of(plan: Order, numbers: range) -> np.ndarray:
    """Class 1 down to a row that differs by scene and, in steps, by column: blocks look alike, and scenes do."""
    masks = np.zeros((len(numbers), 64, 64), np.uint8)
    for mask, ref in zip(masks, map(plan.chip, numbers), strict=True):
        mask[: (ref.scene * 5 + ref.window.col // 128 * 3) % 60] = 1
    return masks


def looked_at(plan: Order, batch: int, steps: int) -> dict[str, float]:
    mixing = BatchDiversity(plan, batch, 2)
    for step in range(steps):
        mixing.add(step, step * batch, masks_of(plan, range(step * batch, (step + 1) * batch)))
    return mixing.numbers


@pytest.mark.parametrize("sizes", [[5, 5, 5], [3, 9, 4, 6]])
def test_chi_square_is_that_of_an_analysis_of_variance(sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    groups = [random.random((n, 3)) + random.normal(0, 0.3, 3) for n in sizes]
    found = Groups.none(3)
    for group in groups:
        found = found.plus(group)
    num, total, expected = len(groups), sum(sizes), []
    for k in range(3):
        ratio = stats.f_oneway(*(group[:, k] for group in groups)).statistic
        # From between / within to between / all.
        expected.append(ratio * (total - 1) / (ratio * (num - 1) + total - num))
    assert found.chi_square == pytest.approx(np.mean(expected))


def test_chi_square_at_its_ends() -> None:
    random = np.random.default_rng(1)
    mixed, alike = Groups.none(2), Groups.none(2)
    for share in random.random(2000):
        mixed = mixed.plus(random.random((8, 2)))
        alike = alike.plus(np.full((8, 2), share))
    assert mixed.chi_square == pytest.approx(1, abs=0.1)
    assert alike.chi_square == pytest.approx(8, rel=0.01)
    assert np.isnan(Groups.none(2).chi_square)
    assert np.isnan(Groups.none(2).plus(np.ones((3, 2))).plus(np.ones((3, 2))).chi_square)


def test_shares_are_those_of_labelled_pixels() -> None:
    masks = np.full((3, 64, 64), IGNORE, np.uint8)
    masks[0, :16] = 0
    masks[0, 16:32] = 2
    masks[1, 0, 0] = 1
    shares = shares_of(masks, 3)
    assert known(shares).tolist() == [[0.5, 0, 0.5], [0, 1, 0]]
    assert np.isnan(shares[2]).all()


def test_shares_of_several_classes_at_once() -> None:
    masks = np.zeros((1, 2, 128, 128), np.uint8)
    masks[0, 0, :32] = 1
    masks[0, 1, :64] = IGNORE
    masks[0, 1, 64:96] = 1
    assert shares_of(masks, 2).tolist() == [[0.25, 0.5]]


def test_scenes_and_blocks_are_counted() -> None:
    plan, batch, steps = order(NEAR), 10, 12
    scenes, blocks = [], []
    for step in range(steps):
        refs = [plan.chip(n) for n in range(step * batch, (step + 1) * batch)]
        scenes.append(len({ref.scene for ref in refs}))
        blocks.append(len({(ref.scene, ref.block) for ref in refs}))
    numbers = looked_at(plan, batch, steps)
    assert numbers["scenes_per_batch"] == np.mean(scenes)
    assert numbers["blocks_per_batch"] == np.mean(blocks) == pytest.approx(5, abs=0.5)


def test_a_batch_of_few_blocks_is_less_mixed() -> None:
    alone, local = looked_at(order(None), 8, 50), looked_at(order(NEAR), 8, 50)
    few = looked_at(order(NEAR.model_copy(update={"pool": 1})), 8, 50)
    assert alone["chi_square_of_batches"] == pytest.approx(1, abs=0.4)
    assert alone["blocks_per_batch"] == 8
    assert "chi_square_of_pools" not in alone
    assert few["chi_square_of_batches"] > 2
    assert local["chi_square_of_batches"] < few["chi_square_of_batches"]
    assert few["chi_square_of_pools"] > 2


def test_a_feed_passes_unchanged_and_is_looked_at_from_where_it_begins() -> None:
    plan = order(NEAR)
    batches = [
        Batch.of(np.zeros((4, 1, 64, 64)), masks_of(plan, r), r) for r in (range(4 * s, 4 * s + 4) for s in range(9))
    ]
    mixing = BatchDiversity(plan, 4, 2)
    assert mixing.numbers == {}
    assert list(mixing.watching(lambda start: iter(batches[start:]))(3)) == batches[3:]
    by_hand = BatchDiversity(plan, 4, 2)
    for step in range(3, 9):
        by_hand.add(step, 4 * step, batches[step].mask.numpy())
    assert mixing.numbers == by_hand.numbers


def test_words() -> None:
    said = summary_text(looked_at(order(NEAR), 10, 12) | {"loss": 1.0})
    assert said.startswith("4.") and "scenes" in said and "blocks in a batch, χ² of class shares" in said
    assert summary_text({"loss": 1.0}) == ""
