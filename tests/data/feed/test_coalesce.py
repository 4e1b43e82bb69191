"""What is read together is what is read alone; and how work is divided into blocks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.chips import raw_chip
from pipeline.data.feed import coalesce
from pipeline.data.feed.batches import local_batches, numbers_of
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.ray_blocks import divide, filled
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.rasters.windows import Window
from pipeline.recipe.data import Reading
from pipeline.world import World
from tests.data.feed.feed_world import AUGMENT, plan, scene

DEFAULT = Reading()
LOCALITY = {"size": 32, "epoch_size": 60, "locality": {"tiles": 3, "chips": 4, "pool": 3, "tile": 16}}

windows = st.lists(
    st.builds(
        Window,
        st.integers(-40, 400),
        st.integers(-40, 400),
        st.integers(1, 90),
        st.integers(1, 90),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=20,
)


@given(found=windows, tile=st.tuples(st.sampled_from([1, 16, 64]), st.sampled_from([16, 64, 500])))
def test_reading_together_never_touches_more_tiles(found: list[Window], tile: tuple[int, int]) -> None:
    bounds = (380, 410)
    groups = coalesce.clusters(found, tile, bounds)
    assert sorted(position for group in groups for position in group) == list(range(len(found)))
    for group in groups:
        members = [found[position] for position in group]
        assert len({w.slice for w in members}) == 1
        whole = coalesce.union(members)
        assert coalesce.cost(whole, tile, bounds) <= sum(coalesce.cost(w, tile, bounds) for w in members)
        for one in members:
            assert whole.row <= one.row
            assert whole.row + whole.height >= one.row + one.height
            assert whole.col <= one.col
            assert whole.col + whole.width >= one.col + one.width


def test_neighbours_are_joined_and_strangers_are_not() -> None:
    near, far = [Window(0, 0, 50, 50), Window(20, 30, 50, 50)], Window(0, 900, 50, 50)
    assert sorted(coalesce.clusters([near[0], far, near[1]], (64, 64), (1000, 1000))) == [[0, 2], [1]]


@pytest.mark.parametrize("augment", [(), AUGMENT])
def test_chips_read_together_are_chips_read_alone(tmp_path: Path, augment: list) -> None:
    here = plan(tmp_path, augment=augment, sampling={"size": 32})
    images, masks = here.stack(range(40))
    for number in range(40):
        image, mask = here.chip(number)
        assert np.array_equal(image, images[number])
        assert np.array_equal(mask, masks[number])


def test_a_shared_part_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan(tmp_path, sampling={"size": 32})
    seen = []
    read = raw_chip.read
    monkeypatch.setattr(raw_chip, "read", lambda *a, **k: seen.append(a[1]) or read(*a, **k))
    here.stack(range(40))
    assert len(seen) < 20


@pytest.mark.parametrize("sampling", [LOCALITY, {"size": 32}, {"size": 32, "scale": [0.5, 1.5]}])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_local_feed_gives_the_chips_of_the_order(tmp_path: Path, sampling: dict, workers: int) -> None:
    """From the middle of a pool, over the end of an epoch, with batches that do not divide a pool."""
    here = plan(tmp_path, sampling=sampling)
    for rank in range(workers):
        world = World(rank, workers)
        got = list(local_batches(here, world, global_batch=10, start_step=3, stop_step=9, threads=3))
        assert [batch.numbers for batch in got] == [tuple(numbers_of(step, world, 10)) for step in range(3, 9)]
        for batch in got:
            for place, number in enumerate(batch.numbers):
                image, mask = here.chip(number)
                assert np.array_equal(batch.image[place].numpy(), image)
                assert np.array_equal(batch.mask[place].numpy(), mask)


@pytest.mark.parametrize("sampling", [LOCALITY, {"size": 32}])
@pytest.mark.parametrize("workers", [1, 2])
def test_blocks_hold_all_chips_in_the_order_of_ranks(tmp_path: Path, sampling: dict, workers: int) -> None:
    here = plan(tmp_path, sampling=sampling)
    work = divide(here.order, workers, 10, range(3, 40), steps_per_block=4, tasks=(6, 6))
    tasks = [work.tasks(segment) for segment in range(len(work.segments))]
    parts = [part for segment in tasks for task in segment for part in task]
    assert work.tasks(len(work.segments)) == []
    assert work.longest >= max(len(part.steps) for part in parts)
    assert [part.world.rank for part in parts] == [n % workers for n in range(len(parts))]
    if here.order.span == 1 or workers == 1:
        assert max(len(part.steps) for part in parts) <= 4
    for rank in range(workers):
        numbers = [n for part in parts if part.world.rank == rank for n in part.numbers(10)]
        assert numbers == [n for step in range(3, 40) for n in numbers_of(step, World(rank, workers), 10)]
    if here.order.span == 1:
        assert [len(part.steps) for part in parts[::workers][:4]] == ([1, 2, 4, 4] if workers == 1 else [1, 2, 4, 1]), (
            "segments begin small"
        )
    task = [part.numbers(10) for part in tasks[0][-1]]
    for (numbers, images, masks, replaced), wanted in zip(filled(here, task), task, strict=True):
        assert (list(numbers), replaced) == (wanted, [])
        for place, number in enumerate(numbers):
            assert np.array_equal(images[place], here.chip(number)[0])
            assert np.array_equal(masks[place], here.chip(number)[1])


def test_a_part_of_a_file_shows_nothing_of_the_rest(tmp_path: Path) -> None:
    pixels = np.arange(1, 1 + 4 * 96 * 96, dtype=np.uint16).reshape(4, 96, 96)
    whole = scene(tmp_path, "a", height=96, width=96, pixels=pixels)
    source = plan(tmp_path)
    part = replace(whole, origin=(16, 32), height=40, width=48)
    found = raw_chip.read(part, Window(-8, -8, 64, 64), source.classes, data=source.data)
    inside = np.zeros((64, 64), bool)
    inside[8:48, 8:56] = True
    assert np.array_equal(found.valid, inside)
    assert np.array_equal(found.image[:, inside], pixels[:, 16:56, 32:80].reshape(4, -1))
    small = raw_chip.read(part, Window(-8, -8, 64, 64), source.classes, data=source.data, shape=(32, 32))
    assert not small.valid[:5].any()
    assert small.valid[6:23, 6:27].all()
    assert not small.valid[24:].any()


def test_processes_that_read_chips_load_neither_torch_nor_ray() -> None:
    code = "import sys; from pipeline.data.feed import plan, ray_blocks; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_plan_with_locality_reads_less(tmp_path: Path) -> None:
    here: Plan = plan(tmp_path, sampling=LOCALITY)
    groups = here.groups(here.order.pool(0))
    assert sorted(n for group in groups for n in group) == list(here.order.pool(0))
    assert len(groups) < len(here.order.pool(0))


def test_files_are_described_as_the_recipe_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its `reading` section a file can be another raster, or none."""
    source = plan(tmp_path)
    source = replace(source, data=source.data.model_copy(update={"reading": Reading(bands=[4, 2, 1, 3])}))
    readings = []
    describe = raster_io.describe

    def described(uri: str, *, reading: Reading = DEFAULT, **options: bool) -> RasterInfo:
        if "/images/" in uri:
            readings.append(reading)
        return describe(uri, reading=reading, **options)

    monkeypatch.setattr(raster_io, "describe", described)
    source.stack(range(40))
    assert readings and set(readings) == {source.data.reading}
