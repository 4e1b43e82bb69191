"""The loss: a weighted sum of terms, on one map of logits or on all outputs of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.errors import RecipeError, SceneError
from pipeline.model.losses.evidence import Evidence, Task, Term, check
from pipeline.model.losses.means import mean_of
from pipeline.model.outputs import Outputs


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms over one batch."""

    terms: tuple[Term, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]
    num_classes: int
    task: Task = "multiclass"

    @property
    def size(self) -> int:
        """Number of sums."""
        return sum(term.size for term in self.terms)

    def sums(self, outputs: Tensor, mask: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
        """Local sums [S], differentiable; float32 whatever the logits are, float64 where they are.

        Args:
            outputs: logits [N,K,H,W].
            mask: integers [N,H,W] (multilabel: [N,K,H,W]), IGNORE where nothing is known.
            pixel_weights: how much each pixel counts [N,H,W], not below 0; by default 1.

        Raises:
            SceneError: a shape or type that does not fit.
            LabelError: an id that is neither a class nor IGNORE (seen on a CPU only).
        """
        if outputs.ndim == 4 and outputs.shape[1] != self.num_classes:
            raise SceneError(f"the logits have {outputs.shape[1]} channels, the loss was made for {self.num_classes}")
        with torch.autocast(outputs.device.type, enabled=False):
            evidence = Evidence(outputs, mask, pixel_weights, self.task, self.terms)
            return torch.cat([term.sums(evidence) for term in self.terms])

    def value(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, from the sums of all workers."""
        return torch.stack([w * v for w, v in zip(self.weights, self._values(sums), strict=True)]).sum()

    def parts(self, sums: Tensor) -> dict[str, float]:
        """Each term's own loss, without its weight, by its kind; a second of a kind is numbered."""
        return {name: float(value) for name, value in zip(self.names, self._values(sums.detach()), strict=True)}

    def __call__(self, outputs: Tensor, mask: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
        """The loss of this batch alone, a scalar."""
        return self.value(self.sums(outputs, mask, pixel_weights))

    def _values(self, sums: Tensor) -> list[Tensor]:
        pieces = torch.split(sums, [term.size for term in self.terms])
        return [term.value(piece) for term, piece in zip(self.terms, pieces, strict=True)]


@dataclass(frozen=True)
class Supervised:
    """A loss on main logits, on auxiliary logits and on the labels of chips; the same interface as `Loss`."""

    loss: Loss
    auxiliary_weights: tuple[float, ...]
    label_weight: float | None

    def sums(self, outputs: Outputs, mask: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
        """Local sums; see `Loss.sums`.

        Raises:
            RecipeError: the network does not give what the loss was made for.
        """
        if len(outputs.auxiliary) != len(self.auxiliary_weights):
            raise RecipeError(
                f"the network gives {len(outputs.auxiliary)} auxiliary outputs, "
                f"the loss has weights for {len(self.auxiliary_weights)}"
            )
        pieces = [self.loss.sums(logits, mask, pixel_weights) for logits in (outputs.logits, *outputs.auxiliary)]
        if self.label_weight is not None:
            if outputs.labels is None:
                raise RecipeError("the network gives no labels of chips, the loss has a weight for them")
            pieces.append(_label_sums(outputs, mask, self.loss.task))
        return torch.cat(pieces)

    def value(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, from the sums of all workers."""
        main, *auxiliary, labels = self._split(sums)
        total = self.loss.value(main)
        for weight, piece in zip(self.auxiliary_weights, auxiliary, strict=True):
            total = total + weight * self.loss.value(piece)
        return total if self.label_weight is None else total + self.label_weight * mean_of(labels)

    def parts(self, sums: Tensor) -> dict[str, float]:
        """As of `Loss`, those of the i-th auxiliary output as auxiliary_i.NAME, and `labels`."""
        main, *auxiliary, labels = self._split(sums.detach())
        found = self.loss.parts(main)
        for place, piece in enumerate(auxiliary, 1):
            found |= {f"auxiliary_{place}.{name}": value for name, value in self.loss.parts(piece).items()}
        return found if self.label_weight is None else found | {"labels": float(mean_of(labels))}

    def __call__(self, outputs: Outputs, mask: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
        """The loss of this batch alone, a scalar."""
        return self.value(self.sums(outputs, mask, pixel_weights))

    def _split(self, sums: Tensor) -> tuple[Tensor, ...]:
        labels = 0 if self.label_weight is None else 2
        return torch.split(sums, [self.loss.size] * (1 + len(self.auxiliary_weights)) + [labels])


def supervised(
    loss: Loss, auxiliary_weights: Sequence[float] = (), label_weight: float | None = None
) -> Loss | Supervised:
    """The loss of everything a network gives while it learns; `loss` itself where that is only its logits.

    Args:
        loss: of the main logits, and of each auxiliary one.
        auxiliary_weights: factor of each auxiliary output's loss.
        label_weight: factor of the binary cross-entropy of `Outputs.labels`; the truth is whether a class is among
            the valid pixels of the chip. Chips without a valid pixel are left out.
    """
    if not auxiliary_weights and label_weight is None:
        return loss
    return Supervised(loss, tuple(auxiliary_weights), label_weight)


def number(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each made unlike those before it: dice, dice_2."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(out)


def _label_sums(outputs: Outputs, mask: Tensor, task: Task) -> Tensor:
    """Sums [2] of the binary cross-entropy of the labels, and of what was counted."""
    assert outputs.labels is not None
    logits, ids, _ = check(outputs.logits, mask, None, task)
    if outputs.labels.shape != logits.shape[:2]:
        raise SceneError(f"the labels are {tuple(outputs.labels.shape)}, not {tuple(logits.shape[:2])}")
    if task == "multiclass":
        classes = torch.arange(logits.shape[1], device=mask.device)
        present = (ids.flatten(1)[:, None] == classes[:, None]).any(2)
        known = (ids != IGNORE).flatten(1).any(1, keepdim=True)
    else:
        present = (ids == 1).flatten(2).any(2)
        known = (ids != IGNORE).flatten(2).any(2)
    with torch.autocast(logits.device.type, enabled=False):
        x = outputs.labels.double() if logits.dtype == torch.float64 else outputs.labels.float()
        counted = known.to(x.dtype).expand_as(x)
        losses = F.binary_cross_entropy_with_logits(x, present.to(x.dtype), reduction="none")
        return torch.stack([torch.where(counted > 0, losses, 0).sum(), counted.sum()])
