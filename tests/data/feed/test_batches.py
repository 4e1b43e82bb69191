"""Batches: who gets which chips, and the feed by threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.feed.batches import Batch, local_batches, numbers_of
from pipeline.errors import SceneError, TrainingError
from pipeline.world import World
from tests.data.feed.feed_world import AUGMENT, plan


@given(step=st.integers(0, 10**9), size=st.integers(1, 64), micro=st.integers(1, 16))
def test_the_ranks_of_a_step_share_its_global_batch(step: int, size: int, micro: int) -> None:
    batch = size * micro
    ranks = [numbers_of(step, World(rank, size), batch) for rank in range(size)]
    assert [n for numbers in ranks for n in numbers] == list(numbers_of(step, World(), batch))
    assert {len(numbers) for numbers in ranks} == {micro}
    assert numbers_of(step + 1, World(), batch)[0] == numbers_of(step, World(), batch)[-1] + 1


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(TrainingError, match="8 chips does not divide over 3 workers"):
        numbers_of(0, World(0, 3), 8)


def feed(plan, world=World(), global_batch=4, start_step=0, stop_step=12, threads=3) -> list[Batch]:  # noqa: B008
    return list(
        local_batches(
            plan, world, global_batch=global_batch, start_step=start_step, stop_step=stop_step, threads=threads
        )
    )


def test_batches_are_the_chips_in_order(tmp_path: Path) -> None:
    source = plan(tmp_path, augment=AUGMENT)
    batches = feed(source)
    assert [n for batch in batches for n in batch.numbers] == list(range(48))
    for batch in batches:
        images, masks = source.stack(batch.numbers)
        assert batch.image.dtype == torch.uint16
        assert np.array_equal(batch.image.numpy(), images)
        assert np.array_equal(batch.mask.numpy(), masks)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("global_batch", [1, 4])
def test_neither_threads_nor_start_nor_ranks_matter(tmp_path: Path, threads: int, global_batch: int) -> None:
    source = plan(tmp_path, augment=AUGMENT)
    whole = feed(source, global_batch=4)
    if global_batch == 1:
        parts = feed(source, global_batch=1, start_step=20, stop_step=48, threads=threads)
        merged = torch.cat([part.image for part in parts])
    else:
        ranks = [feed(source, World(rank, 2), start_step=5, threads=threads) for rank in range(2)]
        merged = torch.cat([part.image for pair in zip(*ranks, strict=True) for part in pair])
    assert torch.equal(merged, torch.cat([batch.image for batch in whole[5:]]))


@pytest.mark.parametrize("held", ["batch", "view", "array"])
def test_memory_goes_round_but_never_while_it_is_held(tmp_path: Path, held: str) -> None:
    source = plan(tmp_path, augment=AUGMENT)
    places, kept = set(), []
    for batch in local_batches(source, World(), global_batch=4, start_step=0, stop_step=40, threads=2):
        places.add(batch.image.data_ptr())
        if batch.numbers[0] % 20 == 0:
            parts = {"batch": batch.image, "view": batch.image[1:, 0], "array": batch.image.numpy()[1:]}
            kept.append((batch.numbers, parts[held]))
        del batch
    assert len(places) < 20
    for numbers, part in kept:
        images, _ = source.stack(numbers)
        expected = {"batch": images, "view": images[1:, 0], "array": images[1:]}[held]
        assert np.array_equal(np.asarray(part), expected)


def test_nothing_to_do_is_no_batch(tmp_path: Path) -> None:
    assert feed(plan(tmp_path), start_step=3, stop_step=3) == []


def test_an_unreadable_scene_fails_at_its_step(tmp_path: Path) -> None:
    source = plan(tmp_path)
    Path(source.scenes[1].image).unlink()
    first = next(n for n in range(99) if source.order.chip(n).scene == 1)
    seen = []
    with pytest.raises(SceneError, match=r"s1\.tif"):
        for batch in local_batches(source, World(), global_batch=1, start_step=0, stop_step=99, threads=4):
            seen.append(batch.numbers[0])
    assert seen == list(range(first))


def test_threads_end_with_the_consumer(tmp_path: Path) -> None:
    batches = local_batches(plan(tmp_path), World(), global_batch=2, start_step=0, stop_step=10**9, threads=2)
    next(batches)
    assert any(thread.name.startswith("feed") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("feed") for thread in threading.enumerate())
