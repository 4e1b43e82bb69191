"""evaluate: the counts are those of an independent count over whole scenes, and what cannot be judged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from pipeline import metrics
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import starts
from pipeline.data.scenes.index import index
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import BundleError, ManifestError, OutputExists, SceneError
from pipeline.evaluation import report
from pipeline.evaluation.evaluate import evaluate, report_uri
from pipeline.evaluation.gallery import Gallery, window_score
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle
from pipeline.model.networks import build
from pipeline.recipe import Recipe, replace
from tests.factory import make_scene, recipe_for, world


def make_bundle(
    where: Path, recipe: Recipe, manifest: Manifest, *, seed: int = 0, always: tuple[float, ...] | None = None
) -> Bundle:
    """A bundle with random weights, or one whose logits are `always` these."""
    torch.manual_seed(seed)
    network = build(recipe.model, len(manifest.bands), len(manifest.classes))
    if always is not None:
        *_, last = [m for m in network.head.modules() if isinstance(m, torch.nn.Conv2d)]
        torch.nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor(always)
    statistics = Statistics(1, *((value,) * len(manifest.bands) for value in (90.0, 30.0, 0.0, 255.0)), (1, 1))
    network.set_statistics(statistics.mean, statistics.std)
    return bundles.save(
        where,
        network,
        model=recipe.model,
        classes=manifest.classes,
        bands=manifest.bands,
        dtype=manifest.dtype,
        statistics=statistics,
        predict=recipe.predict,
        recipe=recipe.model_dump(mode="json"),
        fingerprint=recipe.fingerprint,
        manifest_digest=manifest.digest,
        step=4,
        scores={},
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Manifest, Bundle]:
    """Twelve scenes, of which two are the test split; random weights."""
    folder = world(tmp_path_factory.mktemp("small"), scenes=12)
    recipe = recipe_for(folder, **{"evaluate.examples": 2, "predict.window": 128})
    manifest = index(recipe)
    return recipe, manifest, make_bundle(folder / "bundle", recipe, manifest)


def by_hand(bundle: Bundle, scene: Scene) -> np.ndarray:
    """Confusion [2,2] of one scene by one forward pass over the whole of it, rasterio and numpy."""
    with rasterio.open(scene.image) as image, rasterio.open(scene.label) as label:
        pixels, valid, truth = image.read(), image.dataset_mask() > 0, label.read(1)
    rows, cols = scene.height, scene.width
    inputs = np.broadcast_to(np.array(bundle.statistics.fill)[:, None, None], (len(pixels), 128, 128)).copy()
    inputs[:, :rows, :cols] = np.where(valid, pixels, inputs[:, :rows, :cols])
    with torch.inference_mode():
        logits = bundle.network(torch.from_numpy(inputs).float()[None])[0, :, :rows, :cols]
    found = logits.numpy().argmax(0)
    return np.array([[(valid & (truth == t) & (found == p)).sum() for p in (0, 1)] for t in (0, 1)])


def test_counts_are_those_of_an_independent_count(small, tmp_path):
    recipe, manifest, bundle = small
    found = evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path / "report"))
    scenes = manifest.split("test")
    assert [s.id for s in found.scenes] == [s.id for s in scenes] and len(scenes) == 2
    expected = [by_hand(bundle, scene) for scene in scenes]
    for scene, counts in zip(found.scenes, expected, strict=True):
        assert np.abs(np.array(scene.confusion) - counts).max() <= 2, "more than a tie"
    assert (np.array(found.confusion) == sum(np.array(s.confusion) for s in found.scenes)).all()
    total = np.array(found.confusion)
    assert total.min() > 0, "a network that predicts one class alone would make this test blind"
    corner = 48 * 24
    assert found.num_pixels == 2 * (96 * 96 - corner), "nodata was judged"
    disc = total[1, 1] / (total[1].sum() + total[:, 1].sum() - total[1, 1])
    assert found.scores["iou.disc"] == pytest.approx(disc)


def test_what_was_not_measured_is_neither_judged_nor_pictured(small, tmp_path):
    """Nodata by the recipe alone: the file does not know it."""
    _, _, bundle = small
    pixels = np.random.default_rng(0).integers(50, 90, (3, 64, 96)).astype(np.uint8)
    pixels[:, :, :60] = 7
    for name in "ab":
        make_scene(tmp_path, name, pixels=pixels)
    (tmp_path / "splits.csv").write_text("id,split\na,train\nb,test\n")
    recipe = recipe_for(tmp_path, **{"data.nodata": 7, "evaluate.examples": 9})
    found = evaluate(recipe, bundle, manifest=index(recipe))
    assert found.num_pixels == 64 * 36
    assert {(e.window.row, e.window.col) for e in found.examples} == {(0, 64), (32, 64)}


def test_windows_that_are_smaller_than_the_scene_give_nearly_the_same_counts(small, tmp_path):
    recipe, manifest, bundle = small
    whole = evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path / "whole"))
    recipe = replace(recipe, {"predict.window": 64, "predict.batch": 3})
    parts = evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path / "parts"))
    assert parts.num_pixels == whole.num_pixels
    assert parts.predict["window"] == 64 and whole.predict["window"] == 128


def test_scores_of_groups_are_those_of_their_scenes(small, tmp_path):
    recipe, manifest, bundle = small
    found = evaluate(recipe, bundle, manifest=manifest, split="train", out=str(tmp_path / "report"))
    assert set(found.groups) == {"north", "south"}
    for group, scores in found.groups.items():
        counts = sum(torch.tensor(s.confusion) for s in found.scenes if s.group == group)
        assert scores == metrics.scores(counts, ("ground", "disc"))


def test_the_report_is_written_where_the_record_says_and_can_be_read(small):
    recipe, manifest, bundle = small
    found = evaluate(recipe, bundle.uri)
    assert found.uri == report_uri(recipe, bundle, manifest, "test")
    assert found.uri.endswith(f"runs/tiny/reports/{bundle.digest}-test-{manifest.digest[:8]}")
    assert report.read(found.uri).to_json() == found.to_json()
    assert (found.bundle_digest, found.manifest_digest) == (bundle.digest, manifest.digest)
    assert found.fingerprint == recipe.fingerprint and found.step == 4
    assert "compute" not in found.recipe and found.recipe["data"]["root"] == recipe.data.root
    page = (Path(found.uri) / "report.html").read_text()
    assert page.count('<img class="hatch"') == 4 * len(found.examples) == 16


def test_an_existing_report_is_refused_before_anything_is_computed(small, tmp_path):
    recipe, manifest, bundle = small
    out = str(tmp_path / "report")
    first = evaluate(recipe, bundle, manifest=manifest, out=out)
    (Path(bundle.uri) / "weights.safetensors").rename(tmp_path / "weights")  # computing anything would fail
    try:
        with pytest.raises(OutputExists, match=r"there is a report already\n  -> pass --overwrite"):
            evaluate(recipe, bundle, manifest=manifest, out=out)
    finally:
        (tmp_path / "weights").rename(Path(bundle.uri) / "weights.safetensors")
    again = evaluate(recipe, bundle, manifest=manifest, out=out, overwrite=True)
    assert again.confusion == first.confusion and again.split_digest == first.split_digest


def test_curves_come_from_the_run_that_the_bundle_lies_in(small, tmp_path):
    recipe, manifest, _ = small
    run = tmp_path / "run"
    bundle = make_bundle(run / "bundle", recipe, manifest)
    lines = [json.dumps({"step": s, "time": 1, "loss": 1 / (s + 1), "val.miou": None}) for s in range(5)]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 5, "lo']))
    found = evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path / "report"))
    assert found.curves == tuple({"step": s, "loss": 1 / (s + 1)} for s in range(5))
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()


def test_progress_counts_scenes(small, tmp_path):
    recipe, manifest, bundle = small
    seen = []
    evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path), progress=lambda *a, **k: seen.append(a[:2]))
    assert seen[0] == (0, 2) and seen[-1] == (2, 2) and (1, 2) in seen


def test_other_bands_are_refused_with_both(small, tmp_path):
    _, _, bundle = small
    rgbn = world(tmp_path / "rgbn", bands=4)
    other = recipe_for(rgbn)
    with pytest.raises(SceneError, match=r"the scenes have 4 bands \(band_1.*was trained on 3 \(band_1"):
        evaluate(other, bundle, manifest=index(other), out=str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_other_classes_are_refused_with_both(small, tmp_path):
    recipe, _, bundle = small
    other = replace(recipe, {"data.classes.1.name": "blob", "compute.output": str(tmp_path / "runs")})
    with pytest.raises(BundleError, match="predicts the classes ground, disc; the recipe has ground, blob"):
        evaluate(other, bundle, manifest=index(other), out=str(tmp_path / "report"))


def test_scenes_without_a_label_are_refused_by_name(small, tmp_path):
    recipe, _, bundle = small
    bare = replace(recipe, {"data.labels": None, "compute.output": str(tmp_path / "runs")})
    with pytest.raises(ManifestError, match="2 of 2 scenes of the split have no label: s11, s5"):
        evaluate(bare, bundle, manifest=index(bare), out=str(tmp_path / "report"))


def test_an_empty_split_is_refused(small, tmp_path):
    recipe, _, bundle = small
    rows = (Path(recipe.data.root) / "splits.csv").read_text().replace(",test,", ",train,")
    (tmp_path / "other.csv").write_text(rows)
    moved = replace(recipe, {"data.split.path": str(tmp_path / "other.csv"), "compute.output": str(tmp_path / "runs")})
    with pytest.raises(ManifestError, match="test"):
        evaluate(moved, bundle, manifest=index(moved), out=str(tmp_path / "report"))


def test_a_split_without_a_labelled_pixel_is_refused(small, tmp_path):
    for name in "ab":
        label = np.full((64, 64), 9 if name == "b" else 0, np.uint8)
        make_scene(tmp_path, name, label=label)
    (tmp_path / "splits.csv").write_text("id,split\na,train\nb,test\n")
    recipe = recipe_for(tmp_path, **{"data.ignore_values": [9]})
    _, _, bundle = small
    with pytest.raises(ManifestError, match="the 1 scenes of the test split have no labelled pixel"):
        evaluate(recipe, bundle, manifest=index(recipe), out=str(tmp_path / "report"))


def scene_of(height: int, width: int, name: str = "a") -> Scene:
    return Scene(name, "", None, "test", name, height, width, None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "", ())


@pytest.mark.parametrize(("height", "width"), [(100, 70), (64, 64), (20, 33), (130, 32)])
def test_the_gallery_holds_the_best_and_worst_of_all_windows(height, width):
    rng = np.random.default_rng(height)
    truth = rng.integers(0, 3, (height, width)).astype(np.uint8)
    wrong = rng.random((height, width)) < np.linspace(0, 1, width)
    prediction = np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8)
    truth[:3] = IGNORE
    gallery = Gallery(1, 32, 3)
    gallery.begin(scene_of(height, width))
    for first in range(0, height, 7):
        gallery.add(truth[first : first + 7], prediction[first : first + 7])
    best, worst = gallery.chosen()
    scores = {}
    for row in starts(height, 32):
        for col in starts(width, 32):
            here = (slice(row, row + 32), slice(col, col + 32))
            counts = metrics.confusion(torch.tensor(prediction[here]), torch.tensor(truth[here]), 3)
            scores[row, col] = window_score(counts.numpy())[0]
    assert best[0].miou == pytest.approx(max(scores.values()))
    assert (best[0].truth == truth[best[0].window.row :, best[0].window.col :][:32, :32]).all()
    if len(scores) > 1:
        assert worst[0].miou == pytest.approx(min(scores.values()))
        assert (worst[0].window.row, worst[0].window.col) == min(scores, key=scores.get)
        assert worst[0].window != best[0].window


def test_a_window_that_is_mostly_unlabelled_is_not_pictured():
    gallery = Gallery(3, 32, 2)
    gallery.begin(scene_of(32, 64))
    truth = np.zeros((32, 64), np.uint8)
    truth[:, :17] = IGNORE
    gallery.add(truth, np.zeros((32, 64), np.uint8))
    best, worst = gallery.chosen()
    assert [c.window.col for c in (*best, *worst)] == [32]


def test_a_few_pixels_of_another_class_do_not_make_a_window_the_worst():
    miou, error_share, mixed = window_score(np.array([[9990, 0], [10, 0]]))
    assert (round(miou, 4), round(error_share, 4), mixed) == (0.999, 0.001, False)
    miou, error_share, mixed = window_score(np.array([[5000, 0], [2500, 2500]]))
    assert (round(miou, 4), error_share, mixed) == (0.5833, 0.25, True)


def test_scenes_with_the_bands_in_another_order_are_judged_alike(tmp_path):
    names = ("red", "green", "blue")
    for order in ("given", "turned"):
        folder = tmp_path / order
        world(tmp_path / "world", scenes=2)
        for path in sorted((tmp_path / "world" / "images").iterdir()):
            with rasterio.open(path) as dataset:
                pixels, label = dataset.read(), rasterio.open(tmp_path / "world" / "masks" / path.name).read(1)
            step = 1 if order == "given" else -1
            make_scene(folder, path.stem, pixels=pixels[::step], names=names[::step], label=label, nodata=0)
    recipes = [recipe_for(tmp_path / order, **{"data.split.test": 0.5}) for order in ("given", "turned")]
    manifests = [index(recipe) for recipe in recipes]
    assert manifests[1].bands == names[::-1]
    bundle = make_bundle(tmp_path / "bundle", recipes[0], manifests[0])
    first, second = (
        evaluate(recipe, bundle, manifest=manifest, out=str(tmp_path / f"report{number}"))
        for number, (recipe, manifest) in enumerate(zip(recipes, manifests, strict=True))
    )
    assert first.confusion == second.confusion and len(np.flatnonzero(first.confusion)) > 1
