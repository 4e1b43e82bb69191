"""A pool of open datasets per thread, bounded in number."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from pipeline import store


class Closes(Protocol):
    """Anything that must be closed."""

    def close(self) -> None:
        """Release it."""


HandleT = TypeVar("HandleT", bound=Closes)


class DatasetPool(Generic[HandleT]):
    """Handles by URI, the ones of a thread for that thread only. A local file that was replaced is opened again.

    `limit` is the most that one thread keeps, and `total` the most that all threads together do, except that each may
    keep two: an image and its label.
    """

    def __init__(self, opener: Callable[[str], HandleT], limit: int, total: int = 128) -> None:
        self._opener, self._limit, self._total = opener, limit, total
        self._here = threading.local()
        self._threads: WeakSet[threading.Thread] = WeakSet()

    def get(self, uri: str) -> HandleT:
        """The handle of a file, opened if it is not."""
        kept = self._kept()
        version = store.stamp(uri) if store.is_local(uri) else ""
        known = kept.get(uri)
        if known is None or known[0] != version:
            self.forget(uri)
            most = self._most()
            while len(kept) >= most:  # first, so that there is never one too many
                kept.popitem(last=False)[1][1].close()
            kept[uri] = (version, self._opener(uri))
        kept.move_to_end(uri)
        return kept[uri][1]

    def forget(self, uri: str) -> None:
        """Close a file's handle, if there is one."""
        known = self._kept().pop(uri, None)
        if known is not None:
            known[1].close()

    def _kept(self) -> OrderedDict[str, tuple[str, HandleT]]:
        """The handles of this thread, most recently used last."""
        if getattr(self._here, "process", None) != os.getpid():
            # Handles do not survive a fork: parent and child would move one file position.
            self._here.process, self._here.open = os.getpid(), OrderedDict()
            self._threads.add(threading.current_thread())
        kept: OrderedDict[str, tuple[str, HandleT]] = self._here.open
        return kept

    def _most(self) -> int:
        alive = sum(thread.is_alive() for thread in list(self._threads))
        return max(2, min(self._limit, self._total // max(1, alive)))
