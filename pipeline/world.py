"""Rank, size and device of this process, read from the environment.

torchrun and Ray Train set the same variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); a plain
python process has none of them and is a world of one. No other module reads them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Rank and size of this process in one fit."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def detect(cls) -> World:
        """Read the world from the environment; alone if nothing is set."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            size=size,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
        )

    @property
    def leader(self) -> bool:
        """True in the one process that writes and reports."""
        return self.rank == 0
