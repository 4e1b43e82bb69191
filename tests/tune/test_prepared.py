"""What was prepared for a search serves its trials, which have an output of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.chips.statistics import compute
from pipeline.data.feed.planning import presence_of
from pipeline.data.feed.shards import prepare
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import ManifestError
from pipeline.recipe import Recipe, replace
from pipeline.train.payload import SearchPayload
from pipeline.tune import space
from pipeline.tune.search import search
from tests import factory

SIZES = {"data.sampling.size": {"kind": "choice", "values": [32, 128]}}


def recipe_in(folder: Path, tree: dict[str, Any], **overrides: Any) -> Recipe:
    changes = {
        "compute.runner": "ray",
        "compute.tracking_uri": "http://127.0.0.1:9",
        "compute.tracking_required": False,
        "data.sampling": {"kind": "foreground", "size": 32},
        "tune.num_trials": 2,
        "tune.space": tree,
    }
    return factory.recipe_for(folder, **{**changes, **overrides})


def indexes(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.npz"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_trials_read_what_was_prepared_for_the_search(ray_cluster: None, tmp_path: Path) -> None:
    """There is nothing else to read: images and masks are gone."""
    recipe = recipe_in(factory.world(tmp_path), SIZES, **{"compute.shards": "require"})
    manifest = current(recipe)
    prepare_all(recipe, manifest)
    made = indexes(tmp_path / "runs/tiny")
    assert [Path(path).name[12:] for path in made] == [".presence-16.npz", ".presence-32.npz"]
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "masks")
    result = search(recipe, manifest=manifest)
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    assert indexes(tmp_path / "runs/tiny") == made
    assert len(list((tmp_path / "runs").rglob("statistics/*.json"))) == 1


def prepare_all(recipe: Recipe, manifest: Manifest) -> None:
    for split in ("train", "val"):
        prepare.prepare(recipe, manifest, split=split)
    compute.cached(recipe, manifest)
    for size in (32, 128):
        presence_of(replace(recipe, {"data.sampling.size": size}), manifest)


@pytest.mark.ray
def test_shards_that_are_required_are_missed_before_a_trial_begins(ray_cluster: None, tmp_path: Path) -> None:
    recipe = recipe_in(factory.world(tmp_path), SIZES, **{"compute.shards": "require"})
    with pytest.raises(ManifestError, match="the train split is not prepared"):
        search(recipe)
    assert not (tmp_path / "runs/tiny/searches").exists()


@pytest.mark.ray
def test_indexes_of_all_samplings_are_made_before_trials_begin(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        """Trials would begin now."""

    def run(payload: SearchPayload, *_: Any) -> None:
        assert len(indexes(Path(payload.recipe.compute.output))) == 2
        raise Begun

    monkeypatch.setattr("pipeline.tune.on_ray.run", run)
    with pytest.raises(Begun):
        search(recipe_in(factory.world(tmp_path), SIZES))


def test_samplings_of_a_space(tmp_path: Path) -> None:
    tree = {
        "train.optimizer.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1},
        "data.sampling.size": {"kind": "integer", "low": 32, "high": 64},
        "data.sampling": {"kind": "choice", "values": [{"kind": "uniform", "size": 96}, {"kind": "foreground"}]},
    }
    found = [each.data.sampling for each in space.samplings(recipe_in(tmp_path, tree))]
    assert [(s.kind, s.size) for s in found] == [
        ("uniform", 32),
        ("uniform", 64),
        ("foreground", 32),
        ("foreground", 64),
    ]
    (alone,) = space.samplings(recipe_in(tmp_path, {"seed": {"kind": "choice", "values": [0, 1]}}))
    assert alone.data.sampling.size == 32
