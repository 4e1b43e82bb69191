"""The feed by Ray Data: the same batches as `local_batches`, read by the CPUs of a whole cluster.

A block holds some micro-batches of one rank, and blocks come in the order rank 0, rank 1, ... With `preserve_order`,
Ray's splitter gives each block to the rank that has got the fewest rows, the lowest rank first: so block j goes to
rank j modulo the number of ranks, and every rank finds its own chips in the order of the steps. `ray_batches` checks
the numbers, since this is how Ray works and not what it promises.

A long run is cut into segments of at most `TASKS_PER_EXECUTION` blocks, because Ray Data makes all read tasks of an
execution before the first one starts; the first segment is short, so that a training need not wait for that. Each
execution of the dataset is the next segment; Ray counts them in `DataContext._execution_idx`, which is also what its
own shuffles are seeded with.

Three kinds of processes load this file: the training, Ray's coordinator, which hands out read tasks, and the workers
that run them. Only what all need is imported above: the training waits for the others to start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import ray
from ray.data import DataContext, DataIterator, Dataset, Datasource, ExecutionOptions
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import ReadTask

from pipeline.data.feed.batches import Batch, micro_batch, numbers_of
from pipeline.data.feed.ray_blocks import Part, divide, filled
from pipeline.errors import ClusterError, PipelineError, TrainingError
from pipeline.world import World

if TYPE_CHECKING:
    from pipeline.data.chips.quarantine import Replaced
    from pipeline.data.feed.plan import Plan

TASKS_PER_EXECUTION: Final = (64, 1024)
"""Most blocks in the first execution of the dataset, and in the others; their start takes about a millisecond for
each."""

_BLOCK_BYTES: Final = 64 << 20
_PREFETCH_BATCHES: Final = 2


def dataset(
    plan: Plan,
    *,
    num_workers: int,
    global_batch: int,
    start_step: int,
    stop_step: int,
    block_batches: int,
    cpus_per_task: float = 1.0,
) -> Dataset:
    """The chips of the steps [start_step, stop_step) as a Ray Dataset, to be split over `num_workers` consumers.

    Columns: image [C, H, W] in the files' dtype, mask [H, W] uint8, number int64. To be consumed by `ray_batches`
    only, and executed with `execution_options()`. Processes that will read begin to load what they need at once.

    Args:
        plan: goes to the object store once.
        num_workers: consumers it will be split over.
        global_batch: chips per step over all consumers.
        start_step: first step.
        stop_step: end of the steps, exclusive.
        block_batches: micro-batches in a block; fewer where a block would pass 64 MiB.
        cpus_per_task: CPUs that Ray sets aside for each read task; a fraction where the machine is small.

    Raises:
        ClusterError: this process is not connected to a Ray cluster.
        TrainingError: the global batch does not divide over the consumers.
    """
    if not ray.is_initialized():
        raise ClusterError("not connected to a Ray cluster", "call ray.init() first, or use compute.feed=local")
    world = World(size=num_workers)
    batch_bytes = micro_batch(world, global_batch) * plan.chip_bytes
    steps_per_block = max(1, min(block_batches, _BLOCK_BYTES // batch_bytes))
    source = ChipDatasource(plan, world, global_batch, range(start_step, stop_step), steps_per_block)
    source.warm(cpus_per_task)
    chips = ray.data.read_datasource(source, num_cpus=cpus_per_task, override_num_blocks=source.num_tasks)
    context = chips.context
    context.execution_options = execution_options()
    # A block that Ray divides would go to several ranks.
    context.target_max_block_size = max(context.target_max_block_size or 0, 2 * source.block_bytes)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return chips


def execution_options() -> ExecutionOptions:
    """Options of Ray Data, also for `ray.train.DataConfig`, which replaces a dataset's own options."""
    options = ExecutionOptions()
    options.preserve_order = True
    return options


def ray_batches(
    iterator: DataIterator, world: World, *, global_batch: int, start_step: int, stop_step: int
) -> Iterator[Batch]:
    """Batches of the steps [start_step, stop_step) in order, from this rank's split of `dataset`.

    Args:
        iterator: the split.
        world: which rank of how many.
        global_batch: chips per step over all ranks.
        start_step: first step.
        stop_step: end of the steps, exclusive.

    Raises:
        DataError: a chip could not be read, wherever that was.
        TrainingError: the split does not hold the chips that this rank needs, or ends too early.
    """
    size = micro_batch(world, global_batch)
    step = start_step
    while step < stop_step:
        first = step
        for columns in _segment(iterator, size):
            expected = tuple(numbers_of(step, world, global_batch))
            _expect(expected, columns["number"], step, world)
            # Copies: the arrays are read-only views of the object store, which can then free the block.
            yield Batch.of(columns["image"].copy(), columns["mask"].copy(), expected, _replaced(columns))
            step += 1
        if step == first:
            raise TrainingError(
                f"the Ray feed of rank {world.rank} ended at step {step} of {stop_step}",
                "make the dataset for the same steps",
            )


