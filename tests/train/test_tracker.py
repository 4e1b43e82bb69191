import json
import math
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import store
from pipeline.errors import TrackingError
from pipeline.redaction import redacted_tree
from pipeline.registry.open_uri import pull
from pipeline.registry.server import tracking_uri
from pipeline.train import on_mlflow
from pipeline.train.fit import Parent, fit
from pipeline.train.on_mlflow import MetricsTracker
from pipeline.train.payload import MlflowRun
from tests.factory import recipe_for, world
from tests.servers import free_ports, serving


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def history(server: str, run_id: str, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(server).get_metric_history(run_id, name)
    return sorted((m.step, m.value) for m in found)


@pytest.fixture
def run_id(mlflow_server: str) -> str:
    client = MlflowClient(mlflow_server)
    found = client.get_experiment_by_name("tracker")
    experiment = found.experiment_id if found else client.create_experiment("tracker")
    return str(client.create_run(experiment).info.run_id)


def test_without_a_server_there_are_lines(tmp_path):
    tracker = MetricsTracker(str(tmp_path))
    tracker.log(1, {"loss": 0.5, "val.iou.a": math.nan})
    tracker.log(2, {"loss": 0.25})
    assert [(row["step"], row["loss"]) for row in lines(tmp_path)] == [(1, 0.5), (2, 0.25)]
    assert lines(tmp_path)[0]["val.iou.a"] is None
    tracker.close()


def test_numbers_reach_mlflow_once_also_after_a_restart(tmp_path, mlflow_server, run_id):
    tracker = MetricsTracker(str(tmp_path), run=MlflowRun(mlflow_server, run_id))
    for step in (1, 2, 3, 4):
        tracker.log(step, {"loss": 1 / step, "val.iou.été + 1": 0.5})
    tracker.close()
    # The checkpoint was at step 2: steps 3 and 4 come again, with the same values.
    tracker = MetricsTracker(str(tmp_path), start_step=2, run=MlflowRun(mlflow_server, run_id))
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]
    tracker.log(3, {"loss": 1 / 3})
    tracker.close()
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3]
    sent = history(mlflow_server, run_id, "loss")
    assert [step for step, _ in sent if step <= 2] == [1, 2]
    assert dict(sent) == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25})


