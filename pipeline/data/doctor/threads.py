"""Many scenes at once, results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

THREADS: Final = min(8, 2 * (os.cpu_count() or 1))

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Sequence[T], advance: Callable[[int, int], None]) -> list[R]:
    """The results in the order of the items; `advance(done, total)` is called after each."""
    out = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, result in enumerate(pool.map(work, items), 1):
            out.append(result)
            advance(done, len(items))
    return out
