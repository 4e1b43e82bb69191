"""Batches: which chips a rank gets at a step, and the feed that reads them with threads of the training process.

The other feed is in on_ray.py; both give identical batches. Pixels stay as they are in the files: the network
normalises on its device.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.errors import TrainingError
from pipeline.world import World

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.chips.quarantine import Replaced
    from pipeline.data.feed.plan import Plan  # the loop needs Batch, and must load without rasterio and albumentations

_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """One rank's chips of a step: image [N, C, H, W] in the files' dtype, mask [N, H, W] or [N, K, H, W] uint8, their
    numbers, and which of them are made of other windows because theirs could not be read."""

    image: Tensor
    mask: Tensor
    numbers: tuple[int, ...]
    replaced: tuple[Replaced, ...] = ()

    @classmethod
    def of(
        cls, image: NDArray[Any], mask: NDArray[Any], numbers: Sequence[int], replaced: Sequence[Replaced] = ()
    ) -> Batch:
        """Arrays as tensors that share their memory."""
        import torch  # not above: processes that only read chips load this file, and torch takes half a gigabyte

        return cls(torch.from_numpy(image), torch.from_numpy(mask), tuple(numbers), tuple(replaced))


def micro_batch(world: World, global_batch: int) -> int:
    """Chips per rank and step.

    Raises:
        TrainingError: the global batch does not divide over the ranks.
    """
    if global_batch % world.size:
        raise TrainingError(
            f"a global batch of {global_batch} chips does not divide over {world.size} workers",
            "change train.global_batch or the number of workers",
        )
    return global_batch // world.size


def numbers_of(step: int, world: World, global_batch: int) -> range:
    """Numbers of the chips of `world.rank` at `step`, counted from 0.

    The global batch is the same whatever the number of ranks: each takes a consecutive part.
    """
    size = micro_batch(world, global_batch)
    first = step * global_batch + world.rank * size
    return range(first, first + size)


def local_batches(
    plan: Plan, world: World, *, global_batch: int, start_step: int, stop_step: int, threads: int
) -> Iterator[Batch]:
    """Batches of the steps [start_step, stop_step) in order, read ahead by a pool of threads.

    Raises:
        DataError: a chip cannot be read and the recipe does not tolerate that; raised at its step.
    """
    micro_batch(world, global_batch)  # refuses what does not divide, before threads start
    # A batch for every thread, and where chips that are far apart are read together, those of the next pool.
    ahead = _AHEAD + threads + -(-2 * (plan.order.span - 1) // global_batch)
    filling = _Filling(plan, world, global_batch, stop_step, threads)
    upcoming = iter(range(start_step, stop_step))
    try:
        for begun in itertools.islice(upcoming, ahead):
            filling.begin(begun)
        for step in range(start_step, stop_step):
            for begun in itertools.islice(upcoming, 1):
                filling.begin(begun)
            yield filling.finish(step)
    finally:
        filling.close()


@dataclass(frozen=True)
class _Buffer:
    """A batch that threads are filling."""

    numbers: range
    images: NDArray[Any]
    masks: NDArray[Any]
    futures: list[Future[list[Replaced]]]


class _Memory:
    """Memory for batches, given out again once nothing holds a view of it: that the system has to clear new
    memory costs as much time as to copy pixels into it."""

    def __init__(self, make: Callable[[], NDArray[Any]]) -> None:
        self._make = make
        self._free: list[NDArray[Any]] = []

    def get(self) -> NDArray[Any]:
        """An array of unknown content."""
        try:
            whole = self._free.pop()
        except IndexError:
            whole = self._make()
        # Tensors keep this view alive, and parts of it that threads fill only what lies below.
        given = whole[:]
        weakref.finalize(given, self._free.append, whole).atexit = False
        return given


class _Filling:
    """Batches under way. A thread fills what is read together, whichever batches that is for."""

    def __init__(self, plan: Plan, world: World, global_batch: int, stop_step: int, threads: int) -> None:
        self._plan, self._world, self._global_batch, self._stop_step = plan, world, global_batch, stop_step
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="feed")
        self._buffers: dict[int, _Buffer] = {}
        size = micro_batch(world, global_batch)
        self._memory = _Memory(lambda: plan.empty(size)[0]), _Memory(lambda: plan.empty(size)[1])
        self._submitted = 0

    def begin(self, step: int) -> None:
        """Let threads make the chips of a step, and those that are read together with them."""
        for number in self._numbers(step):
            if number >= self._submitted:
                self._submit(number)

    def finish(self, step: int) -> Batch:
        """The batch of a step, once it is whole."""
        buffer = self._buffers.pop(step)
        replaced = [one for future in buffer.futures for one in future.result() if one.number in buffer.numbers]
        return Batch.of(buffer.images, buffer.masks, buffer.numbers, sorted(replaced, key=lambda one: one.number))

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, number: int) -> None:
        """All that this rank needs of the pool in which a number is, from this number on; without pools, its chips of
        the step: one task for a batch costs a fifth less than one for each chip."""
        order = self._plan.order
        if order.span == 1:
            batch = self._numbers(number // self._global_batch)
            self._submitted = batch.stop
            self._fill(list(batch))
            return
        self._submitted = order.pool(number).stop
        steps = range(number // self._global_batch, -(-self._submitted // self._global_batch))
        numbers = [n for step in steps[: self._stop_step - steps.start] for n in self._numbers(step)]
        for group in self._plan.groups(n for n in numbers if number <= n < self._submitted):
            self._fill(group)

    def _fill(self, group: list[int]) -> None:
        """Let a thread make chips, which share what they can."""
        buffers = [self._buffer(n // self._global_batch) for n in group]
        places = [n - buffer.numbers.start for n, buffer in zip(group, buffers, strict=True)]
        images = [buffer.images[place] for place, buffer in zip(places, buffers, strict=True)]
        masks = [buffer.masks[place] for place, buffer in zip(places, buffers, strict=True)]
        future = self._pool.submit(self._plan.put, group, images, masks)
        for futures in {id(buffer): buffer.futures for buffer in buffers}.values():
            futures.append(future)

    def _buffer(self, step: int) -> _Buffer:
        if step not in self._buffers:
            numbers = self._numbers(step)
            images, masks = (memory.get() for memory in self._memory)
            self._buffers[step] = _Buffer(numbers, images, masks, [])
        return self._buffers[step]

    def _numbers(self, step: int) -> range:
        return numbers_of(step, self._world, self._global_batch)
