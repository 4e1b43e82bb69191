"""Windows that cannot be read while training goes on: replaced by others, named, counted, and limited in number."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.data.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Data, Quarantine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replaced:
    """A window that could not be read: which chip it was for, in which scene, and why not."""

    number: int
    scene: str
    window: Window
    reason: str


def limit(data: Data) -> int:
    """How many windows a recipe lets fail; 0: none."""
    return data.on_error.max if isinstance(data.on_error, Quarantine) else 0


class Tally:
    """The windows that one process has met and could not read, each counted once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[tuple[str, Window], Replaced] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, replaced: Iterable[Replaced]) -> None:
        """Count them, and say each in the log.

        Raises:
            SceneError: there are more than allowed.
        """
        for one in replaced:
            if (one.scene, one.window) not in self._seen:
                self._seen[one.scene, one.window] = one
                logger.warning("scene %s, %s is left out: %s", one.scene, place(one.window), one.reason)
        if len(self._seen) > self._most:
            raise SceneError(
                f"{len(self._seen)} windows could not be read, more than data.on_error allows ({self._most}):\n  "
                + "\n  ".join(f"scene {r.scene}, {place(r.window)}: {r.reason}" for r in self._seen.values()),
                "mend the files, or leave them out, and run `segpipe index` again",
            )

    def summary(self) -> list[dict[str, object]]:
        """What a report says of them, as plain JSON."""
        return [
            {"scene": r.scene, "window": list(r.window), "chip": r.number, "reason": r.reason}
            for r in self._seen.values()
        ]


def place(window: Window) -> str:
    """A window for a message."""
    level = f", slice {window.slice}" if window.slice else ""
    return f"row {window.row}, column {window.col}{level}"
