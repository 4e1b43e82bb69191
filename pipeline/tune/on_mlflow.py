"""MLflow side of a search: close the runs that trials left open, register the best trial's bundle."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from mlflow.exceptions import MlflowException

from pipeline.errors import StorageError
from pipeline.model.bundle import Bundle
from pipeline.registry import versions
from pipeline.train.payload import MlflowRun
from pipeline.tune.results import Trial

_MOST_RUNS = 10_000

logger = logging.getLogger(__name__)


def close_trials(parent: MlflowRun, stopped: Iterable[str | None]) -> None:
    """End as KILLED the runs that ASHA stopped, and those that are still RUNNING, being cut off; only warns."""
    try:
        client = versions.client(parent.uri)
        experiment = client.get_run(parent.run_id).info.experiment_id
        nested = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.status = 'RUNNING'"
        running = [r.info.run_id for r in client.search_runs([experiment], nested, max_results=_MOST_RUNS)]
        for run_id in {*running, *(run_id for run_id in stopped if run_id is not None)}:
            client.set_terminated(run_id, "KILLED")
    except (StorageError, MlflowException) as error:
        logger.warning("runs of stopped trials stay open in MLflow: %s", error)


def register(bundle: Bundle, best: Trial, parent: MlflowRun, *, name: str, search_uri: str) -> str | None:
    """Make the best trial's bundle the challenger, its overrides as tags; None, with a warning, if that fails."""
    tags = {f"override.{path}": json.dumps(value) for path, value in best.overrides.items()}
    try:
        run_id, tags = best.run_id or parent.run_id, {**tags, "search": search_uri}
        return versions.push(bundle, uri=parent.uri, run_id=run_id, name=name, tags=tags)
    except StorageError as error:
        logger.warning("the best trial is not registered: %s; `segpipe promote` does it later", error.message)
        return None
