"""Logging for one process, and progress.

Modules take `logging.getLogger(__name__)`; only an entry point calls `setup`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.redaction import redacted

_FORMAT = "%(asctime)s %(levelname).1s %(message)s"
_PLAIN_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)

Advance = Callable[..., None]
"""Called as advance(done, total, note="")."""


def setup(*, rank: int = 0, verbose: bool = False) -> None:
    """Send the package's log to stderr: INFO on the leader, WARNING on other ranks.

    Only the logger `pipeline` is touched, never the root logger; calling it twice changes nothing.
    """
    package = logging.getLogger("pipeline")
    if not package.handlers:
        handler = _Stderr()
        handler.setFormatter(_Redacting(_FORMAT, datefmt="%H:%M:%S"))
        package.addHandler(handler)
        package.propagate = False
    level = logging.DEBUG if verbose or os.environ.get("SEGPIPE_DEBUG") else logging.INFO
    package.setLevel(level if rank == 0 else logging.WARNING)
    os.environ.setdefault(
        "MLFLOW_LOGGING_LEVEL", "WARNING"
    )  # read when mlflow is loaded, which logs the creation of its tables


class _Redacting(logging.Formatter):
    """Lines, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as text."""
        return redacted(super().format(record))


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is now, not to what it was: others replace it, Ray and notebooks among them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar on a terminal, a plain line every ten seconds in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield advance


def _plain(title: str) -> Advance:
    last = time.monotonic()

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= _PLAIN_INTERVAL_S:
            last = time.monotonic()
            logger.info("%s %d/%d %s", title, done, total, note)

    return advance
