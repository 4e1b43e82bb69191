"""Logits and targets of a batch as the terms of a loss need them; each quantity is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.errors import LabelError, SceneError
from pipeline.metrics.tables import signed
from pipeline.model.losses.fused import Softmax, softmax_pass

Task = Literal["multiclass", "binary", "multilabel"]
"""multiclass: one class per pixel. binary: one channel, yes or no. multilabel: K channels, yes or no in each."""


T = TypeVar("T")


class once(Generic[T]):
    """A property that is made when first asked for. functools' own takes a lock, which torch.compile cannot follow."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> T:
        made: T = self.make(instance)
        instance.__dict__[self.make.__name__] = made
        return made


class Term(Protocol):
    """One part of a loss."""

    @property
    def size(self) -> int:
        """Number of sums."""

    @property
    def regions(self) -> bool:
        """Whether `sums` reads `Evidence.regions`, and nothing else."""

    @property
    def spreads(self) -> tuple[tuple[float, ...], ...]:
        """Class weights with which `sums` asks for `Evidence.spread`."""

    def sums(self, evidence: Evidence) -> Tensor:
        """Sums [size] over the valid pixels of this worker, differentiable."""

    def value(self, sums: Tensor) -> Tensor:
        """The loss from the sums of all workers."""


class Evidence:
    """One batch.

    Below, [...] is [N,H,W] for the task multiclass and [N,K,H,W] for the others, and so is a "decision": which class,
    or whether this class. Everything is float32 (float64 where the logits are), and 0 at IGNORE unless said otherwise.
    """

    def __init__(self, logits: Tensor, mask: Tensor, weights: Tensor | None, task: Task, terms: Sequence[Term]) -> None:
        self.logits, self.mask, self.weights = check(logits, mask, weights, task)
        self.task = task
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self._regions = any(term.regions for term in terms)
        self._pixels = any(not term.regions for term in terms)
        self._spreads = sorted({row for term in terms for row in term.spreads})

    @property
    def classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    @once
    def valid(self) -> Tensor:
        """bool [...]: there is a truth."""
        return self.mask != IGNORE

    @once
    def known(self) -> Tensor:
        """Weight of each decision [...]: that of its pixel, or 1."""
        v = self.valid.to(self.dtype)
        return v if self.weights is None else torch.where(self.valid, self.weights.to(self.dtype), 0)

    @property
    def channels_valid(self) -> Tensor:
        """`valid` that can be multiplied with [N,K,H,W]."""
        return self.valid[:, None] if self.task == "multiclass" else self.valid

    @property
    def channels_known(self) -> Tensor:
        """`known` that can be multiplied with [N,K,H,W]."""
        return self.known[:, None] if self.task == "multiclass" else self.known

    @once
    def truth(self) -> Tensor:
        """0 and 1 [N,K,H,W]."""
        if self.task != "multiclass":
            return (self.mask == 1).to(self.dtype)
        classes = torch.arange(self.classes, device=self.mask.device)
        return (self.mask[:, None] == classes[:, None, None]).to(self.dtype)

    @once
    def scores(self) -> Tensor:
        """Logits [N,K,H,W]."""
        scores = self.logits.to(self.dtype)
        if self.logits.device.type == "cpu" and bool(
            self.valid.all()
        ):  # on other devices this check would wait for the device
            return scores
        return scores.masked_fill(~self.channels_valid, 0)

    @once
    def p(self) -> Tensor:
        """Probabilities [N,K,H,W]; at IGNORE they mean nothing, but have no gradient."""
        return self.scores.softmax(1) if self.task == "multiclass" else self.scores.sigmoid()

    @once
    def log_p(self) -> Tensor:
        """Log-probability [...] of what is true."""
        if self.task == "multiclass":
            return self._pass.log_p
        return F.logsigmoid(torch.where(self.mask == 1, self.scores, -self.scores)).masked_fill(~self.valid, 0)

    def spread(self, weights: tuple[float, ...]) -> Tensor:
        """Mean over the outcomes [...] of their log-probabilities, each times its weight.

        Args:
            weights: multiclass: of the classes, and among `Term.spreads`; else of yes in each channel, empty for 1.
        """
        if self.task == "multiclass":
            return self._pass.spread[self._spreads.index(weights)] / self.classes
        yes, no = F.logsigmoid(self.scores), F.logsigmoid(-self.scores)
        if weights:
            yes = yes * yes.new_tensor(weights)[:, None, None]
        return ((yes + no) / 2).masked_fill(~self.valid, 0)

    @once
    def regions(self) -> Tensor:
        """Sums per class [4,K], pixels by their weight: probability on the class's own pixels, probability on all
        valid pixels, number of the class's pixels, number of valid pixels."""
        if self.task == "multiclass":
            sums = self._pass
            return torch.stack([sums.both, sums.predicted, sums.truth, sums.truth.sum().expand(self.classes)])
        v, over = self.known, (0, 2, 3)
        parts = [self.p * self.truth * v, self.p * v, self.truth * v, v]
        return torch.stack([part.sum(over) for part in parts])

    @once
    def cells(self) -> Tensor:
        """Soft true positives, false positives, false negatives and true negatives per class [4,K], pixels by their
        weight.

        Each is a sum of products that are not negative, so that a small one keeps all its digits next to a large one;
        differences of `regions` would lose them where a class is nearly everywhere.
        """
        p, truth, v = self.p, self.truth, self.channels_known
        # 1 - p would round where p is near 1.
        rest = torch.einsum("nkhw,jk->njhw", p, _others(p)) if self.task == "multiclass" else (-self.scores).sigmoid()
        parts = (p * truth, p * (1 - truth), rest * truth, rest * (1 - truth))
        return torch.stack([(part * v).sum((0, 2, 3)) for part in parts])

    def per_decision(self, class_weights: tuple[float, ...] | None) -> Tensor | None:
        """Factor [...] of each decision from its pixel's and its class's weight; None where all valid ones are 1."""
        if class_weights is None:
            return None if self.weights is None else self.known
        factors = torch.tensor(class_weights, dtype=self.dtype, device=self.logits.device)
        if self.task != "multiclass":
            return self.known * factors[:, None, None]
        table = F.pad(factors, (0, IGNORE + 1 - self.classes))
        by_class = table.index_select(0, self.mask.flatten().int()).view(self.mask.shape)
        return by_class if self.weights is None else by_class * self.known

    def mean(self, values: Tensor, factors: Tensor | None) -> Tensor:
        """[2]: sum of `values` [...] by `factors` (as of `per_decision`), and of the factors."""
        if factors is None:
            return torch.stack([values.sum(), self.valid.sum(dtype=self.dtype)])
        return torch.stack([(values * factors).sum(), factors.sum()])

    @once
    def _pass(self) -> Softmax:
        rows = torch.tensor(self._spreads, dtype=self.dtype, device=self.logits.device).view(-1, self.classes)
        return softmax_pass(
            self.logits,
            self.mask,
            self.weights,
            spreads=rows,
            pixels=self._pixels,
            regions=self._regions,
            dtype=self.dtype,
        )


