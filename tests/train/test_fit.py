import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import log, store
from pipeline import recipe as recipes
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import ManifestError, OutputExists, RecipeError, TrackingError
from pipeline.model import bundle
from pipeline.recipe import Recipe
from pipeline.train import checkpoint
from pipeline.train.fit import fit, run_uri_of
from pipeline.world import World
from tests.factory import recipe_for, world

ROOT = Path(__file__).parents[2]
NOWHERE = {"compute.tracking_uri": "http://127.0.0.1:9", "compute.tracking_required": False}
GROUPS = {"model.encoder": "convnext_atto", "model.norm": "group", "model.decoder_channels": [16, 8, 8, 8, 8]}
# Written down once; they change only if what is computed does.
GOLDEN = [
    2.518825,
    2.852909,
    2.537061,
    2.206629,
    1.678586,
    2.328767,
    2.328511,
    2.057649,
    2.093303,
    1.912575,
    1.605134,
    1.553482,
    1.666971,
    1.520712,
    1.437177,
    1.418736,
    1.213056,
    1.574518,
    1.191624,
    1.192234,
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = world(tmp_path_factory.mktemp("scenes"))
    current(recipe_for(folder))
    return folder


def recipe_in(scenes: Path, output: Path, **overrides) -> Recipe:
    """The same scenes for all tests, an output for each."""
    return recipe_for(scenes, **{**NOWHERE, **GROUPS, "compute.output": str(output), **overrides})


def rows(bundle_: bundle.Bundle | str) -> list[dict]:
    """Recorded metrics without what depends on the clock."""
    uri = bundle_ if isinstance(bundle_, str) else str(Path(bundle_.uri).parent)
    text = Path(uri, "metrics.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("time", "chips_per_second")}
        for line in text.splitlines()
    ]


def losses(bundle_: bundle.Bundle | str) -> list[float]:
    return [row["loss"] for row in rows(bundle_) if "loss" in row]


class StopAt:
    """A host that is interrupted at its first report from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def report(self, step: int, metrics: dict[str, float]) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def test_the_losses_are_the_golden_ones(scenes, tmp_path):
    # A low rate: Adam makes rounding grow, and other processors round otherwise.
    options = {"train.steps": 20, "train.checkpoint_every": 20, "train.optimizer.lr": 2e-4}
    recipe = recipe_in(scenes, tmp_path, **options)
    found = current(recipe)
    # The order depends on the digest, and that on the files' bytes, which another GDAL may compress differently. It is
    # that of a manifest of version 3, which still gives the losses that it gave.
    rows_ = [replace(scene, stamp=scene.id) for scene in found.scenes]
    manifest = Manifest.of(rows_, found.bands, found.dtype, found.classes, found.data, version=3)
    made = fit(recipe, manifest=manifest)
    assert losses(made) == pytest.approx(GOLDEN, rel=1e-4)


def test_a_bundle_knows_where_it_comes_from(scenes, tmp_path):
    recipe = recipe_in(scenes, tmp_path)
    made = fit(recipe)
    assert made.uri == run_uri_of(recipe, current(recipe)) + "/bundle"
    again = bundle.load(made.uri)
    assert again.fingerprint == recipe.fingerprint
    assert again.manifest_digest == current(recipe).digest
    assert again.step == 4
    assert again.classes.names == ("ground", "disc")
    assert 0 < again.scores["miou"] < 1
    assert again.run_id is None
    assert Recipe.model_validate(again.recipe).fingerprint == recipe.fingerprint
    assert rows(made)[-1]["val.miou"] == again.scores["miou"]
    logits = again.network(torch.zeros(1, 3, 50, 70, dtype=torch.uint8))
    assert logits.shape == (1, 2, 50, 70)


def test_heads_that_help_learn_along_and_the_bundle_predicts_without_them(scenes, tmp_path):
    helped = {
        "model.kind": "unetplusplus",
        "model.deep_supervision": 0.5,
        "model.auxiliary": {"stage": -1, "channels": 8},
        "model.aux": {"weight": 0.1},
    }
    made = fit(recipe_in(scenes, tmp_path, **helped))
    first, last = rows(made)[0], rows(made)[-1]
    terms = ("cross_entropy", "dice")
    extra = [f"loss.auxiliary_{n}.{term}" for n in (1, 2, 3, 4) for term in terms]
    assert {"loss.labels", *extra} <= first.keys()
    # The weights: deep supervision shared by three nodes, the head on a stage, the head for labels.
    shares = {"": 1.0, **{f"auxiliary_{n}.": 0.5 / 3 for n in (1, 2, 3)}, "auxiliary_4.": 0.4}
    total = sum(w * first[f"loss.{name}{term}"] for name, w in shares.items() for term in terms)
    assert first["loss"] == pytest.approx(total + 0.1 * first["loss.labels"], rel=1e-5)
    assert 0 < last["val.miou"] < 1
    assert bundle.load(made.uri).network(torch.zeros(1, 3, 50, 70)).shape == (1, 2, 50, 70)


def test_a_finished_run_is_not_repeated_unless_told(scenes, tmp_path):
    recipe = recipe_in(scenes, tmp_path, **{"train.steps": 2})
    first = fit(recipe)
    with pytest.raises(OutputExists, match="has been trained on these data") as caught:
        fit(recipe)
    assert first.uri in caught.value.message
    assert "--overwrite" in caught.value.hint
    second = fit(recipe, overwrite=True)
    assert second.weights_sha256 == first.weights_sha256  # equal to the bit, in one process
    other = fit(recipes.replace(recipe, {"seed": 1}))
    assert other.weights_sha256 != first.weights_sha256


def test_an_interrupted_run_goes_on_where_it_was(scenes, tmp_path):
    options = {"train.steps": 6, "train.ema": 0.9, "train.log_every": 4}
    whole = fit(recipe_in(scenes, tmp_path / "whole", **options))
    recipe = recipe_in(scenes, tmp_path / "broken", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, host=StopAt(4))
    run = run_uri_of(recipe, current(recipe))
    assert checkpoint.start_of(run) == 4
    with pytest.raises(bundle.BundleError):
        bundle.load(f"{run}/bundle")
    steps = []
    resumed = fit(recipe, progress=lambda done, total, note="": steps.append((done, total)))
    assert rows(resumed) == rows(whole)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert steps[-1] == (6, 6)


def test_overwrite_begins_an_unfinished_run_again(scenes, tmp_path, caplog):
    recipe = recipe_in(scenes, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, host=StopAt(2))
    with caplog.at_level(logging.INFO, "pipeline"):
        fit(recipe, overwrite=True)
    assert "going on at step" not in caplog.text


def test_killed_while_the_bundle_was_missing_it_only_writes_the_bundle(scenes, tmp_path):
    recipe = recipe_in(scenes, tmp_path)
    first = fit(recipe)
    for path in Path(first.uri).iterdir():
        path.unlink()
    second = fit(recipe)
    assert (second.weights_sha256, second.scores) == (first.weights_sha256, first.scores)
    assert rows(second) == rows(first)


def test_a_run_in_a_bucket_goes_on_too(scenes, s3_server):
    recipe = recipe_in(scenes, Path("x"), **{"compute.output": s3_server.uri("runs"), "train.ema": 0.9})
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, host=StopAt(2))
    made = fit(recipe)
    assert made.uri.startswith("s3://")
    recorded = store.read_bytes(made.uri.replace("/bundle", "/metrics.jsonl")).decode().splitlines()
    assert [json.loads(line)["step"] for line in recorded if "loss" in json.loads(line)] == [1, 2, 3, 4]
    with pytest.raises(OutputExists):
        fit(recipe)


def test_without_a_val_split_there_are_no_scores(tmp_path):
    folder = world(tmp_path, scenes=2)
    made = fit(recipe_for(folder, **NOWHERE, **{"train.steps": 1}))
    assert made.scores == {}
    assert losses(made)


def test_secrets_stay_out_of_what_is_written(scenes, tmp_path):
    secret = {"compute.tracking_uri": "http://someone:hunter2@127.0.0.1:9"}
    made = fit(recipe_in(scenes, tmp_path, **secret, **{"train.steps": 1}))
    run = Path(made.uri).parent
    files = [p for p in run.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl")]
    assert len(files) >= 4
    assert not [p for p in files if "hunter2" in p.read_text()]


# ---- what is wrong is said before anything is trained ----


def test_an_mlflow_server_that_is_down_stops_the_start(scenes, tmp_path):
    recipe = recipe_in(scenes, tmp_path, **{"compute.tracking_required": True})
    began = time.monotonic()
    with pytest.raises(TrackingError, match="does not answer"):
        fit(recipe)
    assert time.monotonic() - began < 20
    assert not list(tmp_path.rglob("checkpoints"))


def test_an_empty_train_split_names_the_others(tmp_path):
    folder = world(tmp_path, scenes=2)
    (folder / "splits.csv").write_text("id,split,group\ns0,test,north\ns1,test,south\n")
    with pytest.raises(ManifestError, match=r"'train' is empty; there are test \(2 scenes\)"):
        fit(recipe_for(folder, **NOWHERE))


def test_cuda_without_a_gpu(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="torch sees no GPU"):
        fit(recipe_in(scenes, tmp_path, **{"compute.device": "cuda"}))


def test_workers_that_one_process_does_not_have_are_mentioned(scenes, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "pipeline"):
        fit(recipe_in(scenes, tmp_path, **{"compute.num_workers": 2, "train.steps": 1}))
    assert "compute.num_workers 2 has no effect" in caplog.text


# ---- the same command again, after kill -9; this file is also that command ----

# Of another seed a first chip can be mostly invalid. Layer norms have a variance of 0 at such pixels and make 1e9 of
# rounding, so that the order in which ranks add up would be seen.
KILLABLE = {"seed": 1, "train.steps": 6, "train.validate_every": 1}  # a checkpoint every two steps, a report at each


def main(scenes: str, output: str, die_at: str) -> None:
    """`fit`, that kills its own processes with SIGKILL after a step."""
    recipe = recipe_in(Path(scenes), Path(output), **KILLABLE)

    log.setup(rank=World.detect().rank)

    class Die:
        def report(self, step: int, metrics: dict[str, float]) -> None:
            if step == int(die_at):
                os.kill(os.getpid(), signal.SIGKILL)

    fit(recipe, host=Die())


def start(ranks: int, scenes: Path, output: Path, die_at: int = -1) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, "-m", "tests.train.test_fit", str(scenes), str(output), str(die_at)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def unbroken(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(fit(recipe_in(scenes, tmp_path_factory.mktemp("unbroken"), **KILLABLE)))


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_between_checkpoints_and_typed_again(scenes, tmp_path, unbroken, ranks):
    recipe = recipe_in(scenes, tmp_path, **KILLABLE)
    killed = start(ranks, scenes, tmp_path, die_at=5)
    assert killed.returncode != 0
    run = run_uri_of(recipe, current(recipe))
    assert checkpoint.start_of(run) == 4, killed.stderr[-3000:]
    again = start(1, scenes, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "going on at step 4 of 6" in again.stderr
    assert losses(run) == pytest.approx(unbroken, abs=1e-5)


def test_an_error_of_the_leader_ends_all_ranks(scenes, tmp_path):
    finished = recipe_in(scenes, tmp_path, **KILLABLE)
    run = run_uri_of(finished, current(finished))
    store.write_json(f"{run}/bundle/bundle.json", {})
    done = start(2, scenes, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("pipeline.errors.OutputExists: ") >= 1, done.stderr[-3000:]


def test_two_ranks_under_torchrun_have_the_losses_of_one(scenes, tmp_path, unbroken):
    finished = start(2, scenes, tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    recipe = recipe_in(scenes, tmp_path, **KILLABLE)
    assert losses(run_uri_of(recipe, current(recipe))) == pytest.approx(unbroken, abs=1e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
