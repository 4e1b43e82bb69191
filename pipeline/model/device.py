"""Choose the device of a network."""

from __future__ import annotations

import torch

from pipeline.errors import RecipeError


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means for one process of this machine.

    Raises:
        RecipeError: cuda, and torch sees no GPU.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError("compute.device: cuda, but torch sees no GPU", "use compute.device=auto")
    return torch.device("cuda", local_rank % torch.cuda.device_count())
