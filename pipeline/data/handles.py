"""A few open files per thread, kept for the next window."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pipeline import store


class Closes(Protocol):
    """Anything that must be closed."""

    def close(self) -> None:
        """Release it."""


HandleT = TypeVar("HandleT", bound=Closes)


class Handles(threading.local, Generic[HandleT]):
    """The handles of one thread by URI, most recently used last. A local file that was replaced is opened anew."""

    def __init__(self, opener: Callable[[str], HandleT], limit: int) -> None:
        self._opener, self._limit = opener, limit
        self._process = os.getpid()
        self._open: OrderedDict[str, tuple[str, HandleT]] = OrderedDict()

    def get(self, uri: str) -> HandleT:
        """The handle of a file, opened if it is not."""
        if self._process != os.getpid():
            # Handles do not survive a fork: parent and child would move one file position.
            self._process, self._open = os.getpid(), OrderedDict()
        version = store.stamp(uri) if store.is_local(uri) else ""
        known = self._open.get(uri)
        if known is None or known[0] != version:
            self.forget(uri)
            self._open[uri] = (version, self._opener(uri))
            while len(self._open) > self._limit:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(uri)
        return self._open[uri][1]

    def forget(self, uri: str) -> None:
        """Close a file's handle, if there is one."""
        known = self._open.pop(uri, None)
        if known is not None:
            known[1].close()
