"""The coordinator of a search: after each validation a trial asks it whether to continue. It imports no Ray."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any


class TrialCoordinator:
    """Scores go one way and answers the other, for each trial by its name. Its methods may wait for each other."""

    def __init__(self) -> None:
        self._scores: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self._answers: dict[str, asyncio.Queue[bool]] = defaultdict(asyncio.Queue)
        self._ended: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def open(self, trial: str) -> None:
        """A trial begins, or begins again."""
        for place in (self._scores, self._answers, self._ended):
            place.pop(trial, None)

    async def ask(self, trial: str, row: dict[str, Any]) -> bool:
        """Hand in a score; returns whether to go on."""
        await self._scores[trial].put(row)
        return await self._answers[trial].get()

    async def score(self, trial: str) -> dict[str, Any] | None:
        """The next score that was handed in; None when the trial has ended."""
        row: dict[str, Any] | None = await self._scores[trial].get()
        return row

    async def answer(self, trial: str, go_on: bool) -> None:
        """Let the one who asked go on, or not."""
        await self._answers[trial].put(go_on)

    async def end(self, trial: str) -> None:
        """The trial holds nothing any more."""
        await self._scores[trial].put(None)
        self._ended[trial].set()

    async def stop(self, trial: str) -> None:
        """Stop a trial; returns when it has ended."""
        await self._answers[trial].put(False)
        await self._ended[trial].wait()
