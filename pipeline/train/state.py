"""The state of training: weights, moving average, optimiser, loss scale; and one update of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline import recipe
from pipeline.errors import CheckpointError, RecipeError
from pipeline.model import norms
from pipeline.train import optim
from pipeline.world import World

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class State:
    """Weights, their moving average, optimiser and scale."""

    def __init__(
        self, network: nn.Module, section: recipe.Train, world: World, device: torch.device, *, compiles: bool = False
    ) -> None:
        """Moves the network to the device and changes it in place.

        Raises:
            RecipeError: fp16 without a GPU.
        """
        if section.precision == "fp16" and device.type != "cuda":
            raise RecipeError("train.precision: fp16 needs a GPU", "use bf16 or fp32")
        self.section, self.world, self.device = section, world, device
        self.layout = torch.channels_last if section.channels_last else torch.contiguous_format
        if world.size > 1:
            norms.synchronise(network)  # else the losses would depend on the number of workers
        self.network: nn.Module = network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.average: nn.Module | None = copy.deepcopy(network).requires_grad_(False) if section.ema else None
        self.optimizer = optim.build(network, section.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=section.precision == "fp16")
        if compiles:
            network.compile()
        self.forward: nn.Module = network
        if world.size > 1:
            self.forward = DistributedDataParallel(
                network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        precision = self.section.precision
        return torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")

    def update(self, value: Tensor, step: int) -> Tensor | None:
        """Backward, unscale, clip, update at the step's rate, follow; returns the gradient's norm if it is clipped."""
        section, norm = self.section, None
        # DDP averages over ranks; the gradient of the global batch is the sum.
        self.scaler.scale(value * self.world.size).backward()  # type: ignore[no-untyped-call]
        if section.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), section.clip_norm)
        optim.set_rate(self.optimizer, optim.factor(step, section.steps, section.schedule))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and section.ema is not None:
            # The first steps follow faster, so that the random start is forgotten.
            follow = get_ema_multi_avg_fn(min(section.ema, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
            follow(list(self.average.parameters()), list(self.network.parameters()), step)
        return norm

    def kept(self) -> nn.Module:
        """The network to score and to bundle: the average, if there is one."""
        if self.average is None:
            return self.network
        with torch.no_grad():
            for ours, theirs in zip(self.average.buffers(), self.network.buffers(), strict=True):
                ours.copy_(theirs)
        return self.average

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any], uri: str) -> None:
        """Take back what `to_dict` gave, at any world size.

        Raises:
            CheckpointError: it belongs to another network.
        """
        try:
            self.network.load_state_dict(state["network"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint {uri} belongs to another network: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
