"""Counts accumulated batch by batch.

Sums of integers: the same whatever the batches, the number of workers and their order.
"""

from __future__ import annotations

from typing import Self, Unpack

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from pipeline.metrics.counts import Counts
from pipeline.metrics.ratios import Options, formula_of, reduced
from pipeline.metrics.tables import Task, check_task, tabulate


class Tally:
    """Counts of all batches so far, on the device of the last one.

    Args:
        num_classes: K; may be left out for the task binary.
        task: multiclass, binary or multilabel, as for `count`.
        threshold: of binary and multilabel, as for `count`.
        imagewise: keep the counts of every image, which imagewise reductions need: 4 K numbers of 8 bytes per image.
            Otherwise memory does not grow.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        task: Task = "multiclass",
        threshold: float = 0.5,
        imagewise: bool = False,
    ) -> None:
        check_task(task, threshold)
        num_classes = 1 if task == "binary" and num_classes is None else num_classes
        if num_classes is None or num_classes < 1 or (task == "binary" and num_classes > 1):
            raise ValueError(f"num_classes: {num_classes} for the task {task}")
        self.num_classes, self.task, self.threshold, self.imagewise = num_classes, task, threshold, imagewise
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        side = (self.num_classes,) * 2 if self.task == "multiclass" else (self.num_classes, 2, 2)
        self._table = torch.zeros(side, dtype=torch.int64)
        self._images: list[Tensor] = []

    def update(self, prediction: Tensor, mask: Tensor) -> Counts:
        """Count one batch, as `count` does; returns its counts.

        Raises:
            ValueError: as `count`; nothing was added.
        """
        tables = tabulate(prediction, mask, self.num_classes, task=self.task, threshold=self.threshold)
        counts = Counts.from_tables(tables)
        # New tensors instead of sums in place: some batches come under torch.inference_mode.
        self._table = self._table.to(tables.device) + tables.sum(0)
        if self.imagewise:
            self._images.append(torch.stack(list(counts)))
        return counts

    def counts(self) -> Counts:
        """All counts: per image [N,K] if they are kept, else pooled [K]."""
        if self.imagewise:
            return Counts(*self._kept())
        return Counts.from_tables(self._table[None]).pooled()

    @property
    def device(self) -> torch.device:
        """Device of the counts."""
        return self._table.device

    @property
    def confusion(self) -> Tensor:
        """Counts int64 [K,K], rows the truth; of the tasks binary and multilabel one 2×2 table per class [K,2,2]."""
        return self._table.clone()

    def compute(self, metric: str = "iou", **options: Unpack[Options]) -> Tensor:
        """The metric of that name in METRICS or ALIASES, of all counts; options are those of `iou`.

        Raises:
            ValueError: an unknown metric; says which is nearest.
        """
        return reduced(formula_of(metric), self.counts(), **options)

    def __add__(self, other: Tally) -> Tally:
        """The tally of the batches of both."""
        return self._empty().merge(self).merge(other)

    def merge(self, other: Tally) -> Self:
        """Add the batches of another tally to these; returns this one.

        Raises:
            ValueError: the other counts other classes, another task or threshold, or keeps images where this one
                does not.
        """
        if self._kind() != other._kind():
            raise ValueError(f"tallies of different kinds: {self._kind()} and {other._kind()}")
        self._table = self._table.to(other._table.device) + other._table
        self._images = [*self._images, *other._images]
        return self

    def over_ranks(self, group: dist.ProcessGroup | None = None) -> Tally:
        """A new tally of the batches of all ranks, the same on each; this one stays as it is.

        Exact: integers are summed, and images are put in the order of the ranks. Every rank of the group must call
        it. Without torch.distributed, or alone, it is a copy.
        """
        out = self._empty().merge(self)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1):
            return out
        home = self.device
        # A rank without a batch has its counts on the CPU, where NCCL cannot go.
        meeting = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
        table = self._table.to(meeting, copy=True)
        dist.all_reduce(table, group=group)
        out._table = table.to(home)
        if self.imagewise:
            out._images = [part.to(home) for part in _gathered(self._kept().to(meeting), group)]
        return out

    def to(self, device: torch.device | str) -> Self:
        """Move the counts; returns this tally."""
        self._table = self._table.to(device)
        self._images = [part.to(device) for part in self._images]
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """All counts, for `load_state_dict`."""
        return {"table": self._table.clone()} | ({"images": self._kept().clone()} if self.imagewise else {})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the counts of a `state_dict`.

        Raises:
            ValueError: it belongs to a tally of another kind; nothing was changed.
        """
        shapes = {name: tuple(part.shape) for name, part in state.items()}
        images = {"images": (4, *shapes.get("images", (0, 0))[1:2], self.num_classes)} if self.imagewise else {}
        if shapes != {"table": tuple(self._table.shape)} | images:
            raise ValueError(f"a state of the shapes {shapes} does not belong to a tally of {self._kind()}")
        self._table = state["table"].clone()
        self._images = [state["images"].clone()] if self.imagewise else []

    def _kept(self) -> Tensor:
        """Counts [4,N,K] of the images, as one tensor from now on."""
        if not self._images:
            return torch.zeros(4, 0, self.num_classes, dtype=torch.int64, device=self.device)
        self._images = [torch.cat([part.to(self.device) for part in self._images], 1)]
        return self._images[0]

    def _empty(self) -> Tally:
        return Tally(self.num_classes, task=self.task, threshold=self.threshold, imagewise=self.imagewise)

    def _kind(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("num_classes", "task", "threshold", "imagewise")}


def _gathered(images: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """The [4,n,K] of every rank, whose n may differ."""
    world = dist.get_world_size(group)
    number = torch.tensor([images.shape[1]], device=images.device)
    numbers = [torch.zeros_like(number) for _ in range(world)]
    dist.all_gather(numbers, number, group=group)
    sizes = [int(n) for n in numbers]
    mine = functional.pad(images, (0, 0, 0, max(sizes) - images.shape[1])).contiguous()
    parts = [torch.zeros_like(mine) for _ in range(world)]
    dist.all_gather(parts, mine, group=group)
    return [part[:, :size] for part, size in zip(parts, sizes, strict=True)]
