"""Files that change after they were indexed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data import freshness
from pipeline.data.indexing.build import index
from pipeline.errors import SceneError
from tests.factory import make_pixels, make_scene, recipe_for, write_raster


@pytest.fixture
def indexed(tmp_path):
    make_scene(tmp_path)
    freshness.forget()
    recipe = recipe_for(tmp_path, **{"data.split.test": 0})
    return index(recipe), recipe.data


def test_a_changed_image_is_refused_and_a_touched_one_is_not(indexed):
    manifest, data = indexed
    scene = manifest.scenes[0]
    freshness.check(scene, manifest.classes, data)
    os.utime(scene.image, (1, 1))
    freshness.forget()
    freshness.check(scene, manifest.classes, data)
    pixels = make_pixels(len(manifest.bands), scene.height, scene.width, manifest.dtype, seed=9)
    Path(scene.image).unlink()
    write_raster(Path(scene.image), pixels, crs=scene.crs, transform=scene.transform)
    freshness.forget()
    with pytest.raises(SceneError, match="has changed since it was indexed"):
        freshness.check(scene, manifest.classes, data)
    Path(scene.image).unlink()
    freshness.forget()
    with pytest.raises(SceneError, match="no such file"):
        freshness.check(scene, manifest.classes, data)


def test_a_folder_changes_with_any_file_in_it(tmp_path):
    (tmp_path / "scan").mkdir()
    for name in "ab":
        (tmp_path / "scan" / name).write_text("1")
    before = freshness.stamps([str(tmp_path / "scan")])
    assert freshness.stamps([str(tmp_path / "scan")]) == before
    os.utime(tmp_path / "scan" / "b", (1, 1))
    assert freshness.stamps([str(tmp_path / "scan")]) != before
    assert freshness.stamps([str(tmp_path / "none")]) == {}
