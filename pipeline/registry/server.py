"""The MLflow server: its URI, clients with few and short retries, errors that name it, no global state."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline import store
from pipeline.errors import RecipeError, TrackingError
from pipeline.recipe import Compute, Recipe
from pipeline.redaction import credentials, redacted

SQLITE: Final = "sqlite:///"
_ENVIRONMENT: Final = {
    # By default MLflow tries for four minutes where a server is away, and for twenty where one hangs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output belongs to the record that --json prints.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
_CHECK_SECONDS: Final = 4
_DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")
_NAMES: Final = "it looks like https://mlflow.example.org or sqlite:////data/mlflow.db; without one SQLite is used"
_ASK_HINT: Final = "start the server, or correct compute.tracking_uri (or MLFLOW_TRACKING_URI)"


def tracking_uri(recipe: Recipe) -> str:
    """The recipe's MLflow server, else MLFLOW_TRACKING_URI, else an SQLite file in the output directory.

    Raises:
        RecipeError: none is named, and the output is no local directory in which SQLite could be.
    """
    named = recipe.compute.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return accepted(named)
    if not store.is_local(recipe.compute.output):
        raise RecipeError(
            f"compute.output is {recipe.compute.output}, and no MLflow server is named",
            "set compute.tracking_uri or MLFLOW_TRACKING_URI; a bucket cannot hold the SQLite default",
        )
    return _sqlite_in(recipe.compute.output)


def accepted(uri: str) -> str:
    """A server's URI as it is used from here on: user and password go where MLflow looks for them.

    MLflow itself would look for a host called `user:password@host`.

    Raises:
        RecipeError: it names nothing that can hold runs and models.
    """
    uri, user, password = credentials(uri)
    if user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme in ("http", "https"):
        if not urlsplit(uri).hostname:
            raise RecipeError(f"{redacted(uri)!r} is no address of an MLflow server", _NAMES)
    elif scheme.partition("+")[0] not in _DATABASES:
        kind = (
            "MLflow does not keep a registry in a folder any more"
            if scheme in ("", "file")
            else f"MLflow has no {scheme}://"
        )
        raise RecipeError(f"compute.tracking_uri (or MLFLOW_TRACKING_URI) {redacted(uri)!r}: {kind}", _NAMES)
    return uri


def check(uri: str) -> None:
    """Ask the server for a sign of life.

    Raises:
        TrackingError: none within a few seconds, or it refuses us; names the URI and says what to do.
    """
    if uri.startswith("http"):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_CHECK_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()  # something answers; whether it is MLflow, and for us, is asked next
        except (OSError, ValueError) as error:
            reason = redacted(str(getattr(error, "reason", error)))
            raise TrackingError(f"the MLflow server {redacted(uri)} does not answer: {reason}", _ASK_HINT) from error
    with asking(uri):
        client(uri).search_experiments(max_results=1)


def client(uri: str) -> MlflowClient:
    """A client of this server, whatever the process's own tracking URI is; retries are few and short.

    Raises:
        TrackingError: the URI cannot be used.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with asking(uri), _first(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, name: str, output: str) -> str:
    """Id of an experiment, created if need be; safe if several processes do so at once.

    Artifacts go where the server puts them; without a server they go to `<output>/mlartifacts`.
    """
    with asking(client.tracking_uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=_artifact_root(client, output)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        hint = f"`mlflow experiments restore -x {found.experiment_id}`, or choose another registry.experiment"
        raise RecipeError(f"the MLflow experiment {name!r} has been deleted", hint)
    return str(found.experiment_id)


def safe_name(name: str) -> str:
    """A name that MLflow takes for a metric or tag: letters, digits and `_-./ `; anything else becomes `_`."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Whatever goes wrong with MLflow inside the block is a TrackingError that names the server."""
    try:
        yield
    except ImportError as error:  # of a database, or of a store of artifacts that is not S3
        hint = "install it; of artifacts, the server can also serve them (`mlflow server --artifacts-destination`)"
        raise TrackingError(f"MLflow at {redacted(uri)} needs a library that is not here: {error}", hint) from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        what = redacted(" ".join(str(error).split()))[:500]
        raise TrackingError(f"MLflow at {redacted(uri)}: {what}", _ASK_HINT) from error


def put_artifact(client: MlflowClient, run_id: str, name: str, content: bytes) -> None:
    """Write one file of a run.

    Args:
        client: of the run's server.
        run_id: of the run.
        name: path below the run's artifacts.
        content: of the file.

    Raises:
        StorageError: the bucket cannot be written.
        MlflowException, OSError, ImportError: as MLflow raises them; `asking` names the server.
    """
    place = str(client.get_run(run_id).info.artifact_uri)
    if place.startswith("s3://"):
        store.write_bytes(store.join(place, name), content)  # MLflow's own way needs boto3
        return
    folder, _, own = name.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="segpipe-") as temporary:
        file = Path(temporary, own)
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), folder or None)


def or_none(ask: Any, key: str) -> Any:
    """The answer to a question about an id or name; None if there is no such thing."""
    try:
        return ask(key)
    except MlflowException as error:
        # A malformed id is one that does not exist.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _sqlite_in(directory: str) -> str:
    # Quoted, since the path of a database's URI is unquoted, and ends at ? or #.
    return SQLITE + quote(str(Path(directory.removeprefix("file://")).absolute() / "mlflow.db"))


def sqlite_file(uri: str) -> Path:
    """The file of an SQLite URI."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


@contextmanager
def _first(uri: str) -> Iterator[None]:
    """One process at a time where SQLite's tables may have to be made: MLflow's migrations do not wait for each
    other."""
    if not uri.startswith(SQLITE):
        yield
        return
    file = sqlite_file(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(file.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    raw = Path(uri.removeprefix(SQLITE).partition("?")[0]).parent
    if raw != file.parent:
        with suppress(OSError):
            raw.rmdir()  # MLflow makes a folder of the quoted name as well


def default_sqlite(uri: str) -> str:
    """The SQLite file of the default output directory, used for a URI that names no server.

    Raises:
        TrackingError: there is none.
    """
    default = _sqlite_in(str(Compute.model_fields["output"].default))
    if not sqlite_file(default).exists():
        raise TrackingError(f"{uri}: no MLflow server is named", "set MLFLOW_TRACKING_URI, or give the tracking URI")
    return default


def _artifact_root(client: MlflowClient, output: str) -> str | None:
    """None lets the server decide; without one MLflow's default would be a folder of the current directory."""
    if not str(client.tracking_uri).startswith(SQLITE):
        return None
    local = Path(output.removeprefix("file://")).absolute()
    return (local / "mlartifacts").as_uri() if store.is_local(output) else store.join(output, "mlartifacts")
