"""What cannot be read while a recipe tolerates it: counted over the whole run, and named wherever its results are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from mlflow import MlflowClient

from pipeline import log, store
from pipeline.__main__ import main as segpipe
from pipeline.data.chips import quarantine
from pipeline.data.chips.quarantine import NONE, LeftOut
from pipeline.data.chips.statistics import compute
from pipeline.data.feed.planning import plan_of
from pipeline.data.scenes.index import current
from pipeline.errors import SceneError
from pipeline.evaluation import report
from pipeline.evaluation.evaluate import evaluate
from pipeline.recipe import Recipe
from pipeline.registry.server import tracking_uri
from pipeline.train import checkpoint
from pipeline.train.fit import fit, run_uri_of
from pipeline.world import World
from tests.factory import QUICK, recipe_for, world, write_raster

ROOT = Path(__file__).parents[2]
SETTINGS = QUICK | {
    "seed": 8,  # by which chips of s1 are drawn before and after the checkpoint
    "train.steps": 8,
    "train.global_batch": 4,
    "train.checkpoint_every": 4,
    "train.log_every": 3,
    "train.validate_every": 2,
    "data.on_error": {"kind": "quarantine", "max": 40},
}
LOST = ("s1", "s4")
"""A scene of the train split, and one of two of the val split."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world that was indexed and measured while it was whole; two images are gone since."""
    folder = world(tmp_path_factory.mktemp("scenes"), scenes=12)
    recipe = recipe_in(folder, folder / "runs")
    compute.cached(recipe, current(recipe))
    for name in LOST:
        (folder / f"images/{name}.tif").unlink()
    return folder


def recipe_in(scenes: Path, output: Path, **changes: Any) -> Recipe:
    return recipe_for(scenes, **{**SETTINGS, "compute.output": str(output), **changes})


def prepared(scenes: Path, output: Path, **changes: Any) -> Recipe:
    """A recipe with an output of its own, in which the manifest of the whole world is."""
    shutil.copytree(scenes / "runs/tiny", output / "tiny", ignore=shutil.ignore_patterns("runs"))
    return recipe_in(scenes, output, **changes)


def expected(recipe: Recipe) -> tuple[list[tuple[int, str, Any]], list[tuple[str, Any]]]:
    """Chips of the lost train scene in their order, each window once; windows of 32 of the val scene of 96²."""
    manifest = current(recipe)
    plan = plan_of(recipe, manifest, compute.cached(recipe, manifest))
    refs = [plan.order.chip(n) for n in range(recipe.train.steps * recipe.train.global_batch)]
    chips = [(r.number, "s1", r.window) for r in refs if plan.scenes[r.scene].id == "s1"]
    assert len({window for *_, window in chips}) == len(chips) > 2
    assert chips[0][0] < 4 * 4 <= chips[-1][0], "of this seed no chip is lost on each side of the checkpoint"
    return chips, [("s4", (row, col, 32, 32, 0)) for row in (0, 32, 64) for col in (0, 32, 64)]


def left_out(recipe: Recipe) -> LeftOut:
    return quarantine.read(run_uri_of(recipe, current(recipe)))


def assert_complete(recipe: Recipe, found: LeftOut) -> None:
    chips, windows = expected(recipe)
    assert [(w.number, w.scene, w.window) for w in found.windows if w.number != NONE] == chips
    assert [(w.scene, tuple(w.window)) for w in found.windows if w.number == NONE] == windows
    assert all(f"{w.scene}.tif: no such file" in w.reason for w in found.windows)


# ---- training; this file is also the program that torchrun starts ----


def main(scenes: str, output: str, most: str) -> None:
    """`fit` by one of several ranks."""
    log.setup(rank=World.detect().rank)
    fit(recipe_in(Path(scenes), Path(output), **{"data.on_error": {"kind": "quarantine", "max": int(most)}}))


