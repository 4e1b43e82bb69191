"""MLflow as the registry: what is pushed is what others pull and load, on SQLite and on a real server."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import rasterio
import torch
from mlflow import MlflowClient

from pipeline import store
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import BundleError, RecipeError, TrackingError
from pipeline.model.bundle import META, WEIGHTS, Bundle
from pipeline.prediction.predict import predict
from pipeline.recipe import Recipe
from pipeline.registry import versions
from pipeline.registry.open_uri import pull
from pipeline.registry.pyfunc import Segmenter
from tests.factory import TRANSFORM, UTM, write_raster
from tests.model import small
from tests.prediction.test_predict import write_scene
from tests.servers import S3

RECIPE = {
    "name": "small",
    "data": {"root": "x", "images": "*.tif", "labels": "{id}.tif", "classes": [{"name": "a"}, {"name": "b"}]},
}


def recipe(**compute: object) -> Recipe:
    return Recipe.model_validate({**RECIPE, "compute": compute})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small.save(tmp_path_factory.mktemp("bundle") / "bundle", run_id=None)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite registry that the tests of this file share; each takes a model name of its own."""
    return versions.tracking_uri(recipe(output=str(tmp_path_factory.mktemp("output"))))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow litters the current directory where it is asked wrongly; and nothing of the process may be needed."""
    place = tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    yield
    assert list(place.iterdir()) == []
    assert mlflow.active_run() is None


def new_run(uri: str, output: Path, name: str = "exp") -> tuple[MlflowClient, str]:
    client = versions.client(uri)
    return client, client.create_run(versions.experiment_id(client, name, str(output))).info.run_id


def test_pushed_pulled_and_loaded_on_a_server(mlflow_server: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(mlflow_server, tmp_path)
    version = versions.push(bundle, uri=mlflow_server, run_id=run_id, name="served", tags={"note": "by hand"})
    check_round_trip(client, mlflow_server, run_id, "served", version, bundle)
    check_pyfunc_elsewhere(mlflow_server, "models:/served@challenger", bundle, tmp_path)


def test_pushed_pulled_and_loaded_on_sqlite(
    sqlite: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run_id = new_run(sqlite, tmp_path)
    version = versions.push(bundle, uri=sqlite, run_id=run_id, name="local", tags={"note": "by hand"})
    check_round_trip(client, sqlite, run_id, "local", version, bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model("models:/local/1")
    assert (model.predict(raw_images()) == expected_classes(bundle)).all()
    with pytest.raises(mlflow.exceptions.MlflowException, match="enforce schema"):
        model.predict(raw_images().astype(np.float64))


def check_round_trip(client: MlflowClient, uri: str, run_id: str, name: str, version: str, bundle: Bundle) -> None:
    assert version == "1"
    assert versions.alias(client, name, "challenger") == "1"
    registered = client.get_model_version(name, version)
    assert registered.run_id == run_id
    assert registered.tags == {
        "weights_sha256": bundle.weights_sha256,
        "bundle_sha256": bundle.meta_sha256,
        "manifest_digest": bundle.manifest_digest,
        "fingerprint": bundle.fingerprint,
        "step": "7",
        "classes": "water, forest, town",
        "score.miou": "0.500000",
        "note": "by hand",
    }
    for place in (f"models:/{name}/1", f"models:/{name}@challenger", f"runs:/{run_id}"):
        pulled = pull(place, tracking=uri)
        assert (pulled.digest, pulled.classes, pulled.statistics) == (bundle.digest, bundle.classes, bundle.statistics)
        assert sorted(p.name for p in Path(pulled.uri).iterdir()) == [META, WEIGHTS]


def raw_images() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 300, (2, 40, 56, 4)).astype(np.uint16)


def expected_classes(bundle: Bundle) -> np.ndarray:
    with torch.inference_mode():
        return bundle.network(torch.from_numpy(np.moveaxis(raw_images(), -1, 1))).argmax(1).numpy()


def check_pyfunc_elsewhere(uri: str, model: str, bundle: Bundle, place: Path) -> None:
    """A consumer in a process of its own, without pickle, gets the network's answer from raw pixels."""
    np.save(place / "images.npy", raw_images())
    code = (
        "import sys, mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "np.save('out.npy', model.predict(np.load('images.npy')))\n"
        "print(model.metadata.signature.inputs.to_dict(), model.metadata.signature.outputs.to_dict())"
    )
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", code, model]
    done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    assert "'dtype': 'uint16', 'shape': (-1, -1, -1, 4)" in done.stdout
    assert "'dtype': 'uint8', 'shape': (-1, -1, -1)" in done.stdout
    out = np.load(place / "out.npy")
    assert out.dtype == np.uint8
    assert (out == expected_classes(bundle)).all()


