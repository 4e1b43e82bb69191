"""Windows that cannot be read during a run: recorded, counted over all processes, and limited in number."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline import store
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Data, Quarantine

FILE: Final = "left_out.json"
"""In a run's directory, if it left anything out."""

_HINT: Final = "remove it to go on without the list of what training left out, or train again with --overwrite"
NONE: Final = -1
"""For a number, where there is no chip."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replaced:
    """A window that could not be read: in which scene, and why not."""

    number: int
    """Of the chip that was made of another window instead; NONE where no other took its place: it is not judged."""
    scene: str
    window: Window
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"window": list(self.window)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Replaced:
        """The opposite of `to_json`."""
        return cls(**{**tree, "window": Window(*tree["window"])})

    @property
    def row(self) -> tuple[str, str, str]:
        """Scene, place in it and reason, for people."""
        return self.scene, place(self.window), self.reason

    @property
    def text(self) -> str:
        """One line of text."""
        return _line(self.row)


@dataclass(frozen=True)
class LeftOut:
    """Data that a run left out: scenes, by id, that `index` could not read, and windows."""

    scenes: tuple[tuple[str, str], ...] = ()
    windows: tuple[Replaced, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"scenes": dict(self.scenes), "windows": [one.to_json() for one in self.windows]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> LeftOut:
        """The opposite of `to_json`."""
        return cls(tuple(tree["scenes"].items()), tuple(map(Replaced.from_json, tree["windows"])))

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Scene, place in it and reason of each; empty if nothing was left out."""
        return [*((scene, "all of it", reason) for scene, reason in self.scenes), *(one.row for one in self.windows)]

    @property
    def lines(self) -> list[str]:
        """Lines of text, one for each row."""
        return [_line(row) for row in self.rows]


def limit(data: Data) -> int:
    """Number of windows that may fail by the recipe; 0: none."""
    return data.on_error.max if isinstance(data.on_error, Quarantine) else 0


class FailureTally:
    """The windows of a run that could not be read, each counted once, in the same order however many processes read.

    A process notes what it meets. From time to time all that any has noted is added up everywhere: `add` what each one
    `took`.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        """More than so many are an error."""
        self._seen: dict[tuple[str, Window], Replaced] = {}
        self._noted: list[Replaced] = []

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def windows(self) -> tuple[Replaced, ...]:
        """Those that were added."""
        return tuple(self._seen.values())

    def note(self, replaced: Iterable[Replaced]) -> None:
        """Remember what this process has met; not yet counted."""
        self._noted += replaced

    def take(self) -> list[Replaced]:
        """Return what was noted since the last call."""
        taken, self._noted = self._noted, []
        return taken

    def add(self, replaced: Iterable[Replaced], *, say: bool = True) -> None:
        """Count them, and say each in the log, if that is this process's part.

        Raises:
            SceneError: there are more than allowed.
        """
        for one in sorted(replaced, key=_order):
            if (one.scene, one.window) not in self._seen:
                self._seen[one.scene, one.window] = one
                if say:
                    logger.warning("left out: %s", one.text)
        if len(self._seen) > self.most:
            raise SceneError(
                f"{len(self._seen)} windows could not be read, more than data.on_error allows ({self.most}):\n  "
                + "\n  ".join(one.text for one in self._seen.values()),
                "mend the files, or leave them out, and run `segpipe index` again",
            )

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, for a checkpoint."""
        return [one.to_json() for one in self._seen.values()]

    def load(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take back what `to_list` gave; it has been said already."""
        found = map(Replaced.from_json, rows)
        self._seen = {(one.scene, one.window): one for one in found}


def write(run_uri: str, found: LeftOut) -> None:
    """Keep it with the run, if anything was left out."""
    if found.rows:
        store.write_json(store.join(run_uri, FILE), found.to_json())


def read(run_uri: str) -> LeftOut:
    """Read what `write` stored; empty if there is no such file.

    Raises:
        DamagedError: the file is damaged.
    """
    try:
        return store.read_record(store.join(run_uri, FILE), LeftOut.from_json, _HINT)
    except FileNotFoundError:
        return LeftOut()


def place(window: Window) -> str:
    """A window for a message."""
    level = f", slice {window.slice}" if window.slice else ""
    return f"row {window.row}, column {window.col}{level}"


def _line(row: tuple[str, str, str]) -> str:
    return "scene {}, {}: {}".format(*row)


def _order(one: Replaced) -> tuple[bool, int, str, Window]:
    """Chips in their order, and then what belongs to none."""
    return one.number == NONE, one.number, one.scene, one.window
