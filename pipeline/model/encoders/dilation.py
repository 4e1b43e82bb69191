"""Replace strides of convolutions and pools by dilation, and pad those that crop the edges of the image."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Change:
    """New settings of one convolution or pool."""

    stride: Pair
    dilation: Pair
    padding: Pair


def held(model: nn.Module, image: Tensor, stride: int, keep: frozenset[str]) -> dict[str, Change]:
    """Changes by layer name so that no map is coarser than `stride`: the rule of timm and torchvision.

    A layer that would make the map coarser no longer strides, and every later kernel is dilated by what was left out
    (Yu & Koltun 2016). With zero padding the map's pixels at the old places keep their values.

    Args:
        model: on the meta device; it is run once.
        image: [N,C,H,W], a whole number of pixels of the deepest stage.
        stride: the coarsest wanted.
        keep: names of weights whose layers stay as they are.
    """
    coarse = _input_strides(model, image)
    changes = {}
    for name, module in model.named_modules():
        before = coarse.get(name, 1)
        if (
            not isinstance(module, (nn.Conv2d, *_POOLS))
            or f"{name}.weight" in keep
            or before * max(_pair(module.stride)) <= stride
        ):
            continue
        kernel, own = _pair(module.kernel_size), _pair(module.stride)
        if max(kernel) == max(own) == 1:
            continue
        dilation = max(1, before // stride)
        old = _pair(getattr(module, "dilation", 1))
        pad = (0, 0) if isinstance(module.padding, str) else _pair(module.padding)
        changes[name] = Change(
            stride=_both(own, lambda s: min(s, max(1, stride // before))),  # noqa: B023 - called here
            dilation=_both(old, lambda d: d * dilation),  # noqa: B023 - called here
            padding=_both(pad, lambda p: p * dilation),  # noqa: B023 - called here
        )
    return changes


def padded(model: nn.Module) -> dict[str, Change]:
    """Changes to a model that pads nothing, so that each layer gives as many pixels as it has strides."""
    changes = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, *_POOLS)) and not isinstance(module.padding, str):
            kernel, dilation = _pair(module.kernel_size), _pair(getattr(module, "dilation", 1))
            if _pair(module.padding) == (0, 0) and max(kernel) > 1 and all(k % 2 for k in kernel):
                pad = (kernel[0] // 2 * dilation[0], kernel[1] // 2 * dilation[1])
                changes[name] = Change(_pair(module.stride), dilation, pad)
    return changes


def apply(model: nn.Module, changes: Mapping[str, Change]) -> None:
    """Set the layers of these names; names and weights of the model stay as they are."""
    for name, change in changes.items():
        module: Any = model.get_submodule(name)
        averages = isinstance(module, nn.AvgPool2d) and max(change.dilation) > 1
        if averages or (isinstance(module, _POOLS) and max(change.stride) < max(_pair(module.stride))):
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, _HeldPool(module, change))
            continue
        module.stride, module.dilation = change.stride, change.dilation
        if not isinstance(module.padding, str):
            module.padding = change.padding
            if isinstance(module, nn.Conv2d):
                module._reversed_padding_repeated_twice = [p for p in reversed(change.padding) for _ in range(2)]


class _HeldPool(nn.Module):
    """A pool that gives as many pixels as it gets."""

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, change: Change) -> None:
        super().__init__()
        self.average = isinstance(pool, nn.AvgPool2d)
        self.kernel, self.dilation = _pair(pool.kernel_size), change.dilation
        self.pad: list[int] = []
        for kernel, dilation, left in zip(self.kernel, self.dilation, change.padding, strict=True):
            self.pad = [left, dilation * (kernel - 1) - left, *self.pad]

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        if not self.average:
            return F.max_pool2d(F.pad(x, self.pad, value=-torch.inf), self.kernel, 1, 0, self.dilation)
        x = F.pad(x, self.pad, mode="replicate")
        channels = x.shape[1]
        weight = x.new_full((channels, 1, *self.kernel), 1 / math.prod(self.kernel))
        return F.conv2d(x, weight, dilation=self.dilation, groups=channels)


def _input_strides(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Pixels of the image per pixel of the input of each convolution and pool."""
    seen: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[name] = 1 << max(0, round(math.log2(image.shape[-2] / args[0].shape[-2])))

    handles = [
        module.register_forward_pre_hook(functools.partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, *_POOLS))
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _pair(value: Any) -> Pair:
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)


def _both(pair: Pair, change: Any) -> Pair:
    return change(pair[0]), change(pair[1])
