"""Blocks of chips: how a feed divides its work over processes, and how one process makes a block.

Neither torch nor Ray nor any reader is loaded here: processes that only read chips, or only hand out work, load this
file, and the training waits for them.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.data.feed.batches import numbers_of
from pipeline.world import World

if TYPE_CHECKING:
    from pipeline.data.chips.quarantine import Replaced
    from pipeline.data.chips.sampling.order import Order
    from pipeline.data.feed.plan import Plan


@dataclass(frozen=True)
class Part:
    """The chips of one rank at some consecutive steps: a block."""

    world: World
    steps: range

    def numbers(self, global_batch: int) -> list[int]:
        """Numbers of the chips, in the order in which the rank consumes them."""
        return [number for step in self.steps for number in numbers_of(step, self.world, global_batch)]


Task = tuple[Part, ...]
"""Parts made by one process, one after the other."""


@dataclass(frozen=True)
class Work:
    """All work, divided into segments of tasks; small, since it travels to processes that plan.

    `bounds` are the steps at which groups of tasks begin, and the end; `segments` the first group of each segment.
    """

    num_workers: int
    steps_per_block: int
    pooled: bool
    bounds: array[int]
    segments: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Most steps in a block."""
        if not self.pooled or self.num_workers == 1:
            return self.steps_per_block
        return max(end - begin for begin, end in itertools.pairwise(self.bounds))

    def tasks(self, segment: int) -> list[Task]:
        """Parts of a segment, in the order rank 0, rank 1, ... of some steps, then of the next ones."""
        if segment >= len(self.segments):
            return []
        end = self.segments[segment + 1] if segment + 1 < len(self.segments) else len(self.bounds) - 1
        groups = itertools.pairwise(self.bounds[self.segments[segment] : end + 1])
        return [task for begin, stop in groups for task in self._group(range(begin, stop))]

    def _group(self, steps: range) -> list[Task]:
        """Only with one rank can a task make several blocks: Ray may join them, and each must be one rank's."""
        if self.num_workers > 1:
            return [(Part(World(rank, self.num_workers), steps),) for rank in range(self.num_workers)]
        size = self.steps_per_block
        return [tuple(Part(World(), steps[i : i + size]) for i in range(0, len(steps), size))]


def divide(
    order: Order, num_workers: int, global_batch: int, steps: range, *, steps_per_block: int, tasks: tuple[int, int]
) -> Work:
    """Divide the work into segments: the first of about `tasks[0]` tasks, all others of about `tasks[1]`.

    The first blocks of a segment are small, so that consumers need not wait for a whole one. Where chips that are far
    apart are read together, a task is what one rank needs of all that is read together.
    """
    bounds, firsts = array("q", [steps.start]), list[int]()
    while bounds[-1] < steps.stop:
        firsts.append(len(bounds) - 1)
        length = 1
        for _ in range(max(1, tasks[len(firsts) > 1] // num_workers)):
            at = bounds[-1]
            if at >= steps.stop:
                break
            end = at + length if order.span == 1 else -(-order.pool(at * global_batch).stop // global_batch)
            bounds.append(min(max(end, at + 1), steps.stop))
            length = min(2 * length, steps_per_block)
    return Work(num_workers, steps_per_block, order.span > 1, bounds, tuple(firsts))


def filled(
    plan: Plan, blocks: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], NDArray[Any], NDArray[Any], list[Replaced]]]:
    """The chips of several blocks of numbers: numbers, images, masks and what was replaced of each block, in order.

    A block is there as soon as its chips are, not before all are.

    Raises:
        DataError: a chip cannot be read.
    """
    buffers = [plan.empty(len(numbers)) for numbers in blocks]
    place_of = {n: (b, p) for b, numbers in enumerate(blocks) for p, n in enumerate(numbers)}
    missing = [len(numbers) for numbers in blocks]
    replaced: list[list[Replaced]] = [[] for _ in blocks]
    ready = 0
    for group in [list(blocks[0])] if len(blocks) == 1 else plan.groups(place_of):
        places = [place_of[number] for number in group]
        images, masks = ([buffers[block][kind][place] for block, place in places] for kind in (0, 1))
        for one in plan.put(group, images, masks):
            replaced[place_of[one.number][0]].append(one)
        for block, _ in places:
            missing[block] -= 1
        while ready < len(blocks) and not missing[ready]:
            yield blocks[ready], *buffers[ready], replaced[ready]
            buffers[ready] = buffers[ready][0][:0], buffers[ready][1][:0]  # the consumer's now
            ready += 1
