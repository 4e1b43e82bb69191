"""Indexing again: only what changed is read, and scenes that cannot be read can be left out."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest

from pipeline.data.labels import masks
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import inspection
from pipeline.data.scenes.index import current, index
from pipeline.errors import DataError
from tests.factory import make_scene, recipe_for, world

QUARANTINE = {"data.on_error": "quarantine"}


@pytest.fixture
def folder(tmp_path):
    return world(tmp_path / "data", scenes=6, size=48)


@pytest.fixture
def looked_at(monkeypatch):
    """Ids of the scenes that were opened."""
    ids = []
    inspect_scene = inspection.inspect_scene
    monkeypatch.setattr(
        inspection, "inspect_scene", lambda found, *rest: ids.append(found.id) or inspect_scene(found, *rest)
    )
    return ids


def replace(folder, name, other_seed=1):
    world(folder.parent / "other", scenes=6, size=48, seed=other_seed)
    shutil.copy(folder.parent / "other" / name, folder / name)


def test_only_what_changed_is_read_again(folder, looked_at, caplog):
    first = index(recipe_for(folder))
    assert sorted(looked_at) == [f"s{i}" for i in range(6)]
    looked_at.clear()
    assert index(recipe_for(folder)) == first
    assert looked_at == []
    replace(folder, "masks/s3.tif")
    shutil.copy(folder / "images" / "s0.tif", folder / "images" / "s9.tif")
    shutil.copy(folder / "masks" / "s0.tif", folder / "masks" / "s9.tif")
    for name in ("images/s5.tif", "masks/s5.tif"):
        (folder / name).unlink()
    table = folder / "splits.csv"
    table.write_text(table.read_text().replace("s2,", "s9,train,north\ns2,"))
    with caplog.at_level(logging.INFO, "pipeline"):
        second = index(recipe_for(folder))
    assert sorted(looked_at) == ["s3", "s9"]
    assert f"since manifest {first.digest[:12]}: 1 added (s9); 1 removed (s5); 1 changed (s3)" in caplog.text
    shutil.rmtree(folder / "runs")
    assert index(recipe_for(folder)) == second


def test_touched_files_are_read_once_more_and_are_the_same_data(folder, looked_at):
    first = index(recipe_for(folder))
    os.utime(folder / "images" / "s1.tif", (1, 1))
    looked_at.clear()
    assert index(recipe_for(folder)).digest == first.digest
    assert looked_at == ["s1"]
    looked_at.clear()
    index(recipe_for(folder))
    assert looked_at == []


def test_another_meaning_of_labels_reads_all_again_and_another_split_nothing(folder, looked_at):
    index(recipe_for(folder))
    looked_at.clear()
    index(recipe_for(folder, **{"data.split": {"kind": "hash", "val": 0.2, "test": 0.2}}))
    assert looked_at == []
    index(recipe_for(folder, **{"data.ignore_values": [9]}))
    assert len(looked_at) == 6


def test_scenes_that_cannot_be_read_are_left_out_by_name(folder, caplog, looked_at):
    (folder / "images" / "s1.tif").write_bytes(b"no raster")
    manifest = index(recipe_for(folder, **QUARANTINE))
    assert [s.id for s in manifest.scenes] == ["s0", "s2", "s3", "s4", "s5"]
    ((name, reason),) = manifest.quarantined
    assert name == "s1" and "s1.tif: cannot be read" in reason
    assert "scene s1 is left out" in caplog.text
    assert current(recipe_for(folder, **QUARANTINE)).quarantined == manifest.quarantined
    assert manifest.summary()["quarantined"] == {"s1": reason}
    looked_at.clear()
    replace(folder, "images/s1.tif", 0)
    assert len(index(recipe_for(folder, **QUARANTINE)).scenes) == 6
    assert looked_at == ["s1"]


@pytest.mark.parametrize("settings", [{}, {"data.on_error": {"kind": "quarantine", "max": 2}}])
def test_more_than_so_many_fail_and_all_are_named(folder, settings):
    for name in ("images/s1.tif", "images/s2.tif", "masks/s4.tif"):
        (folder / name).write_bytes(b"no raster")
    with pytest.raises(DataError) as caught:
        index(recipe_for(folder, **settings))
    assert all(f"{name}.tif: cannot be read" in str(caught.value) for name in ("s1", "s2", "s4"))
    assert not (folder / "runs").exists()


def test_a_manifest_of_an_older_version_is_read(folder, tmp_path):
    import pyarrow.parquet as pq

    manifest = index(recipe_for(folder))
    path = next((folder / "runs").rglob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["slices", "origin", "aoi", "seen"]), path)
    assert current(recipe_for(folder)).digest == manifest.digest


def test_a_scene_is_cut_where_blocks_of_two_splits_meet(tmp_path):
    make_scene(tmp_path, "big", height=200, width=150)
    whole = index(recipe_for(tmp_path, **{"data.split": {"kind": "hash", "test": 0}}))
    section = {"kind": "blocks", "block": 500.0, "buffer": 4, "test": 0.4, "min_side": 16}
    manifest = index(recipe_for(tmp_path, **{"data.split": section}))
    assert {s.split for s in manifest.scenes} == {"train", "test"}
    assert len({s.id for s in manifest.scenes}) == len(manifest.scenes) > 1
    owner = np.zeros((200, 150), int)
    data = recipe_for(tmp_path).data
    for number, scene in enumerate(manifest.scenes, 1):
        row, col = scene.origin
        owner[row : row + scene.height, col : col + scene.width] += number
        assert scene.grid == whole.scenes[0].grid.part(row, col, scene.height, scene.width)
        mask = masks.mask(scene, Window(0, 0, scene.height, scene.width), manifest.classes, data)
        assert scene.class_counts == tuple(np.bincount(mask.ravel(), minlength=2))
    assert set(np.unique(owner)) <= set(range(len(manifest.scenes) + 1)), "a pixel is in two parts"
    assert current(recipe_for(tmp_path, **{"data.split": section})) == manifest
