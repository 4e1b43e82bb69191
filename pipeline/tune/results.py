"""Results of a search: its trials and the best of them, as records, JSON, CSV and text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.model.bundle import Bundle

WORST = 0.0
"""What a trial without a finite score counts as: all scores are shares."""

MANIFEST = "manifest.parquet"
"""In a search's directory, for its trials."""

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


def rank(trial: Trial) -> tuple[bool, float, int]:
    """Sorts the best trial first, and those without a bundle last."""
    score = trial.score if trial.score is not None else WORST - 1
    return trial.status != FINISHED, -score, trial.number


def words(overrides: dict[str, Any]) -> str:
    """Overrides as they are typed."""
    return " ".join(f"{p}={v if isinstance(v, str) else json.dumps(v)}" for p, v in overrides.items())


def table(trials: Sequence[Trial], metric: str) -> str:
    """The trials as text, best first."""
    rows = [["trial", "status", metric, "step", "seconds"]]
    last = ["overrides"]
    for trial in sorted(trials, key=rank):
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        rows.append([str(trial.number), trial.status, score, str(trial.step), f"{trial.seconds:.0f}"])
        reason = trial.reason.partition("\n")[0]
        last.append(f"{words(trial.overrides)}  ({reason})" if reason else words(trial.overrides))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[*map(str.ljust, row, widths), text] for row, text in zip(rows, last, strict=True)]
    return "\n".join("  ".join(line) for line in lines)


def to_csv(trials: Sequence[Trial], metric: str) -> str:
    """The trials as a table with a column for each path."""
    paths = list(dict.fromkeys(path for trial in trials for path in trial.overrides))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", metric, "step", "seconds", *paths, "run_id", "reason"])
    for trial in trials:
        values = [json.dumps(trial.overrides[path]) if path in trial.overrides else "" for path in paths]
        head = [trial.number, trial.status, trial.score, trial.step, round(trial.seconds, 1)]
        writer.writerow([*head, *values, trial.run_id, trial.reason])
    return text.getvalue()


@dataclass(frozen=True)
class Trial:
    """One run of a search."""

    number: int
    overrides: dict[str, Any]
    status: str
    """finished; stopped, by ASHA; failed, and `reason` says why."""
    score: float | None
    """`tune.metric` on the val split, at the last validation."""
    step: int
    """Of the last validation."""
    seconds: float
    reason: str
    run_id: str | None
    """MLflow run."""
    bundle: str | None
    """URI; only of a finished trial."""


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    uri: str
    metric: str
    best: Trial
    bundle: Bundle
    """Of the best trial."""
    version: str | None
    """The best one's version in the registry; None without MLflow."""
    trials: tuple[Trial, ...]
    """All of them, in the order they began."""

    @property
    def overrides(self) -> dict[str, Any]:
        """Overrides of the best trial."""
        return self.best.overrides

    @property
    def scores(self) -> dict[str, float]:
        """The best trial's scores on the val split."""
        return self.bundle.scores

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as in search.json."""
        return {
            "uri": self.uri,
            "metric": self.metric,
            "best": asdict(self.best),
            "scores": self.scores,
            "version": self.version,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def table(self) -> str:
        """The trials as text, best first, and where the best one's bundle is."""
        version = f", version {self.version}" if self.version else ""
        return f"{table(self.trials, self.metric)}\n\nbest: {self.bundle.uri}{version}\n      {words(self.overrides)}"
