"""Statistics, the index of classes and shards are the same to the bit, whoever makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config
from pipeline.__main__ import main
from pipeline.data.chips.statistics import compute
from pipeline.data.feed import planning
from pipeline.data.feed.shards import prepare
from pipeline.data.feed.shards.shard_reader import Shards
from pipeline.data.parallel import local
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import SceneError
from pipeline.recipe import Recipe
from tests.factory import make_scene, recipe_for, world, write_raster

pytestmark = pytest.mark.ray

on_ray = pytest.importorskip("pipeline.data.parallel.on_ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes of scenes, with invalid pixels; of the large ones a job is a part."""
    folder = world(tmp_path_factory.mktemp("scenes"), scenes=12, bands=4, dtype="uint16")
    rows = ["\n".join(f"big{n},train,north" for n in range(2)), ""]
    for n in range(2):
        make_scene(folder, f"big{n}", height=2300, width=1100, bands=4, dtype="uint16", invalid="nodata", seed=n)
    with (folder / "splits.csv").open("a") as file:
        file.write("\n".join(rows))
    return folder


def made(folder: Path, output: Path, **overrides: Any) -> tuple[Recipe, Manifest]:
    recipe = recipe_for(folder, **{"compute.output": str(output), **overrides})
    return recipe, current(recipe)


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_statistics(ray_cluster: None, folder: Path, tmp_path: Path, task: str) -> None:
    changes = {} if task == "multiclass" else {"data.task": task, "data.labels": None}
    recipe, manifest = made(folder, tmp_path, **changes)
    wanted = compute.compute(manifest, recipe.data)
    found = compute.compute(manifest, recipe.data, on_ray.mapped)
    assert len(compute.jobs(manifest, recipe.data)) > 8
    assert found == wanted
    assert found.to_json() == wanted.to_json()
    assert [sketch.data for sketch in found.sketches] == [sketch.data for sketch in wanted.sketches]


def test_the_index_of_classes(ray_cluster: None, folder: Path, tmp_path: Path) -> None:
    written = []
    for mapped in (None, on_ray.mapped):
        recipe, manifest = made(folder, tmp_path / str(mapped is None), **{"data.sampling.kind": "foreground"})
        moments = compute.compute(manifest, recipe.data)
        planning.plan_of(recipe, manifest, moments, **({} if mapped is None else {"mapped": mapped}))
        (path,) = (tmp_path / str(mapped is None)).rglob("*.npz")
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_shards(ray_cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_SHARD_BYTES", 300_000)
    places = []
    for mapped in (None, on_ray.mapped):
        recipe, manifest = made(folder, tmp_path / str(mapped is None))
        steps: list[tuple[int, int]] = []
        options = {} if mapped is None else {"mapped": mapped}
        done = prepare.prepare(recipe, manifest, **options, progress=lambda *step, steps=steps: steps.append(step))
        assert done.num_new == done.num_shards == len(steps) > 3
        assert steps[-1][0] == steps[-1][1]
        assert prepare.prepare(recipe, manifest, **options).num_new == 0
        places.append(Path(done.uri))
        Shards.open(done.uri, manifest.digest).verify()
    local, ray = (files(place) for place in places)
    assert local == ray


def test_a_shard_that_was_lost_is_made_again(ray_cluster: None, folder: Path, tmp_path: Path) -> None:
    recipe, manifest = made(folder, tmp_path)
    first = prepare.prepare(recipe, manifest)
    before = files(Path(first.uri))
    Path(first.uri, "00000.shard").unlink()
    assert prepare.prepare(recipe, manifest, mapped=on_ray.mapped).num_new == 1
    assert files(Path(first.uri)) == before


def test_the_command_prepare_uses_a_cluster_that_is_there(
    ray_cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, manifest = made(folder, tmp_path, **{"compute.runner": "ray", "compute.feed": "ray"})
    monkeypatch.setattr(local, "mapped", None)  # in this process, not in those of the cluster
    assert main(["prepare", config.inline(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"]["train"]["num_new"] == 1
    found = files(Path(prepare.found(recipe, manifest)))
    monkeypatch.undo()
    recipe, manifest = made(folder, tmp_path / "local")
    assert found == files(Path(prepare.prepare(recipe, manifest).uri))


def damaged(folder: Path) -> Path:
    """Scenes of which two have lost their last bytes."""
    world(folder, scenes=8)
    pixels = np.random.default_rng(0).integers(1, 250, (3, 300, 300)).astype(np.uint8)
    for name in ("s2", "s1"):
        path = write_raster(folder / "images" / f"{name}.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
        write_raster(folder / "masks" / f"{name}.tif", np.ones((300, 300), np.uint8))
    current(recipe_for(folder))
    for name in ("s2", "s1"):
        path = folder / "images" / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:-60_000])
    return folder


def told(error: pytest.ExceptionInfo[SceneError]) -> tuple[type, str, str]:
    return error.type, error.value.message, error.value.hint


def test_a_scene_that_cannot_be_read_is_the_same_error(ray_cluster: None, tmp_path: Path) -> None:
    recipe, manifest = made(damaged(tmp_path), tmp_path / "runs")
    for work in (
        lambda **options: compute.compute(manifest, recipe.data, **options),
        lambda **options: prepare.prepare(recipe, manifest, **options),
    ):
        with pytest.raises(SceneError, match="s1") as here:
            work()
        with pytest.raises(SceneError, match="s1") as there:
            work(mapped=on_ray.mapped)
        assert told(here) == told(there)


def test_what_is_left_out_by_quarantine_is_the_same(ray_cluster: None, tmp_path: Path) -> None:
    recipe, manifest = made(damaged(tmp_path), tmp_path / "runs")
    recipe = config.replace(recipe, {"data.on_error": {"kind": "quarantine", "max": 100}})
    manifest = replace(manifest, scenes=tuple(replace(s, seen="") for s in manifest.scenes))  # damage, and no change
    here = prepare.prepare(recipe, manifest)
    before = files(Path(here.uri))
    for path in Path(here.uri).iterdir():
        path.unlink()
    there = prepare.prepare(recipe, manifest, mapped=on_ray.mapped)
    assert there.unreadable == here.unreadable == ("s1", "s2")
    assert files(Path(there.uri)) == before
