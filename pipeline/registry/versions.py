"""Model versions in MLflow: push bundles, fetch them by name, move aliases.

A version holds the bundle's two files, and what MLflow needs to load them as a pyfunc. `pull` reads only the two
files: neither code nor pickle from a registry is ever executed. MLflow's global state (active run, tracking URI of
the process) is left alone: every call names its server and its run.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from pipeline import store
from pipeline.errors import BundleError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import FILES, META, Bundle
from pipeline.model.weights_io import WEIGHTS
from pipeline.redaction import redacted
from pipeline.registry.server import accepted, asking, default_sqlite, or_none, sqlite_file
from pipeline.registry.server import check as check
from pipeline.registry.server import client as client
from pipeline.registry.server import experiment_id as experiment_id
from pipeline.registry.server import safe_name as safe_name
from pipeline.registry.server import tracking_uri as tracking_uri

logger = logging.getLogger(__name__)

SHA_TAG: Final = "weights_sha256"
META_TAG: Final = "bundle_sha256"
_BUNDLE_DIR: Final = "artifacts/bundle"  # where MLflow's pyfunc layout puts an artifact called bundle
_REQUIRED: Final = (
    *("segpipe", "mlflow", "torch", "timm", "numpy", "safetensors", "pydantic", "ruamel.yaml", "fsspec", "rich"),
)


# --- versions


def push(
    bundle: Bundle,
    *,
    uri: str,
    run_id: str | None,
    name: str,
    alias: str | None = "challenger",
    tags: Mapping[str, str],
) -> str:
    """Register a bundle as a new version of a model; the same bundle of the same run is registered once.

    Args:
        bundle: what to register.
        uri: MLflow server or SQLite.
        run_id: run that made the bundle; a run that this server does not know is left out.
        name: registered model; created if need be.
        alias: pointed at the version.
        tags: of the version, in addition to the data's digest, the recipe's fingerprint and the scores.

    Returns:
        The version.

    Raises:
        TrackingError: the server does not answer or refuses.
    """
    api = client(uri)
    with asking(uri):
        run = or_none(api.get_run, run_id) if run_id else None
        known = version_of(api, name, bundle, run_id=run.info.run_id if run else "")
        if known is None:
            everything = _tags(bundle) | dict(tags)
            model = _upload(api, bundle, run, name, everything)
            try:
                api.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # Not the model's own models:/ URI: MLflow would look that up at the server of the process.
            link = {"run_id": run.info.run_id} if run else {}
            if run or uri.startswith("http"):  # a server asks whose artifacts these are; SQLite takes no model alone
                link["model_id"] = model.model_id
            known = str(api.create_model_version(name, model.artifact_location, tags=everything, **link).version)
            logger.info("registered %s as version %s of %s", bundle.digest, known, name)
        if alias is not None:
            api.set_registered_model_alias(name, alias, known)
    return known


def fetch(uri: str, *, tracking: str | None = None) -> Bundle:
    """The bundle of runs:/ID[/PATH], models:/NAME/VERSION or models:/NAME@ALIAS; see `registry.open.open_bundle`."""
    tracking = accepted(tracking or os.environ.get("MLFLOW_TRACKING_URI") or default_sqlite(uri))
    check(tracking)
    api = client(tracking)
    with asking(tracking):
        places, tags = _run_places(api, uri) if uri.startswith("runs:/") else _version_places(api, uri)
        local = next((found for place in places if (found := _fetch(tracking, place))), None)
    if local is None:
        hint = "it was not made by segpipe, or its artifacts were removed"
        raise BundleError(f"{uri} at {redacted(tracking)} holds no bundle ({' and '.join(FILES)})", hint)
    bundle = bundles.load(local)
    digests = {SHA_TAG: bundle.weights_sha256, META_TAG: bundle.meta_sha256}
    for tag, digest in digests.items():
        if tags.get(tag, digest) != digest:
            file = WEIGHTS if tag == SHA_TAG else META
            raise BundleError(
                f"{uri}: the contents of {file} are not those that were registered: the sha256 is {str(digest)[:12]}"
                f"..., the registry says {tags[tag][:12]}...",
                "the artifact was replaced; register the bundle again",
            )
    return bundle


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias -> version of a registered model; empty if there is no such model."""
    with asking(client.tracking_uri):
        model = or_none(client.get_registered_model, name)
    return {alias: str(version) for alias, version in model.aliases.items()} if model else {}


