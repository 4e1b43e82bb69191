"""Batches: which chips a rank gets at a step, and the feed that reads them with threads of the training process.

The other feed is in on_ray.py; both give identical batches. Pixels stay as they are in the files: the network
normalises on its device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.errors import TrainingError
from pipeline.world import World

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.chips import Plan  # the loop needs Batch, and must load without rasterio and albumentations

_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """One rank's chips of a step: image [N, C, H, W] in the files' dtype, mask [N, H, W] uint8, and their numbers."""

    image: Tensor
    mask: Tensor
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, image: NDArray[Any], mask: NDArray[Any], numbers: Sequence[int]) -> Batch:
        """Arrays as tensors that share their memory."""
        import torch  # not above: processes that only read chips load this file, and torch takes half a gigabyte

        return cls(torch.from_numpy(image), torch.from_numpy(mask), tuple(numbers))


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
        DataError: a chip cannot be read; raised at its step.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="feed")
    # Enough chips under way to keep every thread busy, also where the micro-batch is a single chip.
    ahead = _AHEAD + threads // micro_batch(world, global_batch)
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    try:
        for step in range(start_step, stop_step):
            pending.append(_begin(plan, numbers_of(step, world, global_batch), pool))
            if len(pending) > ahead:
                yield _finish(*pending.popleft())
        while pending:
            yield _finish(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(plan: Plan, numbers: range, pool: ThreadPoolExecutor) -> tuple[Batch, list[Future[None]]]:
    """A batch that threads are filling, chip by chip."""
    images, masks = plan.empty(len(numbers))

    def fill(position: int, number: int) -> None:
        images[position], masks[position] = plan.chip(number)

    futures = [pool.submit(fill, position, number) for position, number in enumerate(numbers)]
    return Batch.of(images, masks, numbers), futures


def _finish(batch: Batch, futures: list[Future[None]]) -> Batch:
    for future in futures:
        future.result()
    return batch
