"""What scores a network reads shards where they are there, and finds the same to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from pipeline.data.chips.statistics import compute
from pipeline.data.feed.shards import prepare
from pipeline.data.scenes.index import current
from pipeline.errors import DataError, ManifestError
from pipeline.evaluation.evaluate import evaluate
from pipeline.recipe import Recipe
from pipeline.train.fit import fit
from tests.factory import QUICK, UTM, recipe_for, world, write_raster

SETTINGS = QUICK | {
    "train.steps": 2,
    "train.validate_every": 1,
    "evaluate.examples": 1,
}
TASKS: dict[str, dict[str, Any]] = {
    "multiclass": {},
    "per_scene": {"data.normalise": {"kind": "per_scene"}},
    "multilabel": {"data.task": "multilabel", "loss": [{"kind": "focal"}]},
}


def recipe_in(scenes: Path, output: Path, **changes: Any) -> Recipe:
    return recipe_for(scenes, **{**SETTINGS, "compute.output": str(output), **changes})


def rows(bundle_uri: str) -> list[dict[str, Any]]:
    lines = Path(bundle_uri).parent.joinpath("metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("time", "chips_per_second")} for line in lines]


@pytest.mark.parametrize("kind", TASKS)
def test_training_validation_and_report_are_those_of_the_files(tmp_path: Path, kind: str) -> None:
    """The files are gone when shards are read."""
    scenes = world(tmp_path / "world")
    if kind == "multilabel":
        for path in (scenes / "masks").iterdir():
            with rasterio.open(path) as mask:
                disc, transform = mask.read(1), mask.transform
            write_raster(path, np.stack([np.ones_like(disc), disc]), crs=UTM, transform=transform)
    slow, fast = (
        recipe_in(scenes, tmp_path / way, **TASKS[kind], **{"compute.shards": way}) for way in ("never", "require")
    )
    manifest = current(slow)
    made = fit(slow, manifest=manifest)
    wanted = evaluate(slow, made, manifest=manifest)
    for split in ("train", "val", "test"):
        prepare.prepare(fast, manifest, split=split)
    compute.cached(fast, manifest)
    shutil.rmtree(scenes / "images")
    shutil.rmtree(scenes / "masks")
    again = fit(fast, manifest=manifest)
    assert [name for name in rows(again.uri)[-1] if name.startswith("val.iou.")]
    assert rows(again.uri) == rows(made.uri)
    found = evaluate(fast, again, manifest=manifest)
    assert (found.confusion, found.scenes, found.scores) == (wanted.confusion, wanted.scenes, wanted.scores)
    assert [(e.scene, e.window) for e in found.examples] == [(e.scene, e.window) for e in wanted.examples]
    with pytest.raises(DataError, match="no such file"):
        evaluate(slow, made, manifest=manifest, overwrite=True)


def test_both_splits_that_training_reads_are_required(tmp_path: Path) -> None:
    recipe = recipe_in(world(tmp_path / "world"), tmp_path / "runs", **{"compute.shards": "require"})
    manifest = current(recipe)
    prepare.prepare(recipe, manifest)
    with pytest.raises(ManifestError, match="the val split is not prepared as it is now"):
        fit(recipe, manifest=manifest)
    assert not list((tmp_path / "runs").rglob("recipe.json"))
    prepare.prepare(recipe, manifest, split="val")
    made = fit(recipe, manifest=manifest)
    assert evaluate(recipe, made, manifest=manifest).split == "test"  # is read once, and needs no shards


def test_a_val_split_that_changed_since_it_was_indexed_is_refused(tmp_path: Path) -> None:
    scenes = world(tmp_path / "world")
    recipe = recipe_in(scenes, tmp_path / "runs")
    manifest = current(recipe)
    (image,) = (Path(s.image) for s in manifest.scenes if s.split == "val")
    shutil.copy(scenes / "images/s0.tif", image)
    with pytest.raises(DataError, match=image.name):
        fit(recipe, manifest=manifest)