def _others(p: Tensor) -> Tensor:
    """[K,K]: 0 for a class itself, 1 for every other one."""
    return 1 - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)


def check(logits: Tensor, mask: Tensor, weights: Tensor | None, task: Task) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, mask and weights in the shapes that `Evidence` has, or what is wrong with them."""
    if logits.ndim != 4 or not logits.is_floating_point():
        raise SceneError(f"the logits are {logits.dtype} {tuple(logits.shape)}, not floating-point [N,K,H,W]")
    if mask.is_floating_point() or mask.is_complex():
        raise SceneError(f"the mask is {mask.dtype}; class ids are integers", "give mask.long()")
    mask = mask.byte() if mask.dtype == torch.bool else signed(mask)
    images, classes, height, width = logits.shape
    flat = (images, height, width)
    wanted = tuple(logits.shape) if task == "multilabel" else flat
    if task != "multilabel" and tuple(mask.shape) == (images, 1, height, width):
        mask = mask[:, 0]
    if tuple(mask.shape) != wanted:
        raise SceneError(f"the mask is {tuple(mask.shape)}; for these logits and the task {task} it must be {wanted}")
    _check_ids(mask, classes if task == "multiclass" else 2)
    if weights is not None and tuple(weights.shape) == (images, 1, height, width):
        weights = weights[:, 0]
    if weights is not None and tuple(weights.shape) != flat:
        raise SceneError(f"pixel_weights are {tuple(weights.shape)}; for these logits they must be {flat}")
    if task == "multiclass":
        return logits, mask, weights
    return logits, mask.view(images, -1, height, width), None if weights is None else weights[:, None]


def _check_ids(mask: Tensor, classes: int) -> None:
    """Check on a CPU only: other devices would have to be waited for, and stop by themselves at a wrong id."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    beyond = mask >= classes
    if mask.dtype.is_signed:
        beyond |= mask < 0
    unusual = mask[beyond]
    wrong = unusual[unusual != IGNORE]
    if len(wrong):
        found = sorted(set(wrong.tolist()))
        listed = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise LabelError(
            f"the mask holds {listed}, which is neither below {classes} nor {IGNORE}",
            f"pixels without a truth are {IGNORE}: mask[mask == {found[0]}] = {IGNORE}",
        )
