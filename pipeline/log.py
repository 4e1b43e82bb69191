"""Logging for one process. Modules take `logging.getLogger(__name__)`; only an entry point calls `setup`."""

from __future__ import annotations

import logging
import os
import sys

_FORMAT = "%(asctime)s %(levelname).1s %(message)s"


def setup(*, rank: int = 0, verbose: bool = False) -> None:
    """Send the package's log to stderr: INFO on the leader, WARNING on other ranks.

    Only the logger `pipeline` is touched, never the root logger; calling it twice changes nothing.
    """
    logger = logging.getLogger("pipeline")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
    level = logging.DEBUG if verbose or os.environ.get("SEGPIPE_DEBUG") else logging.INFO
    logger.setLevel(level if rank == 0 else logging.WARNING)
