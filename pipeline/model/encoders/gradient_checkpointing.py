"""Gradient checkpointing of any model: its blocks are recomputed in the backward pass instead of stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils import checkpoint

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The parts that stand in rows, such as residual blocks, and hold no such row themselves."""
    found: list[nn.Module] = []
    for child in module.children():
        inner = blocks(child)
        if len(inner) < 2 and isinstance(module, _CONTAINERS) and _is_block(child):
            inner = [child]
        found += inner
    return found


def install(model: nn.Module) -> None:
    """Let the blocks of `model` forget their activations while it trains (Chen et al. 2016); names stay the same."""
    for block in blocks(model) or [model]:
        block.forward = _Recomputed(block)


class _Recomputed:
    """The `forward` of one block. An attribute and not a wrapper, so that names and weights stay where they are."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.block).forward
        if not self.block.training:
            return forward(self.block, *args, **kwargs)
        args = tuple(list(a) if isinstance(a, list) else a for a in args)  # DenseNet's list grows on the way
        return checkpoint.checkpoint(
            forward, self.block, *args, use_reentrant=False, context_fn=self._contexts, **kwargs
        )

    def _contexts(self) -> tuple[Any, Any]:
        return contextlib.nullcontext(), _moments_kept(self.block)


@contextlib.contextmanager
def _moments_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm must not count the same batch twice."""
    counting = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in counting]
    for norm in counting:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(counting, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _is_block(module: nn.Module) -> bool:
    """It has layers of its own that learn."""
    learning = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return not isinstance(module, _CONTAINERS) and len(learning) > 1
