"""The Ray feed gives the batches of the local feed, on a real cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from pipeline.data.feed import on_ray
from pipeline.data.feed.batches import Batch, local_batches
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.ray_blocks import divide
from pipeline.errors import ClusterError, LabelError, SceneError, TrainingError
from pipeline.world import World
from tests.data.feed.feed_world import AUGMENT, plan
from tests.factory import write_raster

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan(tmp_path_factory.mktemp("scenes"), augment=AUGMENT)


def streams(source: Plan, workers: int, batch: int, start: int, stop: int, **options) -> list[list[Batch]]:
    """What every rank gets; each consumes in a thread of its own, as training processes would."""
    settings = {"block_batches": 3, "cpus_per_task": 3} | options
    steps = {"global_batch": batch, "start_step": start, "stop_step": stop}
    chips = on_ray.dataset(source, num_workers=workers, **steps, **settings)
    splits = chips.streaming_split(workers, equal=True)

    def consume(rank: int) -> list[Batch]:
        return list(on_ray.ray_batches(splits[rank], World(rank, workers), **steps))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(consume, range(workers)))


def assert_same(got: list[Batch], wanted: list[Batch]) -> None:
    assert [batch.numbers for batch in got] == [batch.numbers for batch in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert one.image.dtype == other.image.dtype
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("start", [0, 7])
def test_both_feeds_agree(ray_cluster, source: Plan, monkeypatch, workers: int, start: int) -> None:
    """Across borders of blocks, of two segments and of an epoch, with a last block that is shorter."""
    monkeypatch.setattr(on_ray, "TASKS_PER_EXECUTION", (4, 8))
    stop, batch = start + 28 // workers, 4
    assert start * batch // source.order.epoch_size < (stop * batch - 1) // source.order.epoch_size
    ranks = streams(source, workers, batch, start, stop)
    assert len(ranks) == workers
    for rank, got in enumerate(ranks):
        world = World(rank, workers)
        assert_same(
            got,
            list(local_batches(source, world, global_batch=batch, start_step=start, stop_step=stop, threads=2)),
        )
        assert got[0].image.is_contiguous()


@pytest.mark.parametrize("workers", [1, 2])
def test_chips_of_a_pool_are_read_together(ray_cluster, tmp_path: Path, workers: int) -> None:
    """One task makes the blocks of all ranks for a pool, with batches that do not divide it."""
    near = {"tiles": 3, "chips": 4, "pool": 3, "tile": 16}
    source = plan(tmp_path, augment=AUGMENT, sampling={"size": 32, "epoch_size": 60, "locality": near})
    for rank, got in enumerate(streams(source, workers, 10, 3, 9)):
        wanted = local_batches(source, World(rank, workers), global_batch=10, start_step=3, stop_step=9, threads=2)
        assert_same(got, list(wanted))


def test_windows_that_cannot_be_read_are_replaced_and_named(ray_cluster, tmp_path: Path) -> None:
    source = plan(tmp_path)
    Path(source.scenes[1].image).unlink()
    data = source.data.model_dump() | {"on_error": {"kind": "quarantine", "max": 30}}
    source = replace(source, data=source.data.model_validate(data))
    (got,) = streams(source, 1, 4, 0, 10)
    wanted = list(local_batches(source, World(), global_batch=4, start_step=0, stop_step=10, threads=2))
    assert_same(got, wanted)
    assert [batch.replaced for batch in got] == [batch.replaced for batch in wanted]
    assert any(batch.replaced for batch in got)


def test_a_plan_goes_to_the_store_once_and_tasks_stay_small(ray_cluster, source: Plan) -> None:
    chips = on_ray.dataset(source, num_workers=2, global_batch=4, start_step=0, stop_step=10**6, block_batches=4)
    datasource = on_ray.ChipDatasource(source, World(size=2), 4, range(10**6), 4)
    tasks = datasource.get_read_tasks(1)
    assert len(tasks) == datasource.num_tasks == on_ray.TASKS_PER_EXECUTION[0]
    assert max(len(ray.cloudpickle.dumps(task.read_fn.args[1:])) for task in tasks) < 1000
    assert chips.context.execution_options.preserve_order


def test_the_first_segment_is_short_since_all_its_tasks_are_made_before_it_starts(ray_cluster, source: Plan) -> None:
    work = divide(source.order, 2, 4, range(10**6), steps_per_block=4, tasks=(6, 20))
    segments = [work.tasks(number) for number in range(3)]
    assert [len(tasks) for tasks in segments] == [6, 20, 20]
    steps = [part.steps for tasks in segments for (part,) in tasks if part.world.rank == 1]
    assert [step for part in steps for step in part] == list(range(steps[-1].stop))


def test_processes_load_what_reading_needs_before_anybody_reads(ray_cluster, source: Plan, tmp_path: Path) -> None:
    class Leaving(str):
        """Leaves a file where it is unpickled."""

        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "loaded",)

    leaving = replace(source, digest=Leaving(source.digest))
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0.0) < 1:  # tasks of a test before this one may still hold them
        assert time.monotonic() < until
        time.sleep(0.05)
    on_ray.dataset(leaving, num_workers=1, global_batch=4, start_step=0, stop_step=9, block_batches=1)
    until = time.monotonic() + 60
    while not (tmp_path / "loaded").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_hands_out_read_tasks_loads_no_reader() -> None:
    """Ray's coordinator imports the file in a process of its own, for which the first batch waits."""
    code = "import sys, pipeline.data.feed.on_ray; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ray.data" in loaded
    assert not {"torch", "rasterio", "albumentations", "cv2", "pipeline.recipe", "pipeline.store"} & set(loaded)


