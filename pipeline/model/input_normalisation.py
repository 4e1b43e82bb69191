"""Normalisation inside a network: raw pixels in, on the network's device; saved with the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.data.chips.statistics.normalise import Normalisation


class Normalise(nn.Module):
    """Normalisation beyond mean and standard deviation: buffers `shift` and `scale` [1,C,1,1] applied to `_bend`.

    Buffers are float32 and stay so under autocast and in networks of half precision.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, given: Normalisation) -> None:
        super().__init__()
        self.register_buffer("shift", column(given.shift))
        self.register_buffer("scale", column(given.scale))

    def forward(self, image: Tensor) -> Tensor:
        """Float pixels [N,C,H,W] -> normalised."""
        return (self._bend(image) - self.shift).div_(self.scale)

    def _bend(self, image: Tensor) -> Tensor:
        raise NotImplementedError


class Clip(Normalise):
    """Values below `low` and above `high` are set to these."""

    low: Tensor
    high: Tensor

    def __init__(self, given: Normalisation) -> None:
        super().__init__(given)
        self.register_buffer("low", column(given.low))
        self.register_buffer("high", column(given.high))

    def _bend(self, image: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(image, self.low), self.high)


class LogNormalise(Normalise):
    """log(max(x, 0) + epsilon)."""

    epsilon: Tensor

    def __init__(self, given: Normalisation) -> None:
        super().__init__(given)
        self.register_buffer("epsilon", column([given.epsilon]))

    def _bend(self, image: Tensor) -> Tensor:
        return (image.clamp(min=0) + self.epsilon).log()


KINDS: dict[str, type[Normalise]] = {"percentile": Clip, "log": LogNormalise}
"""The kinds that mean and standard deviation do not cover."""


def column(values: Sequence[float]) -> Tensor:
    """[1,C,1,1] float32."""
    return torch.tensor(list(values), dtype=torch.float64).view(1, -1, 1, 1).float()
