"""A cache of one process for contents of label files, bounded in size; the least recently used is dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

ThingT = TypeVar("ThingT")

_LOCKS: Final = 16


class Memory(Generic[ThingT]):
    """Things by key, made when they are first asked for, in all threads together.

    `weigh` says how much of `limit` a thing takes. The one that was asked for last always stays.
    """

    def __init__(self, limit: int, weigh: Callable[[ThingT], int]) -> None:
        self._limit, self._weigh = limit, weigh
        self._things: OrderedDict[Hashable, tuple[ThingT, int]] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()
        # Two threads that want the same file read it once; others are not held up.
        self._making = [threading.Lock() for _ in range(_LOCKS)]

    def get(self, key: Hashable, make: Callable[[], ThingT]) -> ThingT:
        """The thing of this key, made if it is not there."""
        found = self._find(key)
        if found is None:
            with self._making[hash(key) % _LOCKS]:
                found = self._find(key)
                if found is None:
                    found = (make(),)
                    self._keep(key, found[0])
        return found[0]

    def _find(self, key: Hashable) -> tuple[ThingT] | None:
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return (self._things[key][0],)

    def _keep(self, key: Hashable, thing: ThingT) -> None:
        weight = self._weigh(thing)
        with self._lock:
            self._things[key] = (thing, weight)
            self._total += weight
            while self._total > self._limit and len(self._things) > 1:
                self._total -= self._things.popitem(last=False)[1][1]
