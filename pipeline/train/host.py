"""Receivers of what the loop reports: who runs it (`Host`), and who records its metrics (`Tracker`)."""

from __future__ import annotations

from typing import Final, Protocol

# Names in a run's directory that its workers need.
MANIFEST: Final = "manifest.parquet"
BUNDLE: Final = "bundle"


def run_name(fingerprint: str, manifest_digest: str) -> str:
    """Name of a run's directory: made of the recipe and the data that it computes from."""
    return f"{fingerprint}-{manifest_digest[:8]}"


class Host(Protocol):
    """The platform that runs the loop."""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Take the numbers of a validation or checkpoint. Every rank calls it, at the same steps."""


class Tracker(Protocol):
    """The record of numbers over steps. Only the leader has a real one."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Take numbers of a step; returns at once and never raises."""


class LocalHost:
    """Host under python or torchrun: reports are dropped."""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Nothing: the loop's own log has said it."""


class NoTracker:
    """Tracker of ranks other than the leader."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Forget the numbers."""
