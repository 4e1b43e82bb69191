"""Counts: true and false positives and negatives per image and class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipeline.metrics.tables import Task, tabulate


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives and negatives of every class against the rest, int64 [N,K] of images or [K] of all.

    Unpacks into the four. `+` puts images after images, and adds totals.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in self]
        if len(set(shapes)) > 1 or len(shapes[0]) not in (1, 2):
            raise ValueError(f"counts of the shapes {shapes}, not four times [N,K] or [K]")
        if any(part.is_floating_point() or part.dtype == torch.bool for part in self):
            raise ValueError(f"counts of the types {[str(part.dtype) for part in self]}, not integers")

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Counts) -> Counts:
        if self.num_classes != other.num_classes:
            raise ValueError(f"counts of {self.num_classes} and of {other.num_classes} classes")
        if self.per_image and other.per_image:
            return Counts(*(torch.cat(pair) for pair in zip(self, other, strict=True)))
        return Counts(*(a + b for a, b in zip(self.pooled(), other.pooled(), strict=True)))

    @classmethod
    def from_tables(cls, tables: Tensor) -> Counts:
        """Per image, from its confusion [N,K,K], or from [N,K,2,2]: of every class its own, rows the truth."""
        if tables.dim() == 4:
            return cls(tables[..., 1, 1], tables[..., 0, 1], tables[..., 1, 0], tables[..., 0, 0])
        tp = tables.diagonal(dim1=1, dim2=2)
        fn, fp = tables.sum(2) - tp, tables.sum(1) - tp
        return cls(tp, fp, fn, tables.sum((1, 2))[:, None] - tp - fp - fn)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.tp.shape[-1]

    @property
    def per_image(self) -> bool:
        """Whether the images are kept apart."""
        return self.tp.dim() == 2

    def pooled(self) -> Counts:
        """The sums over the images, [K]."""
        return Counts(*(part.sum(0) for part in self)) if self.per_image else self

    def select(self, classes: Sequence[int]) -> Counts:
        """Only these classes, in this order: `select(range(1, K))` leaves the background out of every mean.

        Raises:
            ValueError: an id that is no class.
        """
        wrong = [k for k in classes if not 0 <= k < self.num_classes]
        if wrong:
            raise ValueError(f"classes: {wrong} are not in 0..{self.num_classes - 1}")
        return Counts(*(part[..., list(classes)] for part in self))

    def to(self, device: torch.device | str) -> Counts:
        """Move the counts to another device."""
        return Counts(*(part.to(device) for part in self))


def count(
    prediction: Tensor,
    mask: Tensor,
    num_classes: int | None = None,
    *,
    task: Task = "multiclass",
    threshold: float = 0.5,
) -> Counts:
    """Counts of every image and class, [N,K], on the device of the prediction. IGNORE never counts.

    Args:
        prediction: logits, if its dtype is floating, else class ids.
            multiclass: logits [N,K,H,W], the largest wins, or ids 0..K-1 and IGNORE [N,H,W].
            binary: logits, or ids 0, 1 and IGNORE, [N,H,W] or [N,1,H,W].
            multilabel: logits, or 0, 1 and IGNORE, [N,K,H,W].
        mask: of an integer dtype: class ids [N,H,W]; multilabel 0 or 1 [N,K,H,W]; IGNORE in all.
        num_classes: K; needed for multiclass ids only, otherwise checked.
        task: multiclass (one class per pixel), binary (one class or none), multilabel (any number of classes).
        threshold: binary and multilabel: positive is a sigmoid of the logit above it.

    Raises:
        ValueError: an unknown task, shapes that do not belong together, an id that is neither a class nor IGNORE.
    """
    return Counts.from_tables(tabulate(prediction, mask, num_classes, task=task, threshold=threshold))
