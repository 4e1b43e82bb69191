"""Process many scenes in threads; results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pipeline.data.parallel.local import mapped

THREADS: Final = min(8, 2 * (os.cpu_count() or 1))

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Sequence[T], advance: Callable[[int, int], None]) -> list[R]:
    """The results in the order of the items; `advance(done, total)` is called after each."""
    out = []
    for done, result in enumerate(mapped(work, items, threads=THREADS), 1):
        out.append(result)
        advance(done, len(items))
    return out