def on_two_ranks(recipe: Recipe) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [recipe.data.root, recipe.compute.output, str(quarantine.limit(recipe.data))]
    command = [*launcher, "-m", "tests.train.test_left_out", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def alone(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Trained in one process."""
    recipe = prepared(scenes, tmp_path_factory.mktemp("alone"))
    fit(recipe)
    return recipe


def test_a_run_keeps_what_it_left_out(alone: Recipe) -> None:
    assert_complete(alone, left_out(alone))


def test_two_ranks_keep_the_same_and_say_each_once(alone: Recipe, scenes: Path, tmp_path: Path) -> None:
    recipe = prepared(scenes, tmp_path)
    done = on_two_ranks(recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert left_out(recipe) == left_out(alone)
    assert done.stderr.count("left out: scene") == len(left_out(alone).windows)


class Stop:
    """A host that interrupts after a step."""

    def report(self, step: int, metrics: dict[str, float]) -> None:
        if step == 6:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_what_it_knew(alone: Recipe, scenes: Path, tmp_path: Path) -> None:
    """Also on another number of ranks."""
    recipe = prepared(scenes, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, host=Stop())
    run = run_uri_of(recipe, current(recipe))
    assert checkpoint.start_of(run) == 4
    assert not store.exists(f"{run}/{quarantine.FILE}")
    again = on_two_ranks(recipe)
    assert again.returncode == 0, again.stderr[-3000:]
    assert left_out(recipe) == left_out(alone)
    later = [w for w in left_out(alone).windows if w.number >= 4 * 4]
    assert again.stderr.count("left out: scene") == len(later) > 0


def too_many(scenes: Path, output: Path, alone: Recipe) -> tuple[Recipe, str]:
    """A recipe that tolerates one window less than fail, and the begin of what it then says."""
    most = len(left_out(alone).windows) - 1
    recipe = prepared(scenes, output, **{"data.on_error": {"kind": "quarantine", "max": most}})
    return recipe, f"{most + 1} windows could not be read, more than data.on_error allows ({most})"


def test_the_limit_holds(alone: Recipe, scenes: Path, tmp_path: Path) -> None:
    recipe, message = too_many(scenes, tmp_path, alone)
    with pytest.raises(SceneError) as caught:
        fit(recipe)
    assert message in caught.value.message


@pytest.mark.slow
def test_the_limit_holds_for_all_ranks_together(alone: Recipe, scenes: Path, tmp_path: Path) -> None:
    """Neither rank meets so many alone."""
    recipe, message = too_many(scenes, tmp_path, alone)
    done = on_two_ranks(recipe)
    assert done.returncode != 0
    assert message in done.stderr
    assert checkpoint.start_of(run_uri_of(recipe, current(recipe))) == 4  # the rest is met after that


def test_without_tolerance_validation_fails(scenes: Path, tmp_path: Path) -> None:
    recipe = prepared(scenes, tmp_path, **{"data.on_error": "fail", "data.sampling.epoch_size": 4, "seed": 3})
    with pytest.raises(SceneError, match=r"s[14]\.tif: no such file"):
        fit(recipe)


@pytest.mark.slow
@pytest.mark.ray
def test_workers_of_ray_keep_the_same(ray_cluster: None, alone: Recipe, scenes: Path, tmp_path: Path) -> None:
    changes = {"compute.runner": "ray", "compute.feed": "ray", "compute.num_workers": 2, "compute.block_batches": 2}
    recipe = prepared(scenes, tmp_path, **changes)
    fit(recipe)
    assert left_out(recipe) == left_out(alone)


def test_the_command_line_and_mlflow_name_it(
    alone: Recipe, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = prepared(scenes, tmp_path, **{"compute.tracking_uri": None})
    path = tmp_path / "recipe.json"
    path.write_text(recipe.model_dump_json())
    assert segpipe(["train", str(path)]) == 0
    printed = capsys.readouterr().out
    for line in left_out(alone).lines:
        assert f"left out: {line}" in printed
    run = json.loads(Path(run_uri_of(recipe, current(recipe)), "mlflow.json").read_text())["run_id"]
    client = MlflowClient(tracking_uri(recipe))
    kept = client.download_artifacts(run, quarantine.FILE, str(tmp_path))
    assert LeftOut.from_json(json.loads(Path(kept).read_text())) == left_out(alone)


# ---- evaluation ----


def test_the_report_names_what_training_left_out(alone: Recipe) -> None:
    found = evaluate(alone, f"{run_uri_of(alone, current(alone))}/bundle")
    assert found.left_out == LeftOut()
    assert found.left_out_of_training == left_out(alone)
    assert report.read(found.uri) == found
    page = Path(found.uri, report.HTML_NAME).read_text()
    assert "Left out" in page
    assert page.count("<td>in training</td>") == len(left_out(alone).windows)


def split_tile(path: Path, row: int, col: int) -> None:
    """Overwrite the middle of a 64² tile's compressed bytes."""
    with rasterio.open(path) as source:
        offset, size = (
            int(source.get_tag_item(f"BLOCK_{kind}_{col}_{row}", "TIFF", bidx=1)) for kind in ("OFFSET", "SIZE")
        )
    content = bytearray(path.read_bytes())
    content[offset + size // 4 : offset + size] = bytes(size - size // 4)
    path.write_bytes(content)


@pytest.fixture
def damaged(alone: Recipe, tmp_path: Path) -> Recipe:
    """One scene of six tiles to judge, of which one cannot be read: neither the first, nor the middle, nor the last."""
    source = np.random.default_rng(0)
    for kind, pixels in (
        ("images", source.integers(1, 255, (3, 128, 192)).astype(np.uint8)),
        ("masks", source.integers(0, 2, (128, 192)).astype(np.uint8)),
    ):
        tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
        write_raster(tmp_path / f"{kind}/a.tif", pixels, **tiled)
    split_tile(tmp_path / "images/a.tif", 0, 2)
    (tmp_path / "splits.csv").write_text("id,split,group\na,test,g\n")
    changes = {"predict.overlap": 0.0, "predict.window": 64, "compute.output": str(tmp_path / "runs")}
    return recipe_in(tmp_path, tmp_path / "runs", **changes)


def test_a_window_that_cannot_be_judged_is_named_and_not_counted(alone: Recipe, damaged: Recipe) -> None:
    found = evaluate(damaged, f"{run_uri_of(alone, current(alone))}/bundle", manifest=current(damaged))
    ((window),) = found.left_out.windows
    assert (window.scene, window.number, tuple(window.window)) == ("a", NONE, (0, 128, 64, 64, 0))
    assert found.num_pixels == 5 * 64 * 64
    assert np.array_equal(found.confusion, by_hand(alone, Path(damaged.data.root), lost=(0, 128)))
    assert "<td>row 0, column 128</td>" in Path(found.uri, report.HTML_NAME).read_text()
    assert report.read(found.uri).left_out == found.left_out


def test_without_tolerance_evaluation_fails(alone: Recipe, damaged: Recipe) -> None:
    manifest = current(damaged)
    strict = recipe_in(Path(damaged.data.root), Path(damaged.compute.output), **{"data.on_error": "fail"})
    with pytest.raises(SceneError, match=r"a\.tif"):
        evaluate(strict, f"{run_uri_of(alone, current(alone))}/bundle", manifest=manifest)


def test_a_label_that_cannot_be_read_is_left_out_too(alone: Recipe, damaged: Recipe) -> None:
    manifest = current(damaged)
    split_tile(Path(damaged.data.root, "masks/a.tif"), 1, 0)
    found = evaluate(damaged, f"{run_uri_of(alone, current(alone))}/bundle", manifest=manifest)
    assert [tuple(w.window) for w in found.left_out.windows] == [(0, 128, 64, 64, 0), (64, 0, 64, 192, 0)]
    assert found.num_pixels == 2 * 64 * 64


def by_hand(trained: Recipe, folder: Path, lost: tuple[int, int]) -> np.ndarray:
    """Confusion [2, 2] of windows of 64², one by one, without the lost one."""
    from pipeline.model import bundle as bundles

    bundle = bundles.load(f"{run_uri_of(trained, current(trained))}/bundle")
    counts = np.zeros((2, 2), np.int64)
    with rasterio.open(folder / "masks/a.tif") as source:
        labels = source.read(1)
    with rasterio.open(folder / "images/a.tif") as source:
        for row, col in ((r, c) for r in (0, 64) for c in (0, 64, 128) if (r, c) != lost):
            pixels = source.read(window=((row, row + 64), (col, col + 64)))
            with torch.inference_mode():
                found = bundle.network(torch.from_numpy(pixels)[None])[0].numpy().argmax(0)
            np.add.at(counts, (labels[row : row + 64, col : col + 64].ravel(), found.ravel()), 1)
    return counts


if __name__ == "__main__":
    main(*sys.argv[1:])
