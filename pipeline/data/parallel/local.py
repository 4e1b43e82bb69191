"""The map by threads of this process, and what every map must do."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

J = TypeVar("J")
R = TypeVar("R")

THREADS: Final = min(16, 2 * (os.cpu_count() or 1))
"""Two for each CPU: while one waits for a disk or a bucket, the other computes."""

_AHEAD: Final = 4


class Map(Protocol):
    """`mapped(function, jobs)` gives the results in the order of the jobs, whichever process does them.

    The first job that fails, in that order, ends it with its error, whichever failed first in time. Function, jobs and
    results must survive pickling. `threaded` says that the function starts threads of its own, as many as it can use.
    """

    def __call__(self, function: Callable[[J], R], jobs: Sequence[J], *, threaded: bool = False) -> Iterator[R]:
        """The results, as they come."""


def mapped(
    function: Callable[[J], R], jobs: Sequence[J], *, threaded: bool = False, threads: int = THREADS
) -> Iterator[R]:
    """The map by threads, at most a few jobs per thread ahead of who takes the results; see `Map`."""
    if threaded:
        yield from map(function, jobs)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mapped")
    pending: deque[Future[R]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= _AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
