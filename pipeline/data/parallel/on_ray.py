"""The map by Ray tasks, each of which does some neighbouring jobs; results are taken in order.

An error of ours travels as a result, so that the first one in the order of the jobs is raised, as it was, and as
locally. A task whose process or node dies is done again by another, a few times.
"""

from __future__ import annotations

import itertools
import logging
import signal
import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline import store
from pipeline.data.parallel import local
from pipeline.errors import ClusterError, PipelineError
from pipeline.recipe.storage import Storage

J = TypeVar("J")
R = TypeVar("R")

_TASKS_PER_CPU: Final = 8
_LEAST_TASKS: Final = 64
"""A cluster that is still growing shall have something to grow for."""
_MOST_TASKS: Final = 1024
_AHEAD: Final = 4
"""Tasks for each CPU that are submitted ahead of who takes the results."""
_THREADS: Final = 2
_CPUS_THREADED: Final = 4
_ATTEMPTS: Final = 4
"""Ray counts deaths for lack of memory apart, and would start such a task again for ever."""


@contextmanager
def connected(address: str | None, start: Callable[[], object] | None = None) -> Iterator[None]:
    """Be connected to the cluster at an address, or to one that `start` makes where there is none.

    A connection that is there already is used, and stays. Workers reach stores as this process does.

    Raises:
        ClusterError: the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    try:
        with _undisturbed():
            if address or start is None:
                # Workers on other nodes do not have this process's environment.
                env = {"env_vars": store.environment()}
                ray.init(address=address or "auto", logging_level=logging.WARNING, runtime_env=env)
            else:
                start()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no connection to Ray at {address or 'this machine'}: {error}", "check compute.address and RAY_ADDRESS"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def mapped(function: Callable[[J], R], jobs: Sequence[J], *, threaded: bool = False) -> Iterator[R]:
    """The map by the cluster that this process is connected to; see `pipeline.data.parallel.local.Map`.

    Function and storage settings go to the object store once. A job takes a CPU or less; one that starts threads of
    its own takes four, or all of a node that has fewer.

    Raises:
        PipelineError: what a job raised.
        ClusterError: a process died at the same job again and again, or there is no connection.
    """
    if not jobs:
        return
    if not ray.is_initialized():
        raise ClusterError("not connected to a Ray cluster", "call ray.init() first, or use compute.feed=local")
    cpus = _cpus(threaded)
    shared, threads = ray.put((function, store.current())), 1 if threaded else _THREADS
    task = ray.remote(num_cpus=cpus, max_retries=_ATTEMPTS)(_work)
    ahead = max(_LEAST_TASKS, round(_AHEAD * _there() / cpus))
    pending: deque[ray.ObjectRef] = deque()
    try:
        for part in parts_of(jobs, cpus):
            pending.append(task.remote(shared, part, threads))
            if len(pending) >= ahead:
                yield from _results(pending.popleft())
        while pending:
            yield from _results(pending.popleft())
    finally:
        for left in pending:
            ray.cancel(left)


def parts_of(jobs: Sequence[J], cpus: float) -> list[Sequence[J]]:
    """Neighbouring jobs that one task does: many tasks for each CPU, so that all end at about the same time."""
    count = min(len(jobs), _MOST_TASKS, max(_LEAST_TASKS, round(_TASKS_PER_CPU * _there() / cpus)))
    ends = [len(jobs) * i // count for i in range(count + 1)]
    return [jobs[first:end] for first, end in itertools.pairwise(ends)]


def _work(
    shared: tuple[Callable[[Any], Any], Storage], part: Sequence[Any], threads: int
) -> list[tuple[Any, PipelineError | None]]:
    """Do some jobs; returns result or error of each, up to the first error."""
    function, storage = shared
    if store.current() != storage:  # the connection was made before the recipe was known
        store.configure(storage)
    if _deaths() >= _ATTEMPTS:
        return [(None, _deadly(part))]
    results = local.mapped(partial(_tried, function), part, threaded=threads == 1, threads=threads)
    return list(_until_error(results))


def _deaths() -> int:
    """Number of processes that died at the current task."""
    try:
        return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())
    except AttributeError:
        return 0  # this is no part of what Ray promises: another version may not have it


def _tried(function: Callable[[Any], Any], job: Any) -> tuple[Any, PipelineError | None]:
    try:
        return function(job), None
    except PipelineError as error:
        return None, error


def _until_error(results: Iterable[tuple[Any, PipelineError | None]]) -> Iterator[tuple[Any, PipelineError | None]]:
    for result in results:
        yield result
        if result[1] is not None:
            return  # later results are not asked for


def _deadly(part: Sequence[Any]) -> ClusterError:
    first = textwrap.shorten(repr(part[0]), 300)
    return ClusterError(
        f"{_ATTEMPTS} processes of the cluster died at one of {len(part)} jobs, the first of which is {first}",
        "look at Ray's log for lack of memory; with compute.feed=local it is read in this process",
    )


def _results(done: ray.ObjectRef) -> Iterator[Any]:
    """The results of a task.

    Raises:
        PipelineError: what a job raised.
        ClusterError: the task was lost.
    """
    try:
        found = ray.get(done)
    except RayTaskError:
        raise  # a fault of this program, with its traceback
    except RayError as error:
        raise ClusterError(f"the cluster failed while it read: {error}", "look at Ray's log, and try again") from error
    for result, failure in found:
        if failure is not None:
            raise failure
        yield result


def _there() -> float:
    """CPUs of the cluster."""
    count: float = ray.cluster_resources().get("CPU", 0.0)
    return count


def _cpus(threaded: bool) -> float:
    """CPUs that a task takes; more than the largest node has would be waited for, for ever."""
    if not threaded:
        return 1
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    return min(_CPUS_THREADED, int(largest) or 1)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the root logger and the handler of SIGTERM, which Ray replaces in this process by its own."""
    root = logging.getLogger()
    handlers, level, term = list(root.handlers), root.level, signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if callable(term) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, term)
