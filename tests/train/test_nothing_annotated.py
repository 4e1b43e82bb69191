"""What is not annotated teaches nothing: no training, no scores made of nothing, no version of a model."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.data.labels.classes import IGNORE
from pipeline.data.scenes.index import index
from pipeline.errors import DataError, ManifestError, TrainingError
from pipeline.train.fit import fit, run_uri_of
from tests.factory import QUICK, TRANSFORM, UTM, recipe_for, world, write_raster

SIDE = 96


def labels(folder: Path, numbers: range, label: np.ndarray, **options) -> None:
    """Write this label for these scenes of `world`."""
    for number in numbers:
        transform = (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])
        write_raster(folder / "masks" / f"s{number}.tif", label, crs=UTM, transform=transform, **options)


def full(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE), value, np.uint8)


@pytest.mark.parametrize("numbers", [range(6), range(4)], ids=["all scenes", "the train split"])
def test_training_is_refused_and_no_version_is_registered(tmp_path, numbers):
    folder = world(tmp_path)
    labels(folder, numbers, full(IGNORE))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recipe = recipe_for(folder, **QUICK | {"data.ignore_values": [IGNORE], "compute.tracking_uri": uri})
    with pytest.raises(ManifestError, match="nothing is annotated in the 4 scenes of the train split") as caught:
        fit(recipe)
    assert caught.value.exit_code == 3
    assert not (Path(run_uri_of(recipe, index(recipe))) / "checkpoints").exists()
    assert not MlflowClient(uri).search_registered_models()


def test_training_is_refused_where_all_that_is_annotated_has_no_pixels(tmp_path):
    """Labels are of the corner that is nodata in every image of `world`."""
    folder = world(tmp_path)
    corner = full(IGNORE)
    corner[: SIDE // 2, : SIDE // 4] = 1
    labels(folder, range(6), corner)
    with pytest.raises(DataError, match=r"not valid|never valid|nothing is annotated"):
        fit(recipe_for(folder, **QUICK | {"data.ignore_values": [IGNORE]}))


def test_a_run_of_chips_without_annotation_makes_no_bundle(tmp_path):
    """One pixel of a scene is annotated, and the few chips of this run miss it."""
    folder = world(tmp_path)
    labels(folder, range(6), full(IGNORE))
    one = full(IGNORE)
    one[SIDE - 1, SIDE - 1] = 1
    labels(folder, range(1), one)
    recipe = recipe_for(folder, **QUICK | {"data.ignore_values": [IGNORE], "data.sampling.size": 16, "train.steps": 2})
    with pytest.raises(TrainingError, match="no pixel of the 4 chips of this run was annotated") as caught:
        fit(recipe)
    assert "foreground" in caught.value.hint
    assert not (Path(run_uri_of(recipe, index(recipe))) / "bundle").exists()


def test_a_val_split_without_annotation_gives_no_scores(tmp_path, caplog):
    folder = world(tmp_path)
    labels(folder, range(4, 5), full(IGNORE))
    with caplog.at_level(logging.WARNING):
        made = fit(recipe_for(folder, **QUICK | {"data.ignore_values": [IGNORE]}))
    assert "nothing is annotated in the 1 scenes of the val split: it gives no scores" in caplog.text
    assert math.isnan(made.scores["miou"])


def test_one_class_alone_is_said(tmp_path, caplog):
    folder = world(tmp_path)
    labels(folder, range(6), full(0))
    with caplog.at_level(logging.WARNING):
        fit(recipe_for(folder, **QUICK | {"train.steps": 1}))
    assert "all annotated pixels of the train split are of class ground: nothing else is learnt" in caplog.text


def test_a_loss_that_is_zero_all_the_time_is_no_sign_of_that(tmp_path):
    """Matthews' correlation leaves out a class that is everywhere."""
    folder = world(tmp_path)
    labels(folder, range(6), full(1))
    made = fit(recipe_for(folder, **QUICK | {"train.steps": 2, "loss": [{"kind": "mcc"}]}))
    assert made.step == 2


def test_planes_of_which_none_is_ever_true_are_refused(tmp_path):
    folder = world(tmp_path)
    labels(folder, range(6), np.zeros((2, SIDE, SIDE), np.uint8))
    with pytest.raises(ManifestError, match="nothing is annotated"):
        fit(recipe_for(folder, **QUICK | {"data.task": "multilabel"}))
