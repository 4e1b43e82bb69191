"""The whole way for other data than one class per pixel of flat scenes: several classes at once, volumes, scales."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

import pipeline
from pipeline.data.labels.classes import IGNORE
from pipeline.evaluation.evaluate import check
from tests.factory import recipe_for, world, write_raster

SMALL = {"train.steps": 4, "train.global_batch": 2, "data.sampling.size": 32, "predict.window": 32}
LOCAL = {"compute.runner": "local", "compute.feed": "local"}


def test_several_classes_at_once(tmp_path):
    folder = world(tmp_path, scenes=6, size=64)
    for path in (folder / "masks").iterdir():
        with rasterio.open(path) as file:
            disc, where = file.read(1), {"crs": file.crs, "transform": file.transform[:6]}
        left = np.zeros_like(disc)
        left[:, :32] = 1
        nothing = np.zeros_like(disc)
        write_raster(path, np.stack([disc, left, nothing]), **where)
    classes = [{"name": name} for name in ("disc", "left", "nothing")]
    settings = SMALL | LOCAL | {"data.task": "multilabel", "data.classes": classes}
    settings |= {"loss": [{"kind": "bce"}, {"kind": "dice"}], "train.steps": 30}
    recipe = recipe_for(folder, **settings)
    bundle = pipeline.fit(recipe)
    assert bundle.task == "multilabel" and bundle.scores["iou.left"] >= 0
    report = pipeline.evaluate(recipe, bundle)
    assert report.task == "multilabel" and np.shape(report.confusion) == (3, 2, 2)
    manifest = pipeline.index(recipe)
    (scene,) = manifest.split("test")
    (written,) = pipeline.predict(bundle, scene.image, str(tmp_path / "maps"))
    with rasterio.open(written) as file, rasterio.open(scene.label) as label, rasterio.open(scene.image) as image:
        predicted, truth, valid = file.read(), label.read(), image.dataset_mask() > 0
        assert file.descriptions == ("disc", "left", "nothing") and file.nodata == IGNORE
    assert (predicted[:, ~valid] == IGNORE).all() and set(np.unique(predicted[:, valid])) <= {0, 1}
    for k in range(3):
        pairs = np.bincount(2 * truth[k][valid] + predicted[k][valid], minlength=4).reshape(2, 2)
        assert pairs.tolist() == np.array(report.confusion[k]).tolist()
    with pytest.raises(pipeline.PipelineError, match=r"trained for the task multilabel, the recipe's data\.task is"):
        check(bundle, manifest, [scene], "multiclass")


def test_volumes_slice_by_slice(tmp_path):
    import nibabel

    rng = np.random.default_rng(0)
    for number in range(4):
        label = np.zeros((40, 48, 5), np.uint8)
        label[10:30, 8 + number : 30, 1:4] = 1
        image = (rng.normal(100, 5, label.shape) + 60 * label).astype(np.int16)
        for name, values in (("images", image), ("masks", label)):
            (tmp_path / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.5, 1.0])), tmp_path / name / f"v{number}.nii")
    files = {
        "data.images": "images/*.nii",
        "data.labels": "masks/{id}.nii",
        "data.split": {"kind": "hash", "test": 0.3},
    }
    recipe = recipe_for(tmp_path, **SMALL, **LOCAL, **files)
    manifest = pipeline.index(recipe)
    assert {s.slices for s in manifest.scenes} == {5}
    assert sum(sum(s.class_counts) for s in manifest.scenes) == 4 * 40 * 48 * 5
    bundle = pipeline.fit(recipe)
    report = pipeline.evaluate(recipe, bundle)
    scenes = manifest.split("test")
    assert report.num_pixels == len(scenes) * 40 * 48 * 5
    assert len({e.window.slice for e in report.examples}) > 1
    written = pipeline.predict(bundle, scenes[0].image, str(tmp_path / "maps"))
    assert len(written) == 5 and written[3].endswith("_0003.tif")


@pytest.mark.parametrize(
    "kind", ["per_scene", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("percentile", "log"))]
)
def test_ways_to_normalise_learn_and_predict(tmp_path, kind):
    folder = world(tmp_path, scenes=6, size=64, dtype="uint16")
    recipe = recipe_for(folder, **SMALL | LOCAL | {"data.normalise": kind, "train.steps": 40})
    bundle = pipeline.fit(recipe)
    assert bundle.normalisation.kind == kind
    assert bundle.scores["miou"] == pytest.approx(
        pipeline.evaluate(recipe, bundle, split="val").scores["miou"], abs=0.15
    )
    assert bundle.scores["miou"] > 0.5
