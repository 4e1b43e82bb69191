"""What an earlier version wrote is read, and gives the same numbers: recipe, manifest, statistics, shards, checkpoint,
bundle, and a model version as MLflow holds it.

`tests/written_before` holds the files: six scenes, and the output of `segpipe prepare` and of a training of six steps
whose second half was taken away.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import rasterio
import torch

import pipeline
from pipeline.data.chips.statistics import compute
from pipeline.data.feed.planning import plan_of
from pipeline.train.fit import fit, run_uri_of

FILES = Path(__file__).parent / "written_before"


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A working directory with the files in it, and what the earlier version found."""
    for name in ("scenes", "pyfunc"):
        shutil.copytree(FILES / name, tmp_path / name)
    shutil.copy(FILES / "recipe.yaml", tmp_path)
    shutil.copytree(FILES / "output", tmp_path / "runs/before", ignore=shutil.ignore_patterns("run"))
    shutil.copytree(FILES / "output/run", tmp_path / "runs/before/runs/7d59339f9379-6bb66eb8")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = json.loads((FILES / "expected.json").read_text())
    return found


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 250, (1, 3, 32, 48)).astype(np.uint8)


def test_recipe_manifest_statistics_and_order_are_the_same(before: dict[str, Any]) -> None:
    recipe = pipeline.load("recipe.yaml")
    assert recipe.fingerprint == before["fingerprint"]
    read = pipeline.Manifest.read("runs/before/manifests/6bb66eb8c6ac.parquet")
    manifest = pipeline.index(recipe)
    assert (read.digest, manifest.digest) == (before["manifest"],) * 2
    stored = Path("runs/before/statistics/6bb66eb8c6ac.json").read_bytes()
    statistics = compute.cached(recipe, manifest)
    assert json.loads(json.dumps(statistics.to_json())) == before["statistics"]
    assert Path("runs/before/statistics/6bb66eb8c6ac.json").read_bytes() == stored, "they were made again"
    assert json.loads(json.dumps(compute.compute(manifest, recipe.data).to_json())) == before["statistics"]
    plan = plan_of(recipe, manifest, statistics)
    assert [[r.scene, list(r.window)] for r in map(plan.order.chip, range(40))] == before["order"]


def test_a_training_goes_on_from_checkpoint_and_shards(
    before: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = pipeline.load("recipe.yaml")
    manifest = pipeline.index(recipe)
    caplog.set_level("INFO")
    shards = sorted(Path("runs/before/shards").rglob("*"))
    bundle = fit(recipe)
    assert "going on at step 3 of 6" in caplog.text
    assert sorted(Path("runs/before/shards").rglob("*")) == shards
    lines = Path(run_uri_of(recipe, manifest), "metrics.jsonl").read_text().splitlines()
    losses = {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}
    for step, loss in before["losses"]:
        assert losses[step] == pytest.approx(loss, rel=1e-5), step
    assert bundle.weights_sha256 == before["weights"] or losses[6] != dict(before["losses"])[6]  # other processors


def test_a_bundle_predicts_the_same(before: dict[str, Any], tmp_path: Path) -> None:
    bundle = pipeline.pull("pyfunc/artifacts/bundle")
    assert bundle.weights_sha256 == before["weights"]
    with torch.inference_mode():
        logits = bundle.network(torch.from_numpy(image())).flatten()[::97]
    np.testing.assert_allclose(logits, before["logits"], rtol=1e-4, atol=1e-5)
    (target,) = pipeline.predict(bundle, "scenes/images/s5.tif", str(tmp_path / "maps"))
    with rasterio.open(target) as raster:
        assert (raster.read(1) == np.load(FILES / "expected_map.npy")).mean() > 0.999


def test_a_registered_version_is_served_the_same(before: dict[str, Any]) -> None:
    """The file inside it imports this package by the names of then."""
    model = mlflow.pyfunc.load_model("pyfunc")
    served = model.predict(np.moveaxis(image(), 1, -1)).flatten()[::13]
    assert (served == before["served"]).mean() > 0.99


@pytest.mark.parametrize(
    "line",
    [
        "from pipeline.data.classes import IGNORE",
        "from pipeline.data.readers.values import not_nodata",
        "from pipeline.data.statistics import scene_values; scene_values.whole",
        "from pipeline.data import scene_values; scene_values.whole",
        "from pipeline.data.windows import Window",
        "from pipeline.model import blend, bundle; blend.stream, bundle.load",
        "from pipeline.metrics import predict_classes",
        "from pipeline.model.metrics import predict_classes",
    ],
)
def test_imports_of_all_served_files_are_found(line: str) -> None:
    """Every import that the file inside model versions has ever had, each in a process of its own."""
    subprocess.run([sys.executable, "-c", line], check=True, timeout=120)


def test_an_old_name_is_the_same_object() -> None:
    from pipeline.data.labels.classes import Classes

    old = importlib.import_module("pipeline.data.classes")
    assert old.Classes is Classes
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pipeline.data.cutting")