def test_nothing_in_a_version_is_pickled(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(sqlite, tmp_path, "plain")
    version = versions.push(bundle, uri=sqlite, run_id=run_id, name="plain", tags={})
    root = Path(client.get_model_version_download_uri("plain", version).removeprefix("file://"))
    names = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert {"artifacts/bundle/bundle.json", "artifacts/bundle/weights.safetensors", "segmenter.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".bin", ".pickle"))]
    assert (root / "requirements.txt").read_text().count("torch==") == 1
    assert str(Path(versions.__file__).parent) not in (root / "MLmodel").read_text()
    assert root.is_relative_to(tmp_path / "mlartifacts")


def test_the_same_bundle_of_a_run_is_registered_once(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(sqlite, tmp_path)
    _, other_run = new_run(sqlite, tmp_path)

    def push(run: str, alias: str | None) -> str:
        return versions.push(bundle, uri=sqlite, run_id=run, name="once", alias=alias, tags={})

    assert [push(run_id, None), push(run_id, "challenger"), push(other_run, None)] == ["1", "1", "2"]
    assert versions.aliases(client, "once") == {"challenger": "1"}
    assert versions.version_of(client, "once", bundle) == "2"
    assert versions.version_of(client, "once", bundle, run_id=run_id) == "1"
    assert versions.version_of(client, "once", replace(bundle, weights_sha256="0" * 64)) is None
    assert versions.version_of(client, "no-such-model", bundle) is None


def test_the_same_weights_with_other_classes_are_another_version(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    _, run_id = new_run(sqlite, tmp_path)
    classes = replace(small.CLASSES, names=("renamed", "forest", "town"))
    renamed = small.save(tmp_path / "renamed", run_id=None, classes=classes)
    assert renamed.weights_sha256 == bundle.weights_sha256
    pushed = [
        versions.push(one, uri=sqlite, run_id=run_id, name="meta", alias=None, tags={})
        for one in (bundle, renamed, bundle, renamed)
    ]
    assert pushed == ["1", "2", "1", "2"]
    assert pull("models:/meta/2", tracking=sqlite).classes.names[0] == "renamed"


def test_a_bundle_without_a_run_can_be_registered(sqlite: str, bundle: Bundle) -> None:
    assert versions.push(bundle, uri=sqlite, run_id=None, name="orphan", tags={}) == "1"
    assert versions.push(bundle, uri=sqlite, run_id="0" * 32, name="orphan", tags={}) == "1"
    assert pull("models:/orphan/1", tracking=sqlite).digest == bundle.digest


def test_aliases_move(sqlite: str, bundle: Bundle) -> None:
    client = versions.client(sqlite)
    versions.push(bundle, uri=sqlite, run_id=None, name="moving", tags={})
    assert versions.alias(client, "moving", "champion") is None
    versions.set_alias(client, "moving", "champion", "1")
    assert versions.aliases(client, "moving") == {"challenger": "1", "champion": "1"}
    versions.set_tags(client, "moving", "1", {"test.iou.park (old)": "0.5"})
    assert client.get_model_version("moving", "1").tags["test.iou.park _old_"] == "0.5"
    assert versions.alias(client, "no-such-model", "champion") is None


def test_a_bundle_among_the_artifacts_of_a_run(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(sqlite, tmp_path)
    client.log_artifacts(run_id, bundle.uri, "bundle")
    client.log_artifacts(run_id, bundle.uri, "deep/other")
    assert pull(f"runs:/{run_id}", tracking=sqlite).digest == bundle.digest
    assert pull(f"runs:/{run_id}/deep/other", tracking=sqlite).digest == bundle.digest
    with pytest.raises(BundleError, match="holds no bundle"):
        pull(f"runs:/{run_id}/deep", tracking=sqlite)
    with pytest.raises(BundleError, match="leaves the run"):
        pull(f"runs:/{run_id}/../x", tracking=sqlite)


def test_pull_takes_directories(bundle: Bundle) -> None:
    assert pull(bundle.uri).digest == bundle.digest


def test_pull_executes_nothing_of_the_registry(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(sqlite, tmp_path)
    version = versions.push(bundle, uri=sqlite, run_id=run_id, name="trap", tags={})
    root = Path(client.get_model_version_download_uri("trap", version).removeprefix("file://"))
    (root / "segmenter.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (root / "artifacts" / "bundle" / "extra.py").write_text("raise SystemExit")
    pulled = pull("models:/trap/1", tracking=sqlite)
    assert not (tmp_path / "sprung").exists()
    assert sorted(p.name for p in Path(pulled.uri).iterdir()) == [META, WEIGHTS]


def test_weights_replaced_in_the_registry(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    client, run_id = new_run(sqlite, tmp_path)
    version = versions.push(bundle, uri=sqlite, run_id=run_id, name="swapped", tags={})
    root = Path(client.get_model_version_download_uri("swapped", version).removeprefix("file://"))
    small.save(root / "artifacts" / "bundle", seed=9)  # whole in itself, but another one
    with pytest.raises(BundleError, match="not those that were registered"):
        pull("models:/swapped/1", tracking=sqlite)
    store.write_bytes(str(root / "artifacts" / "bundle" / WEIGHTS), b"x")
    with pytest.raises(BundleError, match="has changed since"):
        pull("models:/swapped/1", tracking=sqlite)
    (root / "artifacts" / "bundle" / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="holds no bundle"):
        pull("models:/swapped/1", tracking=sqlite)


def test_class_names_reversed_in_the_registry(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    """Also by somebody who makes the digest in the file right, or takes it out as if the bundle were an old one."""
    client, run_id = new_run(sqlite, tmp_path)
    version = versions.push(bundle, uri=sqlite, run_id=run_id, name="renamed", tags={})
    root = Path(client.get_model_version_download_uri("renamed", version).removeprefix("file://"))
    place = root / "artifacts" / "bundle"
    classes = replace(bundle.classes, names=bundle.classes.names[::-1])
    changed = small.save(place, classes=classes, run_id=None)
    assert changed.weights_sha256 == bundle.weights_sha256
    with pytest.raises(BundleError, match=r"bundle\.json are not those that were registered"):
        pull("models:/renamed/1", tracking=sqlite)
    tree = store.read_json(str(place / META))
    store.write_json(str(place / META), {k: v for k, v in tree.items() if k != "sha256"} | {"bundle_version": 2})
    with pytest.raises(BundleError, match=r"bundle\.json are not those that were registered"):
        pull("models:/renamed/1", tracking=sqlite)


def holes(nodata: float, dtype: str = "uint16", bands: int = 4) -> np.ndarray:
    """One image [1, H, W, C] of the size of the bundle's window; a third is nodata."""
    image = np.random.default_rng(1).integers(100, 300, (1, 64, 64, bands)).astype(dtype)
    image[0, 10:40, 5:50] = nodata
    return image


@pytest.mark.parametrize("way", ["recipe", "files", "param", "nan", "per_scene"])
def test_a_pyfunc_predicts_as_predict_does_around_nodata(tmp_path: Path, way: str) -> None:
    nodata = 0 if way != "nan" else math.nan
    image = holes(nodata, "float32" if way == "nan" else "uint16")
    changes: dict = {"dtype": str(image.dtype), "recipe": {"data": {"nodata": 0 if way == "recipe" else None}}}
    changes |= {"file_nodata": 0.0} if way in ("files", "per_scene") else {}
    if way == "per_scene":
        changes["normalisation"] = Normalisation("per_scene", *((v,) * 4 for v in (0.0, 1.0, 0.0, 1.0)))
    made = small.save(tmp_path / "bundle", **changes)
    write_raster(
        tmp_path / "images" / "a.tif", np.moveaxis(image[0], -1, 0), crs=UTM, transform=TRANSFORM, nodata=nodata
    )
    (written,) = predict(made, str(tmp_path / "images" / "a.tif"), str(tmp_path / "out"))
    with rasterio.open(written) as dataset:
        expected = dataset.read(1)
    model = served(made)
    found = model.predict(None, image, {"nodata": 0.0} if way == "param" else None)[0]
    assert (expected == IGNORE).sum() == 30 * 45
    assert (found == expected).all()
    if way in ("recipe", "files"):
        assert (model.predict(None, image, {"nodata": 77.0}) == IGNORE).sum() == 0


def test_a_pyfunc_predicts_large_images_by_windows_as_predict_does(tmp_path: Path) -> None:
    made = small.save(tmp_path / "bundle", recipe={"data": {"nodata": 0}})
    image = np.tile(holes(0), (1, 3, 2, 1))[:, :150, :100]
    write_raster(tmp_path / "images" / "a.tif", np.moveaxis(image[0], -1, 0), crs=UTM, transform=TRANSFORM)
    (written,) = predict(made, str(tmp_path / "images" / "a.tif"), str(tmp_path / "out"))
    with rasterio.open(written) as dataset:
        expected = dataset.read(1)
    assert (served(made).predict(None, image, {"window": 64, "overlap": 0.25})[0] == expected).all()


def test_a_pyfunc_refuses_params_that_it_does_not_know(bundle: Bundle) -> None:
    with pytest.raises(RecipeError, match="params: threshold unknown"):
        served(bundle).predict(None, raw_images(), {"threshold": 0.5})


def test_planes_of_invalid_pixels_are_ignored_too(sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small.save(tmp_path / "bundle", recipe={"data": {"nodata": 0, "task": "multilabel"}}, run_id=None)
    versions.push(made, uri=sqlite, run_id=None, name="planes", tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    model = mlflow.pyfunc.load_model("models:/planes/1")
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, -1, -1, 3)
    found = model.predict(holes(0))
    assert found.shape == (1, 64, 64, 3)
    assert ((found == IGNORE).all(axis=-1) == (holes(0) == 0).all(axis=-1)).all()


def served(bundle: Bundle) -> Segmenter:
    """The model as MLflow would load it, without a registry."""
    model = Segmenter()
    model.load_context(SimpleNamespace(model_config=None, artifacts={"bundle": bundle.uri}))
    return model


def test_params_are_part_of_the_registered_signature(
    sqlite: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.push(bundle, uri=sqlite, run_id=None, name="with_params", tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    model = mlflow.pyfunc.load_model("models:/with_params/1")
    assert [p.name for p in model.metadata.signature.params] == ["nodata", "window", "overlap"]
    first = raw_images()[0, 0, 0, 0]
    images = np.full_like(raw_images(), 50)
    assert (model.predict(images, params={"nodata": 50.0}) == IGNORE).all()
    invalid = model.predict(raw_images(), params={"nodata": float(first)}) == IGNORE
    assert (invalid == (raw_images() == first).any(axis=-1)).all()  # the rule of bundles that do not name one
    with pytest.raises(mlflow.exceptions.MlflowException, match="nodata"):
        model.predict(images, params={"nodata": "many"})


def test_what_is_not_there_is_answered_with_what_is(sqlite: str, bundle: Bundle, tmp_path: Path) -> None:
    _, run_id = new_run(sqlite, tmp_path)
    versions.push(bundle, uri=sqlite, run_id=run_id, name="there", tags={})
    cases = {
        "models:/nowhere@champion": ("no registered model nowhere", "there"),
        "models:/there@champion": ("has no alias champion", "versions: 1; aliases: challenger -> 1"),
        "models:/there/7": ("has no version 7", "versions: 1; aliases: challenger -> 1"),
        "models:/there": ("needs a version", "challenger -> 1"),
        "models:/there/Production": ("is no model", "models:/NAME@ALIAS"),
        "runs:/00000000000000000000000000000000": ("no run 0000", "check the id"),
    }
    for uri, (message, hint) in cases.items():
        with pytest.raises(BundleError, match=message) as caught:
            pull(uri, tracking=sqlite)
        assert hint in caught.value.hint, uri
        assert caught.value.exit_code == 3


def test_predict_takes_a_registered_model(
    sqlite: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.push(bundle, uri=sqlite, run_id=None, name="predicting", tags={})
    write_scene(tmp_path / "s.tif", height=40, width=40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    (written,) = predict("models:/predicting@challenger", str(tmp_path / "s.tif"), str(tmp_path / "out"))
    assert Path(written).exists()


def test_artifacts_in_a_bucket(s3_server: S3, bundle: Bundle, tmp_path: Path) -> None:
    """SQLite here, artifacts and bundle in S3."""
    uri = versions.tracking_uri(recipe(output=str(tmp_path / "out")))
    client = versions.client(uri)
    experiment = versions.experiment_id(client, "bucket", s3_server.uri("out"))
    assert client.get_experiment(experiment).artifact_location.startswith("s3://")
    run_id = client.create_run(experiment).info.run_id
    remote = small.save(s3_server.uri("bundle"))
    assert versions.push(remote, uri=uri, run_id=run_id, name="bucket", tags={}) == "1"
    for place in ("models:/bucket@challenger", f"runs:/{run_id}"):
        assert pull(place, tracking=uri).digest == bundle.digest


def test_server_down_is_said_quickly() -> None:
    for ask in (lambda uri: versions.check(uri), lambda uri: pull("models:/x@champion", tracking=uri)):
        begin = time.monotonic()
        with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 does not answer") as caught:
            ask("http://user:secret@127.0.0.1:9")
        assert time.monotonic() - begin < 10
        assert "start the server, or correct compute.tracking_uri" in caught.value.hint
        assert "secret" not in str(caught.value)
        assert caught.value.exit_code == 75


def test_server_that_hangs_is_said_quickly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer: timed out"):
            versions.check(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begin < 10


def test_something_else_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TrackingError, match="MLflow at http"):
            versions.check(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "ftp://x", "sqlite:////proc/nowhere/mlflow.db"])
def test_uri_that_cannot_be_used(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        versions.check(uri)
    assert uri in caught.value.message


def test_where_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.tracking_uri(recipe(output=str(tmp_path))) == f"sqlite:///{tmp_path}/mlflow.db"
    assert versions.tracking_uri(recipe(output="runs")) == f"sqlite:///{Path.cwd()}/runs/mlflow.db"
    with pytest.raises(RecipeError, match="no MLflow server is named"):
        versions.tracking_uri(recipe(output="s3://bucket/runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000")
    assert versions.tracking_uri(recipe(output="s3://bucket/runs")) == "http://env:5000"
    assert versions.tracking_uri(recipe(tracking_uri="http://recipe:5000")) == "http://recipe:5000"


def test_pull_without_any_server() -> None:
    with pytest.raises(TrackingError, match="no MLflow server is named") as caught:
        pull("models:/x@champion")
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_experiments_are_created_once(mlflow_server: str, sqlite: str, tmp_path: Path) -> None:
    for uri in (mlflow_server, sqlite):
        clients = [versions.client(uri) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            ids = set(pool.map(lambda c: versions.experiment_id(c, "raced", str(tmp_path)), clients))
        assert len(ids) == 1
        clients[0].delete_experiment(ids.pop())
        with pytest.raises(RecipeError, match="'raced' has been deleted"):
            versions.experiment_id(clients[0], "raced", str(tmp_path))