def test_a_line_cut_short_by_a_kill_is_forgotten(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5, "loss": 0.5}\n{"step": 2, "ti')
    MetricsTracker(str(tmp_path), start_step=9).close()
    assert lines(tmp_path) == [{"step": 1, "time": 5, "loss": 0.5}]


def test_numbers_wait_for_a_server_that_is_away(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(on_mlflow, "_RETRY_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path)]
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, f"{url}/health", {200}, tmp_path / "first.log", env):
        client = MlflowClient(url)
        run = str(client.create_run(client.create_experiment("away")).info.run_id)
        tracker = MetricsTracker(str(tmp_path), run=MlflowRun(url, run))
        tracker.log(1, {"loss": 0.5})
        wait_for(lambda: history(url, run, "loss") == [(1, 0.5)])
    tracker.log(2, {"loss": 0.25})  # the server is gone
    wait_for(lambda: "MLflow does not answer" in caplog.text)
    tracker.log(3, {"loss": 0.125})
    time.sleep(1.5)
    assert caplog.text.count("MLflow does not answer") == 1
    with serving(command, f"{url}/health", {200}, tmp_path / "second.log", env):
        wait_for(lambda: history(url, run, "loss") == [(1, 0.5), (2, 0.25), (3, 0.125)])
        wait_for(lambda: "MLflow answers again" in caplog.text)
    tracker.log(4, {"loss": 0.0625})
    tracker.close()
    assert [row["step"] for row in on_mlflow.read_rows(str(tmp_path / on_mlflow.UNSENT))] == [4]
    with serving(command, f"{url}/health", {200}, tmp_path / "third.log", env):
        on_mlflow.finish_run(MlflowRun(url, run), "FINISHED", run_uri=str(tmp_path))
        assert history(url, run, "loss")[-1] == (4, 0.0625)
        assert MlflowClient(url).get_run(run).info.status == "FINISHED"
    assert not (tmp_path / on_mlflow.UNSENT).exists()


def test_artifacts_in_a_bucket_that_the_server_does_not_serve(tmp_path, s3_server):
    root = s3_server.uri("artifacts")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--no-serve-artifacts"]
    command += ["--default-artifact-root", root]
    folder = world(tmp_path / "scenes")
    recipe = recipe_for(folder, **{"name": "unserved", "compute.tracking_uri": url, "train.steps": 2})
    with serving(command, f"{url}/health", {200}, tmp_path / "log", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}):
        done = fit(recipe)
        assert {"MLmodel", "bundle.json", "recipe.json"} <= {name.rpartition("/")[2] for name in store.list_files(root)}
        assert pull("models:/unserved@challenger", tracking=url).digest == done.digest


def test_artifacts_that_need_a_library_are_said_before_training(tmp_path):
    folder = world(tmp_path / "scenes")
    recipe = recipe_for(folder, **{"name": "elsewhere", "train.steps": 2})
    uri = tracking_uri(recipe)
    MlflowClient(uri).create_experiment("elsewhere", artifact_location="gs://bucket/artifacts")
    with pytest.raises(TrackingError, match=r"needs a library that is not here: .*google") as caught:
        fit(recipe)
    assert "the server can also serve them" in caught.value.hint


def test_in_a_bucket_the_lines_are_there_at_the_end(s3_server):
    run = s3_server.uri("run")
    tracker = MetricsTracker(run)
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    assert [row["loss"] for row in on_mlflow.read_rows(store.join(run, "metrics.jsonl"))] == [0.5]


def test_secrets_are_taken_out_of_trees():
    tree = {"a": ["http://me:pass@host/x", 3], "b": {"c": "s3://key:secret@bucket/p", "d": "me@host"}}
    assert redacted_tree(tree) == {"a": ["http://host/x", 3], "b": {"c": "s3://bucket/p", "d": "me@host"}}


class StopAt:
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def report(self, step: int, metrics: dict[str, float]) -> None:
        if step == self.step:
            raise self.error


def test_one_run_from_start_through_kill_and_failure_to_the_registry(tmp_path, mlflow_server):
    folder = world(tmp_path / "scenes")
    recipe = recipe_for(folder, **{"name": "life", "compute.tracking_uri": mlflow_server, "train.steps": 6})
    client = MlflowClient(mlflow_server)
    parent = client.create_run(client.create_experiment("parents")).info.run_id

    def only_run():
        experiment = client.get_experiment_by_name("life")
        (run,) = client.search_runs([experiment.experiment_id])
        return run

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, host=StopAt(2, KeyboardInterrupt()), parent=Parent(parent))
    assert only_run().info.status == "KILLED"
    with pytest.raises(RuntimeError):
        fit(recipe, host=StopAt(4, RuntimeError("boom")))
    assert only_run().info.status == "FAILED"
    made = fit(recipe)
    run = only_run()
    assert (run.info.status, run.info.run_id) == ("FINISHED", made.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["segpipe.fingerprint"] == recipe.fingerprint
    assert run.data.tags["segpipe.manifest_digest"] == made.manifest_digest
    assert run.data.params["train.steps"] == "6"
    assert run.data.params["train.optimizer.kind"] == "adamw"
    assert "recipe.json" in [artifact.path for artifact in client.list_artifacts(made.run_id)]
    steps = {step for step, _ in history(mlflow_server, made.run_id, "loss")}
    assert steps == {1, 2, 3, 4, 5, 6}
    assert dict(history(mlflow_server, made.run_id, "val.miou"))[6] == pytest.approx(made.scores["miou"])
    (version,) = client.search_model_versions("name = 'life'")
    assert version.run_id == made.run_id
    assert version.tags["manifest_digest"] == made.manifest_digest
