"""The contact sheet: one picture for each chip, as training gets it, with legend, numbers and scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import preview
from pipeline.data.chips import Plan
from pipeline.data.indexing.build import current
from pipeline.data.statistics import measuring
from tests.factory import recipe_for, world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return world(tmp_path, scenes=6, size=96, bands=4, dtype="uint16")


def picture_of(folder: Path, chips: int, **overrides) -> np.ndarray:
    recipe = recipe_for(folder, **overrides)
    out = preview.write(recipe, str(folder / "sheet" / "preview.png"), chips=chips)
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB"))


def test_more_chips_make_a_larger_sheet_of_six_columns(folder):
    one, six, seven = (picture_of(folder, n, **{"data.sampling.size": 64}) for n in (1, 6, 7))
    assert one.shape[1] < six.shape[1] == seven.shape[1]
    assert six.shape[0] < seven.shape[0]


def test_the_same_recipe_gives_the_same_picture_and_another_seed_another(folder):
    first = picture_of(folder, 3)
    assert np.array_equal(first, picture_of(folder, 3))
    assert not np.array_equal(first, picture_of(folder, 3, seed=5))


def test_chips_are_those_of_training(folder):
    """Bright discs are class 1: under its colour the picture is bright, and outlines are drawn in it."""
    recipe = recipe_for(folder, **{"data.augment": ["D4"], "data.sampling.size": 64})
    manifest = current(recipe)
    plan = Plan.of(manifest, measuring.compute(manifest, recipe.data), recipe.data, recipe.seed)
    sheet = np.asarray(preview.sheet_of(plan, manifest.bands, [5]))
    color = plan.classes.colors[1]
    mask = plan.chip(5)[1]
    edges = (mask[:, 1:] != mask[:, :-1]) & (mask[:, 1:] == 1)
    outlined = (sheet == np.array(color)).all(-1)
    assert edges.sum() > 0
    assert outlined.sum() > edges.sum()  # every edge pixel is enlarged; the legend has the colour, too


def test_names_too_long_for_a_chip_end_early(folder):
    for path in list((folder / "images").iterdir()) + list((folder / "masks").iterdir()):
        path.rename(path.with_name(path.stem + "x" * 100 + path.suffix))
    split = {"kind": "hash", "test": 0.2}
    sheet = picture_of(folder, 2, **{"data.split": split, "data.sampling.size": 64})
    assert sheet.shape[1] < 2 * 256 + 100
