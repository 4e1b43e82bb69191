"""The map by Ray Data: jobs become read tasks of a dataset, whose blocks are streamed back in order.

An error of ours travels as a result, so that the first one in the order of the jobs is raised, as it was, and as
locally. A task whose process or node dies is done again by another, a few times.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import signal
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ExecutionOptions
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import ReadTask
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
"""All tasks are made before the first one starts, which takes about a millisecond for each."""
_THREADS: Final = 2
_CPUS_THREADED: Final = 4
_ATTEMPTS: Final = 4
"""Ray Data would start a task again for ever, also one that kills its process each time."""
_RESULT: Final = "result"


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
                # Workers elsewhere do not have this process's environment.
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
    source = JobSource(function, jobs, cpus=cpus, threads=1 if threaded else _THREADS)
    results = ray.data.read_datasource(source, num_cpus=cpus, override_num_blocks=source.num_tasks)
    context = results.context
    context.execution_options = ExecutionOptions()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for packed in _packed(results):
        result, error = pickle.loads(packed)  # of our own tasks
        if error is not None:
            raise error
        yield result


class JobSource(Datasource):  # type: ignore[misc]  # Ray ships no types that we check
    """Read tasks that each do some neighbouring jobs; a row per job holds its result or its error, pickled."""

    def __init__(self, function: Callable[[Any], Any], jobs: Sequence[Any], *, cpus: float, threads: int) -> None:
        super().__init__()
        self._shared = ray.put((function, store.current()))
        self._threads = threads
        count = min(len(jobs), _MOST_TASKS, max(_LEAST_TASKS, round(_TASKS_PER_CPU * _there() / cpus)))
        ends = [len(jobs) * i // count for i in range(count + 1)]
        self._parts = [tuple(jobs[first:end]) for first, end in itertools.pairwise(ends)]

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self._parts)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task for each part."""
        return [self._task(part) for part in self._parts]

    def _task(self, part: tuple[Any, ...]) -> ReadTask:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        # Not a method: a task must not carry the whole datasource.
        work: Callable[[], Iterable[Block]] = partial(_work, self._shared, part, self._threads)
        return ReadTask(work, metadata)


@lru_cache(maxsize=4)
def _get(shared: ray.ObjectRef) -> tuple[Callable[[Any], Any], Storage]:
    """Function and storage settings, fetched once per process."""
    value: tuple[Callable[[Any], Any], Storage] = ray.get(shared)
    return value


def _work(shared: ray.ObjectRef, part: tuple[Any, ...], threads: int) -> Iterator[Block]:
    function, storage = _get(shared)
    if store.current() != storage:  # the connection was made before the recipe was known
        store.configure(storage)
    results: Iterable[tuple[Any, PipelineError | None]]
    if _deaths() < _ATTEMPTS:
        results = local.mapped(partial(_tried, function), part, threaded=threads == 1, threads=threads)
    else:
        results = [(None, _deadly(part))]
    packed = [pickle.dumps(result, pickle.HIGHEST_PROTOCOL) for result in _until_error(results)]
    yield pa.table({_RESULT: pa.array(packed, pa.large_binary())})


def _deaths() -> int:
    """How many processes have died at the task that this one is at."""
    try:
        return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())
    except AttributeError:
        return 0  # this is no part of what Ray promises: another version may not tell


def _tried(function: Callable[[Any], Any], job: Any) -> tuple[Any, PipelineError | None]:
    try:
        return function(job), None
    except PipelineError as error:
        return None, error


def _until_error(results: Iterable[tuple[Any, PipelineError | None]]) -> Iterator[tuple[Any, PipelineError | None]]:
    for result in results:
        yield result
        if result[1] is not None:
            return  # nobody asks for what would follow


def _deadly(part: tuple[Any, ...]) -> ClusterError:
    first = textwrap.shorten(repr(part[0]), 300)
    return ClusterError(
        f"{_ATTEMPTS} processes of the cluster died at one of {len(part)} jobs, the first of which is {first}",
        "look at Ray's log for lack of memory; with compute.feed=local it is read in this process",
    )


def _packed(results: ray.data.Dataset) -> Iterator[bytes]:
    try:
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from (cell.as_py() for cell in table[_RESULT])
    except RayTaskError:
        raise  # a fault of this program, with its traceback
    except RayError as error:
        raise ClusterError(f"the cluster failed while it read: {error}", "look at Ray's log, and try again") from error


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
