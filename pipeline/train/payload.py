"""Payloads: what workers of a run and trials of a search get from the process that starts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class MlflowRun:
    """A run at an MLflow server."""

    uri: str
    """URI of the server."""
    run_id: str


@dataclass(frozen=True)
class RunPayload:
    """Everything that a worker of a training needs; it can be pickled."""

    recipe: Recipe
    """With absolute paths and the tracking server resolved."""
    stated: dict[str, Any]
    """The recipe as it was given, without secrets, for checkpoints and the bundle."""
    fingerprint: str
    """Fingerprint of the recipe as it was given."""
    run_uri: str
    """Directory of the run, in which the manifest is."""
    statistics: Statistics
    """Statistics of the train split."""
    mlflow: MlflowRun | None
    """None: no server records the run."""
    threads: int | None
    """Threads of torch that the user asks for; None leaves the number to the worker."""

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run, if there is one."""
        return None if self.mlflow is None else self.mlflow.run_id


@dataclass(frozen=True)
class SearchPayload:
    """Everything that a trial of a search needs; it can be pickled."""

    recipe: Recipe
    """Recipe of the search, with the tracking server resolved."""
    uri: str
    """Directory of the search, in which the manifest is."""
    metric: str
    mlflow: MlflowRun | None
    """Run of the search, whose children the trials' runs are."""

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run, if there is one."""
        return None if self.mlflow is None else self.mlflow.run_id
