import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.train import UserCallback

from pipeline import recipe as recipes
from pipeline.data.chips.statistics import compute as compute_statistics
from pipeline.data.scenes.index import current
from pipeline.errors import ClusterError, DivergedError, SceneError
from pipeline.recipe import Compute, Recipe
from pipeline.train import on_ray, worker
from pipeline.train.fit import fit
from pipeline.world import World
from tests.factory import QUICK, recipe_for, world

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
# Of another seed a first chip can be mostly invalid. Layer norms have a variance of 0 at such pixels and make 1e9 of
# rounding, so that the order in which ranks add up would be seen.
SETTINGS = QUICK | {
    "seed": 1,
    "data.sampling.size": 64,
    "train.steps": 6,
    "train.validate_every": 1,
}
ON_RAY = {
    "compute.runner": "ray",
    "compute.feed": "ray",
    "compute.num_workers": 2,
    "compute.block_batches": 2,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = world(tmp_path_factory.mktemp("scenes"))
    current(recipe_for(folder))
    return folder


@pytest.fixture(scope="module")
def expected(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the same recipe records in this process, without Ray."""
    return rows(fit(recipe_in(scenes, tmp_path_factory.mktemp("local"))).uri)


def recipe_in(scenes: Path, output: Path, **overrides) -> Recipe:
    return recipe_for(scenes, **{**SETTINGS, "compute.output": str(output), **overrides})


def rows(bundle_uri: str) -> list[dict]:
    lines = Path(bundle_uri).parent.joinpath("metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("time", "chips_per_second")} for line in lines]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        # Losses agree to rounding; a score may turn at a pixel whose two classes are nearly equal.
        tolerance = 1e-5 if "loss" in ours else 0.01
        assert ours == pytest.approx(theirs, abs=tolerance), ours["step"]


def test_two_workers_and_ray_data_have_the_losses_of_one_process(ray_cluster, scenes, tmp_path, expected):
    steps = []
    made = fit(recipe_in(scenes, tmp_path, **ON_RAY), progress=lambda done, total, note="": steps.append(done))
    assert_same(rows(made.uri), expected)
    assert made.step == 6
    assert made.scores["miou"] == rows(made.uri)[-1]["val.miou"]
    assert steps[-1] == 6


def dying(config: dict[str, Any]) -> dict[str, Any]:
    """The worker, of which rank 1 dies after step 3, once."""
    payload = config[on_ray._PAYLOAD]

    class Host(on_ray.RayHost):
        def report(self, step: int, metrics: dict[str, float]) -> None:
            super().report(step, metrics)
            died = Path(payload.run_uri, "died")
            if step == 3 and World.detect().rank == 1 and not died.exists():
                died.touch()
                os._exit(1)

    feed = on_ray._batches
    return worker.work(payload, Host(), feed=lambda start: feed(payload, World.detect(), start))


def test_a_worker_that_dies_is_replaced_and_nothing_changes(ray_cluster, scenes, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(on_ray, "_on_worker", dying)
    made = fit(recipe_in(scenes, tmp_path, **ON_RAY))
    assert Path(made.uri).parent.joinpath("died").exists()
    assert_same(rows(made.uri), expected)


class Attempts(UserCallback):
    """Writes a line for every failure of the workers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        with self.path.open("a") as file:
            file.write("failed\n")


def test_an_error_of_a_reading_task_comes_out_as_it_is_and_is_not_tried_again(ray_cluster, tmp_path):
    folder = world(tmp_path / "scenes")
    recipe = recipe_in(folder, tmp_path, **ON_RAY)
    compute_statistics.cached(recipe, current(recipe))
    for path in sorted((folder / "images").iterdir()):
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SceneError, match=r"s\d\.tif"):
        fit(recipe, callbacks=[Attempts(tmp_path / "attempts")])
    assert (tmp_path / "attempts").read_text() == "failed\n"


def test_an_error_of_the_loop_comes_out_as_it_is(ray_cluster, scenes, tmp_path):
    alone = {**ON_RAY, "compute.feed": "local", "compute.num_workers": 1}
    recipe = recipe_in(scenes, tmp_path, **alone, **{"train.optimizer": {"kind": "sgd", "lr": 1e30}})
    with pytest.raises(DivergedError, match="the loss is"):
        fit(recipe)


def test_a_cluster_that_is_too_small_says_what_to_change(ray_cluster, scenes, tmp_path):
    recipe = recipe_in(scenes, tmp_path, **ON_RAY)
    many = recipes.replace(recipe, {"compute.cpus_per_worker": 3})
    with pytest.raises(
        ClusterError, match="the cluster has 6 CPUs; 2 workers with 3 each, and 1 for reading data need 7"
    ) as e:
        fit(many)
    assert e.value.hint == (
        "set compute.feed=local, or set compute.num_workers=1, or set compute.cpus_per_worker=2.5, or add CPUs"
    )
    with pytest.raises(ClusterError, match="the cluster has 0 GPUs; 2 workers with 1 each need 2"):
        fit(recipes.replace(recipe, {"compute.gpus_per_worker": 1}))
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.slow
def test_a_private_cluster_has_the_cpus_it_needs_and_is_gone_afterwards():
    compute = Compute(num_workers=9, data_cpus=2, cpus_per_worker=0.5).model_dump_json()
    code = (
        "import ray, sys\n"
        "from pipeline.recipe import Compute\n"
        "from pipeline.train import on_ray\n"
        "if __name__ == '__main__':\n"
        "    with on_ray.connected(Compute.model_validate_json(sys.argv[1])):\n"
        "        print('CPUs', ray.cluster_resources()['CPU'])\n"
        "    print('left', ray.is_initialized())\n"
    )
    command = [sys.executable, "-c", code, compute]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    words = done.stdout.split()
    assert float(words[1]) == max(7, os.cpu_count())
    assert words[2:] == ["left", "False"]
