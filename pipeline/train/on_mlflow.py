"""The tracker: metrics over steps, as JSON lines always, and in MLflow if there is a server.

MLflow takes seconds to import and a server may be slow or away; the first step waits for neither. So mlflow is
imported by the functions that need it, of which the worker's run in a background thread. Whoever called `fit` opens
and closes the run; the leader of the workers only adds numbers to it.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import config, store
from pipeline.data.chips import quarantine
from pipeline.errors import DamagedError, StorageError, TrackingError
from pipeline.model.bundle import Bundle
from pipeline.recipe import Compute, Recipe
from pipeline.redaction import credentials, redacted, redacted_tree
from pipeline.train.payload import MlflowRun

METRICS = "metrics.jsonl"
UNSENT = "metrics-unsent.jsonl"
_LINK = "mlflow.json"
_MAX_VALUE = 500
_MAX_PARAMS = 100
_MAX_METRICS = 1000
_SEND_EVERY_S = 2.0
_RETRY_S = 5.0
_UPLOAD_EVERY_S = 15.0
_CLOSE_S = 20.0
_SHOWN_LINES = 10

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def login(compute: Compute) -> None:
    """Put user and password of the tracking server's URI where MLflow looks for them, also in processes started later.

    They are sent to whatever server this process asks.
    """
    _, user, password = credentials(compute.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "")
    if user:
        os.environ |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def reach(recipe: Recipe) -> str | None:
    """URI of the tracking server, which answers; None if it does not and need not.

    Raises:
        TrackingError: it does not answer, and `compute.tracking_required`.
    """
    platform = _platform()
    uri: str = platform.tracking_uri(recipe)
    try:
        platform.check(uri)
    except TrackingError as error:
        if recipe.compute.tracking_required:
            hint = f"{error.hint}, or set compute.tracking_required=false to train without it"
            raise TrackingError(error.message, hint) from error
        logger.warning("training without MLflow: %s", error.message)
        return None
    return uri


def start_run(recipe: Recipe, uri: str, *, run_uri: str, tags: Mapping[str, str], parent_run: str | None) -> str:
    """Open the MLflow run that belongs to a run directory, or go on with it; returns its id.

    Raises:
        TrackingError: the server refuses.
    """
    platform = _platform()
    client = platform.client(uri)
    with platform.asking(uri):
        run_id = _known_run(client, uri, run_uri)
        if run_id is None:
            experiment = platform.experiment_id(client, recipe.experiment, recipe.compute.output)
            parent = {"mlflow.parentRunId": parent_run} if parent_run else {}
            named = {"mlflow.runName": run_uri.rstrip("/").rpartition("/")[2], **parent}
            run_id = str(client.create_run(experiment, tags={**named, **tags}).info.run_id)
            _log_recipe(client, run_id, recipe)
    store.write_json(store.join(run_uri, _LINK), {"tracking_uri": redacted(uri), "run_id": run_id})
    return run_id


def finish_run(run: MlflowRun, status: str, *, run_uri: str) -> None:
    """Send what could not be sent before and what was left out, and close the run as FINISHED, FAILED or KILLED; only
    warns."""
    platform = _platform()
    spool = store.join(run_uri, UNSENT)
    try:
        client, run_id = platform.client(run.uri), run.run_id
        with platform.asking(run.uri):
            rows = read_rows(spool)
            if rows:
                _send(client, run_id, rows)
                store.remove(spool)
                logger.info("sent the %d records that MLflow had missed", len(rows))
            left_out = quarantine.read(run_uri)
            if left_out.rows:
                _put_json(client, run_id, quarantine.FILE, left_out.to_json())
            client.set_terminated(run_id, status)
    except (StorageError, DamagedError) as error:
        logger.warning("MLflow run %s is %s, but stays open: %s", run.run_id, status, error.message)


def read_rows(uri: str, last: int = 0) -> list[Row]:
    """Records of a file of JSON lines, or the `last` ones; none if there is no file."""
    try:
        lines = store.read_bytes(uri).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][-last:]
    rows = [_row(line) for _, line in numbered]
    # A kill can cut the last line short.
    damaged = [number for (number, _), row in zip(numbered, rows, strict=True) if row is None and number < len(lines)]
    if damaged and not last:  # who follows a run asks for the last ones again and again
        shown = ", ".join(map(str, damaged[:_SHOWN_LINES]))
        logger.warning("%s: %d damaged records left out (line %s)", uri, len(damaged), shown)
    return [row for row in rows if row is not None]


def _row(line: str) -> Row | None:
    """A record of numbers at a step and a time; None of a line that holds none."""
    try:
        row = json.loads(line)
        plain = isinstance(row["step"], int) and isinstance(row["time"], int)
        numbers = all(value is None or isinstance(value, int | float) for value in row.values())
    except store.NOT_AS_WRITTEN:
        return None
    return row if plain and numbers else None


def register(bundle: Bundle, name: str, run: MlflowRun) -> str:
    """Make the bundle a version of a registered model; returns the version.

    Raises:
        TrackingError: the server does not answer or refuses.
    """
    version: str = importlib.import_module("pipeline.registry.versions").push(
        bundle, uri=run.uri, run_id=run.run_id, name=name, tags={}
    )
    return version


def _platform() -> Any:
    # mlflow takes 4 to 6 seconds to import; a worker must not spend them before its first step.
    return importlib.import_module("pipeline.registry.server")


def _known_run(client: Any, uri: str, run_uri: str) -> str | None:
    """Id of the run that an earlier attempt opened on the same server, open again; None if there is none."""
    link = read_link(run_uri)
    if link is None or link[0] != redacted(uri):
        return None
    run_id = link[1]
    run = _platform().or_none(client.get_run, run_id)
    if run is None or run.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    return run_id


def read_link(run_uri: str) -> tuple[str, str] | None:
    """Tracking URI and MLflow run id that a run directory belongs to; None if it says none."""
    try:
        return store.read_record(store.join(run_uri, _LINK), lambda link: (link["tracking_uri"], str(link["run_id"])))
    except FileNotFoundError:
        return None
    except DamagedError as error:
        logger.warning("%s; it names no MLflow run", error.message)
        return None


def _log_recipe(client: Any, run_id: str, recipe: Recipe) -> None:
    tree = redacted_tree(recipe.model_dump(mode="json"))
    param = importlib.import_module("mlflow.entities").Param
    params = [param(path, str(value)[:_MAX_VALUE]) for path, value in config.leaves(tree)]
    for first in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run_id, params=params[first : first + _MAX_PARAMS])
    _put_json(client, run_id, "recipe.json", tree)


def _put_json(client: Any, run_id: str, name: str, tree: Any) -> None:
    _platform().put_artifact(client, run_id, name, json.dumps(tree, indent=2).encode())


def _send(client: Any, run_id: str, rows: Sequence[Row]) -> None:
    metric = importlib.import_module("mlflow.entities").Metric
    metrics = [
        metric(_platform().safe_name(name), value, row["time"], row["step"])
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time") and value is not None
    ]
    for first in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class MetricsTracker:
    """Takes numbers and returns at once. Nothing that goes wrong here reaches the training."""

    def __init__(self, run_uri: str, *, start_step: int = 0, run: MlflowRun | None = None) -> None:
        """Go on after `start_step`: later records are of an attempt that was killed, and come again.

        Without `run` there is no MLflow, only the lines.
        """
        self._run_uri, self._run = run_uri, run
        self._path = store.join(run_uri, METRICS)
        self._local = store.is_local(run_uri)
        kept = [row for row in read_rows(self._path) if row["step"] <= start_step]
        store.write_bytes(self._path, _lines(kept))
        self._rows = [] if self._local else kept  # an object in a bucket cannot grow: it is written again each time
        # Of what the server has already it keeps one: records are equal if name, step, time and value are.
        self._backlog = kept if run is not None else []
        self._queue: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._client: Any = None
        self._away = self._write_failed = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers of a step; one that is not finite becomes null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        row = {"step": step, "time": int(time.time() * 1000), **numbers}
        if self._local:
            self._write(lambda: store.append_line(self._path, json.dumps(row)))
        self._queue.put(row)

    def close(self) -> None:
        """Send what is left, for a limited time; the rest is kept in a file, and sent when the run is closed."""
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        """Body of the thread: every two seconds, more seldom while the server is away."""
        uploaded = time.monotonic()
        closing = False
        while not closing:
            closing = self._closing.wait(_RETRY_S if self._away else _SEND_EVERY_S)
            new = []
            while not self._queue.empty():
                new.append(self._queue.get())
            self._deliver(new)
            if not self._local:
                self._rows += new
            if self._rows and (closing or time.monotonic() - uploaded > _UPLOAD_EVERY_S):
                self._write(lambda: store.write_bytes(self._path, _lines(self._rows)))
                uploaded = time.monotonic()
        if self._backlog:
            self._write(lambda: store.write_bytes(store.join(self._run_uri, UNSENT), _lines(self._backlog)))

    def _deliver(self, new: list[Row]) -> None:
        """Send to MLflow what is new and what it missed before."""
        if self._run is None:
            return
        self._backlog += new
        if not self._backlog:
            return
        try:
            self._client = self._client or _platform().client(self._run.uri)
            _send(self._client, self._run.run_id, self._backlog)
        except Exception as error:  # whatever it is, training goes on: it is said once, and the records are kept
            if not self._away:
                logger.warning("MLflow does not answer; training goes on, its numbers are kept: %s", error)
            self._away = True
            return
        if self._away:
            logger.warning("MLflow answers again; sent the %d records that it had missed", len(self._backlog))
        self._away = False
        self._backlog = []

    def _write(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StorageError as error:
            if not self._write_failed:
                logger.warning("metrics cannot be written; training goes on: %s", error)
            self._write_failed = True