def unwrap(error: BaseException | None) -> PipelineError | None:
    """Our own error inside what Ray made of it, or None if there is none."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray derives a class of its own from ours and keeps the original as the cause.
        if isinstance(current, PipelineError) and not isinstance(current, ray.exceptions.RayError):
            current.args = (current.message, current.hint)  # Ray Data appends its advice on retries
            return current
        failures = getattr(current, "worker_failures", None)
        pending += [getattr(current, "cause", None), current.__cause__, current.__context__]
        pending += failures.values() if isinstance(failures, dict) else []
    return None


class ChipDatasource(Datasource):  # type: ignore[misc]  # Ray ships no types that we check
    """Read tasks for blocks of at most `steps_per_block` steps of one rank each."""

    def __init__(self, plan: Plan, world: World, global_batch: int, steps: range, steps_per_block: int) -> None:
        super().__init__()
        self._plan = ray.put(plan)
        self._chip_bytes = plan.chip_bytes
        self._world, self._global_batch = world, global_batch
        self._work = divide(
            plan.order, world.size, global_batch, steps, steps_per_block=steps_per_block, tasks=TASKS_PER_EXECUTION
        )

    @property
    def num_tasks(self) -> int:
        """Number of tasks of the first segment."""
        return len(self._work.tasks(0))

    def warm(self, cpus_per_task: float) -> None:
        """Let every CPU that is free start a process and load what reading needs: two seconds of work for which the
        first chips would wait. Nothing waits for this; what goes wrong here goes wrong again in a read task."""
        free = int(ray.available_resources().get("CPU", 0.0) / cpus_per_task)
        options = {"num_cpus": cpus_per_task, "num_returns": 0, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        load = ray.remote(**options)(_load)
        for _ in range(min(free, self.num_tasks)):
            load.remote([self._plan])

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block."""
        return self._work.longest * micro_batch(self._world, self._global_batch) * self._chip_bytes

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the first segment."""
        return sum(task.metadata.size_bytes or 0 for task in self.get_read_tasks(self.num_tasks))

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """The tasks of the segment whose turn it is; without a context, those of the first."""
        segment = data_context._execution_idx if data_context is not None else 0
        return [self._task(parts) for parts in self._work.tasks(segment)]

    def _task(self, parts: tuple[Part, ...]) -> ReadTask:
        rows = sum(len(part.steps) for part in parts) * micro_batch(self._world, self._global_batch)
        metadata = BlockMetadata(num_rows=rows, size_bytes=rows * self._chip_bytes, input_files=None, exec_stats=None)
        # Not a method: a task must not carry the whole datasource.
        read: Callable[[], Iterable[Block]] = partial(_read, self._plan, parts, self._global_batch)
        return ReadTask(read, metadata)


@lru_cache(maxsize=4)
def _get(plan: ray.ObjectRef) -> Plan:
    """The plan, fetched once per process."""
    value: Plan = ray.get(plan)
    return value


def _load(plan: Sequence[ray.ObjectRef]) -> None:
    """Load what read tasks need before they read; in a list, since Ray would resolve a bare reference."""
    _get(*plan)


def _read(plan_ref: ray.ObjectRef, parts: tuple[Part, ...], global_batch: int) -> Iterator[Block]:
    plan = _get(plan_ref)
    for numbers, images, masks, replaced in filled(plan, [part.numbers(global_batch) for part in parts]):
        columns = {"image": images, "mask": masks, "number": np.array(numbers, np.int64)}
        if plan.tolerated:
            reasons = {one.number: json.dumps(one.to_json()) for one in replaced}
            columns["replaced"] = np.array([reasons.get(number, "") for number in numbers])
        yield BlockAccessor.batch_to_block(columns)


def _segment(iterator: DataIterator, size: int) -> Iterator[dict[str, Any]]:
    """Micro-batches of one execution as numpy columns; our errors as they were raised."""
    try:
        yield from iterator.iter_batches(batch_size=size, batch_format="numpy", prefetch_batches=_PREFETCH_BATCHES)
    except Exception as error:
        ours = unwrap(error)
        if ours is None:
            raise
        raise ours from error


def _replaced(columns: dict[str, Any]) -> list[Replaced]:
    found = [json.loads(str(text)) for text in columns.get("replaced", ()) if text]
    if not found:
        return []
    from pipeline.data.chips.quarantine import (
        Replaced,  # not above: it loads the recipe, which the coordinator does without
    )

    return [Replaced.from_json(one) for one in found]


def _expect(expected: tuple[int, ...], numbers: Any, step: int, world: World) -> None:
    if tuple(numbers.tolist()) != expected:
        raise TrainingError(
            f"the Ray feed gave rank {world.rank} of {world.size} the chips {numbers.tolist()} at step {step}, "
            f"not {list(expected)}",
            "the dataset must be made for as many workers and the same steps, and executed with preserve_order",
        )
