"""Files that change after they were indexed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.scenes import staleness
from pipeline.data.scenes.index import index
from pipeline.errors import SceneError
from tests.factory import make_pixels, make_scene, recipe_for, write_raster


@pytest.fixture
def indexed(tmp_path):
    make_scene(tmp_path)
    staleness.forget()
    recipe = recipe_for(tmp_path, **{"data.split.test": 0})
    return index(recipe), recipe.data


def test_a_changed_image_is_refused_and_a_touched_one_is_not(indexed):
    manifest, data = indexed
    scene = manifest.scenes[0]
    staleness.check(scene, manifest.classes, data)
    os.utime(scene.image, (1, 1))
    staleness.forget()
    staleness.check(scene, manifest.classes, data)
    pixels = make_pixels(len(manifest.bands), scene.height, scene.width, manifest.dtype, seed=9)
    Path(scene.image).unlink()
    write_raster(Path(scene.image), pixels, crs=scene.crs, transform=scene.transform)
    staleness.forget()
    with pytest.raises(SceneError, match="has changed since it was indexed"):
        staleness.check(scene, manifest.classes, data)
    Path(scene.image).unlink()
    staleness.forget()
    with pytest.raises(SceneError, match="no such file"):
        staleness.check(scene, manifest.classes, data)


def test_what_changes_while_training_runs_is_noticed_at_the_next_window(indexed):
    manifest, data = indexed
    scene = manifest.scenes[0]
    staleness.check(scene, manifest.classes, data)
    os.utime(scene.image, (1, 1))
    staleness.check(scene, manifest.classes, data)
    mask = np.zeros((scene.height, scene.width), np.uint8)
    write_raster(Path(scene.label), mask)
    with pytest.raises(SceneError, match="has changed since it was indexed"):
        staleness.check(scene, manifest.classes, data)
    Path(scene.label).unlink()
    with pytest.raises(SceneError, match=r"a\.png: no such file"):
        staleness.check(scene, manifest.classes, data)


def test_other_dates_are_told_once(indexed, caplog):
    manifest, data = indexed
    for date in (1, 2):
        os.utime(manifest.scenes[0].image, (date, date))
        staleness.check(manifest.scenes[0], manifest.classes, data)
    assert caplog.text.count("scene a has other dates than when it was indexed") == 1


def test_files_that_are_the_same_are_looked_at_once(indexed, monkeypatch):
    manifest, data = indexed
    staleness.check(manifest.scenes[0], manifest.classes, data)
    monkeypatch.setattr(staleness, "seen", lambda _: pytest.fail("looked at again"))
    staleness.check(manifest.scenes[0], manifest.classes, data)


def test_a_folder_changes_with_any_file_in_it(tmp_path):
    (tmp_path / "scan").mkdir()
    for name in "ab":
        (tmp_path / "scan" / name).write_text("1")
    before = staleness.stamps([str(tmp_path / "scan")])
    assert staleness.stamps([str(tmp_path / "scan")]) == before
    os.utime(tmp_path / "scan" / "b", (1, 1))
    assert staleness.stamps([str(tmp_path / "scan")]) != before
    assert staleness.stamps([str(tmp_path / "none")]) == {}