def alias(client: MlflowClient, name: str, alias: str) -> str | None:
    """Version that an alias points at; None if there is no such alias or model."""
    return aliases(client, name).get(alias)


def version_of(client: MlflowClient, name: str, bundle: Bundle, *, run_id: str | None = None) -> str | None:
    """Newest version that is this bundle (and of this run, if it is given); None if there is none.

    The weights are equal, and so is all else that a bundle says. Versions from before that was registered are known
    by their weights alone.
    """
    with asking(client.tracking_uri):
        found = client.search_model_versions(f"name = '{name}' and tags.`{SHA_TAG}` = '{bundle.weights_sha256}'")
    meta = bundle.meta_sha256
    same = [one for one in found if meta is None or one.tags.get(META_TAG, meta) == meta]
    versions = [int(one.version) for one in same if run_id is None or (one.run_id or "") == run_id]
    return str(max(versions)) if versions else None


def set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Point an alias at a version."""
    with asking(client.tracking_uri):
        client.set_registered_model_alias(name, alias, version)


def set_tags(client: MlflowClient, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version."""
    with asking(client.tracking_uri):
        for key, value in tags.items():
            client.set_model_version_tag(name, version, safe_name(key), value)


# --- inside


def _tags(bundle: Bundle) -> dict[str, str]:
    scores = {f"score.{name}": f"{value:.6f}" for name, value in bundle.scores.items() if math.isfinite(value)}
    tags = {
        SHA_TAG: bundle.weights_sha256,
        **({META_TAG: bundle.meta_sha256} if bundle.meta_sha256 else {}),
        "manifest_digest": bundle.manifest_digest,
        "fingerprint": bundle.fingerprint,
        "step": str(bundle.step),
        "classes": ", ".join(bundle.classes.names),
        **scores,
    }
    return {safe_name(key): value for key, value in tags.items()}


def _upload(client: MlflowClient, bundle: Bundle, run: Any, name: str, tags: Mapping[str, str]) -> Any:
    """A logged model that holds the bundle, marked as an output of the run."""
    if run is None:
        experiment = experiment_id(client, name, str(sqlite_file(client.tracking_uri).parent))
    else:
        experiment = run.info.experiment_id
    run_id = run.info.run_id if run else None
    model = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=dict(tags))
    try:
        with tempfile.TemporaryDirectory(prefix="segpipe-") as temporary:
            directory = _pyfunc(bundle, Path(temporary))
            if model.artifact_location.startswith("s3://"):
                store.upload_dir(directory, model.artifact_location)  # MLflow's own way needs boto3
            else:
                client.log_model_artifacts(model.model_id, str(directory))
        if run is not None:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, bundle.step)])
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _pyfunc(bundle: Bundle, directory: Path) -> Path:
    """The bundle in MLflow's layout of a pyfunc: code that needs segpipe, two files, no pickle."""
    files = store.download_dir(bundle.uri, names=FILES)
    (directory / "bundle").mkdir()
    for file in FILES:
        shutil.copyfile(files / file, directory / "bundle" / file)
    # A copy, since MLflow records where the code lay.
    code = shutil.copyfile(Path(__file__).with_name("pyfunc.py"), directory / "segmenter.py")
    channels = bundle.num_bands
    output = (-1, -1, -1, len(bundle.classes)) if bundle.task == "multilabel" else (-1, -1, -1)
    mlflow.pyfunc.save_model(
        path=str(directory / "model"),
        python_model=str(code),
        artifacts={"bundle": str(directory / "bundle")},
        # Unnamed, so that predict gets the array itself.
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(bundle.dtype), (-1, -1, -1, channels))]),
            Schema([TensorSpec(np.dtype(np.uint8), output)]),
            ParamSchema(
                [
                    ParamSpec("nodata", "double", math.nan),
                    ParamSpec("window", "long", 0),
                    ParamSpec("overlap", "double", bundle.predict.overlap),
                ]
            ),
        ),
        input_example=np.zeros((1, 4, 4, channels), bundle.dtype),
        pip_requirements=_requirements(),  # MLflow's guess takes a minute and leaves out torch
        model_config={"device": "cpu"},
        metadata={"task": "semantic-segmentation", "classes": list(bundle.classes.names), "bands": list(bundle.bands)},
    )
    return directory / "model"