def test_other_datasets_keep_their_settings(ray_cluster, source: Plan) -> None:
    before = ray.data.DataContext.get_current().copy()
    on_ray.dataset(source, num_workers=1, global_batch=512, start_step=0, stop_step=9, block_batches=9**9)
    after = ray.data.DataContext.get_current()
    assert (after.target_max_block_size, after.enable_progress_bars) == (
        before.target_max_block_size,
        before.enable_progress_bars,
    )
    assert not after.execution_options.preserve_order


def test_blocks_are_raw_pixels_of_whole_micro_batches(ray_cluster, source: Plan) -> None:
    chips = on_ray.dataset(source, num_workers=2, global_batch=4, start_step=0, stop_step=7, block_batches=3)
    blocks = list(chips.iter_batches(batch_size=None, batch_format="numpy"))
    assert [len(block["number"]) for block in blocks] == [2, 2, 4, 4, 6, 6, 2, 2], "the first ones are small"
    assert blocks[5]["number"].tolist() == [14, 15, 18, 19, 22, 23]
    assert (blocks[4]["image"].dtype, blocks[4]["image"].shape) == (np.uint16, (6, 4, 32, 32))
    assert (blocks[4]["mask"].dtype, blocks[4]["mask"].shape) == (np.uint8, (6, 32, 32))


def test_large_micro_batches_make_smaller_blocks(ray_cluster, source: Plan, monkeypatch) -> None:
    monkeypatch.setattr(on_ray, "_BLOCK_BYTES", 1)
    chips = on_ray.dataset(source, num_workers=1, global_batch=4, start_step=0, stop_step=3, block_batches=3)
    assert [len(block["number"]) for block in chips.iter_batches(batch_size=None)] == [4, 4, 4]


@pytest.mark.parametrize(("damage", "kind", "words"), [("gone", SceneError, "s1.tif"), ("label", LabelError, "s1")])
def test_a_chip_that_cannot_be_read_fails_as_in_this_process(
    ray_cluster, tmp_path: Path, damage: str, kind: type, words: str
) -> None:
    broken = plan(tmp_path)
    if damage == "gone":
        Path(broken.scenes[1].image).unlink()
    else:
        write_raster(Path(broken.scenes[1].label), np.full((80, 60), 9, np.uint8))
    with pytest.raises(kind, match=words) as caught:
        streams(broken, 2, 4, 0, 20)
    with pytest.raises(kind) as local:
        list(local_batches(broken, World(), global_batch=4, start_step=0, stop_step=20, threads=1))
    assert str(caught.value) == str(local.value)
    assert caught.value.args == local.value.args
    assert type(caught.value) is kind
    assert caught.value.hint


def test_a_split_for_another_number_of_workers_is_refused(ray_cluster, source: Plan) -> None:
    chips = on_ray.dataset(source, num_workers=2, global_batch=4, start_step=0, stop_step=4, block_batches=2)
    (split,) = chips.streaming_split(1, equal=True)
    with pytest.raises(TrainingError, match=r"rank 0 of 1 the chips \[4, 5, 8, 9\] at step 1, not \[4, 5, 6, 7\]"):
        list(on_ray.ray_batches(split, World(), global_batch=4, start_step=0, stop_step=4))


def test_a_feed_that_ends_too_early_says_so(ray_cluster, source: Plan) -> None:
    chips = on_ray.dataset(source, num_workers=1, global_batch=4, start_step=0, stop_step=2, block_batches=2)
    (split,) = chips.streaming_split(1, equal=True)
    with pytest.raises(TrainingError, match="ended at step 2 of 5"):
        list(on_ray.ray_batches(split, World(), global_batch=4, start_step=0, stop_step=5))


def test_stopping_early_is_fine(ray_cluster, source: Plan) -> None:
    chips = on_ray.dataset(source, num_workers=1, global_batch=2, start_step=0, stop_step=500, block_batches=2)
    (split,) = chips.streaming_split(1, equal=True)
    batches = on_ray.ray_batches(split, World(), global_batch=2, start_step=0, stop_step=500)
    assert next(batches).numbers == (0, 1)
    batches.close()


def test_no_cluster_is_started_by_the_library(source: Plan, monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match="not connected"):
        on_ray.dataset(source, num_workers=1, global_batch=2, start_step=0, stop_step=1, block_batches=1)


def test_our_errors_are_found_inside_those_of_ray(ray_cluster) -> None:
    def fail() -> None:
        raise SceneError("scene a is broken", "mend it")

    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(ray.remote(num_cpus=0)(fail).remote())
    found = on_ray.unwrap(caught.value)
    assert type(found) is SceneError
    assert (found.message, found.hint) == ("scene a is broken", "mend it")
    assert on_ray.unwrap(ValueError("other")) is None
    assert on_ray.unwrap(None) is None
    outer = RuntimeError("a worker failed")
    outer.worker_failures = {1: caught.value}  # as ray.train.WorkerGroupError has it
    assert on_ray.unwrap(outer) is not None
