"""clDice (Shit et al. 2021): how much of each centre line lies in the other, for roads, rivers and vessels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.model.losses.evidence import Evidence
from pipeline.model.losses.means import mean_over_classes

_ELEMENTS: Final = 1 << 17  # half a MiB of float32: several steps fit into a core's second cache
_ELEMENTS_ELSEWHERE: Final = 1 << 24


@dataclass(frozen=True)
class ClDiceTerm:
    """Sums per class: skeleton of the prediction in the truth and alone, of the truth in the prediction and alone,
    and the number of the class's and of all valid pixels."""

    classes: int
    iterations: int = 3
    smooth: float = 1.0
    skip_absent: bool = True
    class_weights: tuple[float, ...] | None = None
    regions: ClassVar[bool] = False
    spreads: ClassVar[tuple[tuple[float, ...], ...]] = ()

    @property
    def size(self) -> int:
        """Six sums per class."""
        return 6 * self.classes

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`. What is IGNORE counts as not of the class when the skeletons are made."""
        v, truth = evidence.channels_known, evidence.truth
        p = evidence.p * evidence.channels_valid
        with torch.no_grad():
            true_line = soft_skeleton(truth, self.iterations)
        line = soft_skeleton(p, self.iterations)
        parts = [line * truth * v, line * v, true_line * p * v, true_line * v, truth * v, v.expand_as(truth)]
        return torch.cat([part.sum((0, 2, 3)) for part in parts])

    def value(self, sums: Tensor) -> Tensor:
        """1 - mean over classes of 2 PS / (P + S), P and S the shares of the lines that lie in the other's region."""
        right, line, found, true_line, truth, pixels = sums.view(6, self.classes)
        precision, sensitivity = self._share(right, line), self._share(found, true_line)
        total = precision + sensitivity
        agreement = 2 * precision * sensitivity / torch.where(total > 0, total, 1.0)
        counted = truth > 0 if self.skip_absent else pixels > 0
        return mean_over_classes(1 - agreement, counted, self.class_weights)

    def _share(self, part: Tensor, whole: Tensor) -> Tensor:
        whole = whole + self.smooth
        return torch.where(whole > 0, (part + self.smooth) / torch.where(whole > 0, whole, 1.0), 1.0)


def soft_skeleton(image: Tensor, iterations: int) -> Tensor:
    """Soft skeleton of `image` [N,K,H,W] in 0..1: what openings with a growing cross remove, taken together."""
    if torch.compiler.is_compiling():
        return _skeleton(image, iterations)
    skeleton: Tensor = _InPieces.apply(image, iterations)
    return skeleton


class _InPieces(torch.autograd.Function):
    """`_skeleton` of a few planes at a time, made again on the way back: its dozens of steps stay in the processor's
    cache, and none of them in memory."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, iterations: int) -> Tensor:
        ctx.save_for_backward(image)
        ctx.iterations = iterations
        return torch.cat([_skeleton(piece, iterations) for piece in _pieces(image)]).view(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_skeleton: Tensor) -> tuple[Tensor, None]:
        (image,) = ctx.saved_tensors
        out: list[Tensor] = []
        for piece, gradient in zip(_pieces(image), _pieces(by_skeleton), strict=True):
            with torch.enable_grad():
                x = piece.detach().requires_grad_()
                skeleton = _skeleton(x, ctx.iterations)
            out += torch.autograd.grad(skeleton, x, gradient)
        return torch.cat(out).view(image.shape), None


def _pieces(maps: Tensor) -> tuple[Tensor, ...]:
    """[n,1,H,W] of the planes of `maps` [N,K,H,W]."""
    planes = maps.flatten(0, 1)[:, None]
    elements = _ELEMENTS if maps.device.type == "cpu" else _ELEMENTS_ELSEWHERE
    return torch.split(planes, max(1, elements // max(1, maps.shape[2] * maps.shape[3])))


def _skeleton(image: Tensor, iterations: int) -> Tensor:
    opened = _dilate(_erode(image))
    skeleton = F.relu(image - opened)
    for _ in range(iterations):
        image = _erode(image)
        removed = F.relu(image - _dilate(_erode(image)))
        skeleton = skeleton + F.relu(removed - skeleton * removed)
    return skeleton


def _erode(image: Tensor) -> Tensor:
    """Smallest of a pixel and its four neighbours."""
    return torch.minimum(_along(2, image, torch.minimum), _along(3, image, torch.minimum))


def _dilate(image: Tensor) -> Tensor:
    """Largest of a pixel and its eight neighbours."""
    return _along(3, _along(2, image, torch.maximum), torch.maximum)


def _along(axis: int, image: Tensor, better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The better of each pixel and its two neighbours along an axis. On a CPU many times as fast as pooling."""
    length = image.shape[axis]
    if length == 1:
        return image
    pairs = better(image.narrow(axis, 0, length - 1), image.narrow(axis, 1, length - 1))
    inner = better(pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, length - 2, 1)], axis)
