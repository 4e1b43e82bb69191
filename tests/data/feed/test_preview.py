"""The contact sheet: one picture for each chip, as training gets it, with legend, numbers and scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import __main__ as command_line
from pipeline.data.chips.statistics import compute
from pipeline.data.feed import preview
from pipeline.data.feed.plan import Plan
from pipeline.data.scenes.index import current
from tests.factory import recipe_for, world, write_raster


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
    plan = Plan.of(manifest, compute.compute(manifest, recipe.data), recipe.data, recipe.seed)
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


def test_red_green_and_blue_are_shown_by_name_and_the_picture_lies_beside_the_run(tmp_path, monkeypatch, capsys):
    """Bands in the order of Sentinel-2's files; only red varies, so the picture is red on black."""
    rng = np.random.default_rng(0)
    for number in range(3):
        image = np.full((4, 64, 64), 500, np.uint16)
        image[2] = rng.integers(0, 4000, (64, 64))
        write_raster(tmp_path / f"images/s{number}.tif", image, names=("B02", "B03", "B04", "B08"))
        write_raster(tmp_path / f"masks/s{number}.tif", np.zeros((64, 64), np.uint8))
    (tmp_path / "splits.csv").write_text("id,split\n" + "".join(f"s{number},train\n" for number in range(3)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_for(tmp_path, **{"data.sampling.size": 64, "data.augment": []}).model_dump_json())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert command_line.main(["data", "preview", str(recipe), "--chips", "2"]) == 0
    written = tmp_path / "runs" / "tiny" / "preview.png"
    assert capsys.readouterr().out.strip() == str(written)
    assert not list(elsewhere.iterdir())
    with Image.open(written) as picture:
        chip = np.asarray(picture.convert("RGB"))[-150:-60, 40:200]
    assert chip[..., 0].std() > 50 and chip[..., 1:].max() == 0
    named = elsewhere / "a.png"
    assert command_line.main(["data", "preview", str(recipe), "--chips", "2", "--out", str(named)]) == 0
    assert named.is_file()
