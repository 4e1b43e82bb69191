"""Searches on a real Ray cluster: trials are fits, ASHA stops some, nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from ray.util import placement_group_table

from pipeline.errors import ClusterError, RecipeError, TrainingError
from pipeline.model import bundle
from pipeline.recipe import Recipe
from pipeline.tune import results
from pipeline.tune.search import search
from tests import factory


def recipe_with(folder: Path, space: dict[str, Any], **overrides: Any) -> Recipe:
    """A small recipe whose trials have one worker and take their batches from Ray Data."""
    changes = {"compute.runner": "ray", "compute.feed": "ray", "tune.space": space, "tune.num_trials": 3}
    return factory.recipe_for(folder, **{**changes, **overrides})


RATES = {"train.optimizer.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-2}}
ENCODERS = {"model.encoder": {"kind": "choice", "values": ["resnet10t", "no_such_encoder"]}}


def runs_of(recipe: Recipe, server: str) -> tuple[MlflowClient, Any, list[Any]]:
    """Client, parent run and nested runs of the only search of a recipe."""
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(recipe.experiment)
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return client, parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def groups_left() -> list[str]:
    return [k for k, group in placement_group_table().items() if group["state"] in ("CREATED", "PENDING")]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_registers_the_best_of_its_trials_and_leaves_nothing_open(
    ray_cluster: None, mlflow_server: str, tmp_path: Path
) -> None:
    space = {**RATES, "model.norm": {"kind": "choice", "values": ["batch", "group"]}}
    overrides = {
        "name": "found",
        "train.steps": 12,
        "train.checkpoint_every": 2,
        "tune.num_trials": 3,  # drawn with seed 0, the third one is behind the first two at the first validation
        "tune.grace": 1,
        "tune.reduction": 2,
        "tune.max_concurrent": 2,
        "compute.tracking_uri": mlflow_server,
    }
    recipe = recipe_with(factory.world(tmp_path), space, **overrides)
    seen: list[tuple[int, int, str]] = []
    result = search(recipe, progress=lambda *args: seen.append(args))

    finished = [t for t in result.trials if t.status == "finished"]
    stopped = [t for t in result.trials if t.status == "stopped"]
    assert len(result.trials) == 3 and len(finished) + len(stopped) == 3
    assert stopped and all(0 < t.step < 12 and t.bundle is None for t in stopped)
    assert finished and all(t.step == 12 and set(t.overrides) == set(space) for t in finished)
    assert result.best == max(finished, key=lambda t: t.score or 0.0)
    assert seen[-1] == (3, 3, f"best {result.best.score:.4f}")

    loaded = bundle.load(str(result.best.bundle))
    assert loaded.scores["miou"] == pytest.approx(result.best.score)
    assert loaded.recipe["train"]["optimizer"]["lr"] == result.overrides["train.optimizer.lr"]
    record = json.loads((Path(result.uri) / "search.json").read_text())
    assert [t["status"] for t in record["trials"]] == [t.status for t in result.trials]
    assert (Path(result.uri) / "trials.csv").read_text().count("\n") == 4
    assert not list(Path(result.uri).glob("**/*.pkl"))

    client, parent, nested = runs_of(recipe, mlflow_server)
    status = {run.info.run_id: run.info.status for run in nested}
    assert parent.info.status == "FINISHED"
    assert status == {t.run_id: "FINISHED" if t.status == "finished" else "KILLED" for t in result.trials}
    version = client.get_model_version_by_alias("found", "challenger")
    assert (version.version, version.run_id) == (result.version, result.best.run_id)
    assert version.tags["override.model.norm"] == json.dumps(result.overrides["model.norm"])
    assert groups_left() == []
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_fails_is_named_and_the_others_go_on(
    ray_cluster: None, mlflow_server: str, tmp_path: Path
) -> None:
    overrides = {"name": "some", "tune.num_trials": 2, "compute.feed": "local", "compute.tracking_uri": mlflow_server}
    result = search(recipe_with(factory.world(tmp_path), ENCODERS, **overrides))
    good, bad = sorted(result.trials, key=results.rank)
    assert (good.status, good.overrides["model.encoder"], good.reason) == ("finished", "resnet10t", "")
    assert (bad.status, bad.overrides["model.encoder"], bad.score) == ("failed", "no_such_encoder", None)
    assert bad.reason.startswith("RecipeError") and "no_such_encoder" in bad.reason
    assert bad.reason.partition("\n")[0] in result.table()


@pytest.mark.slow
@pytest.mark.ray
def test_where_all_trials_fail_each_reason_is_told(ray_cluster: None, mlflow_server: str, tmp_path: Path) -> None:
    space = {"train.optimizer.lr": {"kind": "choice", "values": [1e30]}}
    overrides = {"name": "none", "tune.num_trials": 1, "compute.feed": "local", "compute.tracking_uri": mlflow_server}
    recipe = recipe_with(factory.world(tmp_path), space, **overrides)
    with pytest.raises(TrainingError, match=r"not one of 1 trials finished") as caught:
        search(recipe)
    assert "trial 0 (train.optimizer.lr=1e+30): DivergedError: the loss is" in caught.value.message
    _, parent, nested = runs_of(recipe, mlflow_server)
    assert [run.info.status for run in (parent, *nested)] == ["FAILED", "FAILED"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_interrupted_closes_its_runs(number: int, mlflow_server: str, tmp_path: Path) -> None:
    overrides = {"name": f"stopped-{number}", "train.steps": 100_000, "tune.grace": 50_000, "compute.feed": "local"}
    overrides |= {"compute.tracking_uri": mlflow_server}
    recipe = recipe_with(factory.world(tmp_path), RATES, **overrides)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    command = [sys.executable, "-m", "pipeline", "tune", str(tmp_path / "recipe.json"), "--json"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while "val miou" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(60) == 130
    _, parent, nested = runs_of(recipe, mlflow_server)
    assert {run.info.status for run in (parent, *nested)} == {"KILLED"}


@pytest.mark.ray
def test_a_cluster_without_room_for_one_trial_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    recipe = recipe_with(factory.world(tmp_path), RATES, **{"compute.cpus_per_worker": 100})
    with pytest.raises(ClusterError, match="6 CPUs"):
        search(recipe)
    assert not (tmp_path / "runs/tiny/searches").exists()


def test_without_a_val_split_nothing_starts(tmp_path: Path) -> None:
    factory.world(tmp_path)
    table = tmp_path / "splits.csv"
    table.write_text(table.read_text().replace(",val,", ",train,"))
    with pytest.raises(RecipeError, match="miou is judged on the val split, and no scene is in it"):
        search(recipe_with(tmp_path, RATES))
    assert not (tmp_path / "runs/tiny/searches").exists()


def test_a_search_without_ray_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"compute.runner: local, but a search runs on Ray"):
        search(recipe_with(tmp_path, RATES, **{"compute.runner": "local"}))


def test_the_best_trial_is_a_finished_one_of_highest_score() -> None:
    def trial(number: int, status: str, score: float | None) -> results.Trial:
        return results.Trial(number, {"seed": number}, status, score, 1, 1.0, "", None, None)

    trials = [
        trial(0, "stopped", 0.9),
        trial(1, "finished", 0.4),
        trial(2, "failed", None),
        trial(3, "finished", 0.7),
        trial(4, "finished", 0.7),
    ]
    assert [t.number for t in sorted(trials, key=results.rank)] == [3, 4, 1, 0, 2]
    lines = results.table(trials, "miou").splitlines()
    assert lines[0].split() == ["trial", "status", "miou", "step", "seconds", "overrides"]
    assert lines[1].split() == ["3", "finished", "0.7000", "1", "1", "seed=3"]
    assert results.to_csv(trials, "miou").splitlines()[3] == "2,failed,,1,1.0,2,,"