def _requirements() -> list[str]:
    found = []
    for name in _REQUIRED:
        try:
            found.append(f"{name}=={installed(name).partition('+')[0]}")
        except PackageNotFoundError:  # segpipe from a source tree
            continue
    return found


def _version_places(client: MlflowClient, uri: str) -> tuple[list[str], dict[str, str]]:
    """Possible places of the bundle of a models:/ URI, and the tags of its version, which hold its digests."""
    asked = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))?", uri)
    if asked is None:
        raise BundleError(f"{uri} is no model", "write models:/NAME/VERSION or models:/NAME@ALIAS")
    name, version, wanted = asked.groups()
    if or_none(client.get_registered_model, name) is None:
        names = ", ".join(model.name for model in client.search_registered_models(max_results=20)) or "none"
        place = redacted(client.tracking_uri)
        raise BundleError(f"there is no registered model {name} at {place}", f"there are: {names}")
    known = aliases(client, name)
    if wanted is not None:
        version = known.get(wanted)
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    match = next((one for one in found if str(one.version) == version), None)
    if match is None:
        what = f"has no alias {wanted}" if wanted else f"has no version {version}" if version else "needs a version"
        numbers = ", ".join(sorted((str(one.version) for one in found), key=int)) or "none"
        points = ", ".join(f"{alias} -> {version}" for alias, version in sorted(known.items())) or "none"
        raise BundleError(f"{uri}: {name} {what}", f"versions: {numbers}; aliases: {points}")
    root = client.get_model_version_download_uri(name, match.version)
    return [f"{root.rstrip('/')}/{_BUNDLE_DIR}"], dict(match.tags)


def _run_places(client: MlflowClient, uri: str) -> tuple[list[str], dict[str, str]]:
    """Possible places of the bundle of a runs:/ URI: in a model that the run logged, else among its artifacts."""
    run_id, _, path = uri.removeprefix("runs:/").strip("/").partition("/")
    run = or_none(client.get_run, run_id)
    if run is None:
        raise BundleError(f"there is no run {run_id} at {redacted(client.tracking_uri)}", "check the id and the server")
    root = run.info.artifact_uri.rstrip("/")
    if path:
        if ".." in path.split("/"):
            raise BundleError(f"{uri} leaves the run's directory", "write runs:/ID/PATH")
        return [f"{root}/{path}", f"{root}/{path}/{_BUNDLE_DIR}"], {}
    outputs = run.outputs.model_outputs if run.outputs else []
    logged = [client.get_logged_model(one.model_id) for one in sorted(outputs, key=lambda one: -one.step)]
    places = [f"{model.artifact_location.rstrip('/')}/{_BUNDLE_DIR}" for model in logged]
    return [*places, f"{root}/bundle"], {}


def _fetch(tracking: str, place: str) -> Path | None:
    """Copy the bundle's two files from an artifact location; None if they are not there."""
    if place.startswith("s3://"):
        try:
            return store.download_dir(place, names=FILES)
        except FileNotFoundError:
            return None
    listed = mlflow.artifacts.list_artifacts(artifact_uri=place, tracking_uri=tracking)
    if not set(FILES) <= {one.path.rpartition("/")[2] for one in listed}:
        return None
    target = Path(tempfile.mkdtemp(prefix="segpipe-"))
    store.remove_at_exit(target)
    for file in FILES:  # our own two names, never one that the server chose
        mlflow.artifacts.download_artifacts(f"{place}/{file}", dst_path=str(target), tracking_uri=tracking)
    return target
