"""Patterns in which a part of the id stands for a file that several scenes share."""

from __future__ import annotations

import pytest

from pipeline.data.scenes import pairing
from pipeline.data.scenes.discovery import find
from pipeline.errors import ManifestError, RecipeError
from tests.factory import recipe_for


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("l/{id:^[a-z]+}.geojson", ["l/ke.geojson", "l/np.geojson"]),
        ("l/{id:^(.*)_}.*", ["l/ke.gpkg", "l/np.shp"]),
        ("{id:^[a-z]{2}}/all_*.fgb", ["ke/all_1.fgb", "np/all_2.fgb"]),
        ("*/{id:^(..)}.geojson", ["x/ke.geojson", "y/np.geojson"]),
    ],
)
def test_scenes_share_a_file(tmp_path, pattern, files):
    touch(tmp_path, "images/ke_a.tif", "images/ke_b.tif", "images/np_a.tif", *files)
    data = recipe_for(tmp_path, **{"data.images": "images/*", "data.labels": pattern}).data
    found = {scene.id: scene.label for scene in find(data)}
    assert found == {i: f"{tmp_path}/{files[i.startswith('np')]}" for i in ("ke_a", "ke_b", "np_a")}


def test_a_part_and_the_whole(tmp_path):
    touch(tmp_path, "images/ke_a.tif", "images/np_a.tif", "l/ke/ke_a.png", "l/np/np_a.png", "l/ke/np_a.png")
    data = recipe_for(tmp_path, **{"data.images": "images/*", "data.labels": "l/{id:^..}/{id}.png"}).data
    assert [scene.label for scene in find(data)] == [f"{tmp_path}/l/ke/ke_a.png", f"{tmp_path}/l/np/np_a.png"]


def test_ids_in_which_nothing_is_found(tmp_path):
    touch(tmp_path, "images/ke_a.tif", "images/7.tif", "images/xx_1.tif", "l/ke.geojson", "l/spare.geojson")
    data = recipe_for(tmp_path, **{"data.images": "images/*", "data.labels": "l/{id:^[a-z]+}.geojson"}).data
    with pytest.raises(ManifestError, match="2 of 3 images have no label") as caught:
        find(data)
    assert "7, xx_1" in str(caught.value) and "spare.geojson belongs to no image" in str(caught.value)


def test_an_expression_that_is_none(tmp_path):
    with pytest.raises(RecipeError, match=r"'\(' is no regular expression"):
        recipe_for(tmp_path, **{"data.labels": "l/{id:(}.geojson"})


def test_as_a_glob():
    assert pairing.of_any("a/{id:^[a-z]{2}}_{id}.*") == "a/*_*.*"
    assert pairing.has_id("{id}") and pairing.has_id("{id:x}") and not pairing.has_id("all.gpkg")
