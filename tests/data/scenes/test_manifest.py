import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import recipe as recipes
from pipeline import store
from pipeline.data.chips.statistics import compute
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.index import current, index
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import LabelError, ManifestError, OutputExists, SceneError
from tests.factory import TRANSFORM, make_pixels, make_scene, recipe_for, world, write_raster


@pytest.fixture
def folder(tmp_path):
    return world(tmp_path / "data", scenes=6, size=48)


def parquet_files(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "tiny" / "manifests").glob("*.parquet"))


# ------------------------------------------------------------------------------------------------ what is indexed


def test_index_describes_every_scene(folder):
    manifest = index(recipe_for(folder))
    assert [s.id for s in manifest.scenes] == [f"s{i}" for i in range(6)]
    assert (manifest.bands, manifest.dtype) == (("band_1", "band_2", "band_3"), "uint8")
    first = manifest.scenes[0]
    assert (first.split, first.group, first.height, first.width) == ("train", "north", 48, 48)
    assert first.transform == TRANSFORM and first.crs.startswith("PROJCS") and first.grid.georeferenced
    assert sum(first.class_counts) == 48 * 48 - 24 * 12 and min(first.class_counts) > 0  # a corner is nodata
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [4, 1, 1]
    assert len(manifest.digest) == 64


def test_the_manifest_is_a_table_that_others_can_read(folder):
    manifest = index(recipe_for(folder))
    (path,) = parquet_files(folder)
    assert path.stem == manifest.digest[:12]
    rows = pq.read_table(path).to_pylist()
    assert [(r["id"], r["image"], r["label"]) for r in rows[:1]] == [("s0", "images/s0.tif", "masks/s0.tif")]
    assert Manifest.read(str(path)) == manifest


def test_summary_counts_splits_and_classes(folder):
    summary = index(recipe_for(folder)).summary()
    assert summary["scenes"] == 6 and summary["smallest"] == summary["largest"] == [48, 48]
    assert summary["splits"]["train"] == {"scenes": 4, "groups": 2, "pixels": 4 * 48 * 48}
    assert sum(c["share"] for c in summary["classes"].values()) == pytest.approx(1)
    assert sum(c["pixels"] for c in summary["classes"].values()) == 6 * (48 * 48 - 24 * 12)


def test_suffix_pairs_of_rgba_pngs(tmp_path):
    for i in range(4):
        make_scene(tmp_path, f"00{i}", layout="suffix", ending=".png", invalid="opaque", height=20 + i)
    recipe = recipe_for(tmp_path, **{"data.images": "*.png", "data.labels": "{id}_mask.png"})
    manifest = index(recipe)
    assert len(manifest.scenes) == 4 and len(manifest.bands) == 3
    assert all(s.crs is None and sum(s.class_counts) == s.height * 64 for s in manifest.scenes)


def test_a_geotiff_with_a_png_label(tmp_path):
    make_scene(tmp_path, label_ending=".png")
    scene = index(recipe_for(tmp_path, **{"data.split.test": 0})).scenes[0]
    assert scene.crs is not None and scene.label.endswith("a.png")


def test_a_labels_nodata_and_ignored_values_are_not_counted(tmp_path):
    label = np.zeros((64, 64), np.uint8)
    label[:4], label[4:6], label[6:16] = 255, 9, 1
    make_scene(tmp_path, label=label, label_ending=".tif", label_nodata=255)
    recipe = recipe_for(tmp_path, **{"data.split.test": 0, "data.ignore_values": [9]})
    assert index(recipe).scenes[0].class_counts == (48 * 64, 10 * 64)


def test_a_large_label_is_counted_to_the_last_pixel(tmp_path):
    label = np.zeros((2100, 2300), np.uint8)
    label[-1, -1] = label[2047, 2048] = label[0, 0] = 1
    make_scene(tmp_path, pixels=make_pixels(1, 2100, 2300, "uint8"), label=label)
    assert index(recipe_for(tmp_path, **{"data.split.test": 0})).scenes[0].class_counts == (2100 * 2300 - 3, 3)


def test_without_labels(tmp_path):
    make_scene(tmp_path, label_ending=None)
    scene = index(recipe_for(tmp_path, **{"data.split.test": 0, "data.labels": None})).scenes[0]
    assert scene.label is None and scene.class_counts == ()


def test_band_names_of_the_recipe_are_kept(folder):
    assert index(recipe_for(folder, **{"data.bands": ["r", "g", "b"]})).bands == ("r", "g", "b")


def test_progress_is_told(folder):
    told = []
    index(recipe_for(folder), progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


def test_the_log_says_what_was_found(folder, caplog):
    with caplog.at_level(logging.INFO, "pipeline"):
        index(recipe_for(folder, **{"data.classes": [{"name": "ground"}, {"name": "disc"}, {"name": "lake"}]}))
    assert "6 scenes (4 train, 1 val, 1 test) of 3 bands uint8" in caplog.text
    assert "labelled pixels: ground" in caplog.text
    assert "no label holds a pixel of class lake" in caplog.text


# ------------------------------------------------------------------------------------------------ the digest


def test_the_same_data_have_the_same_digest_wherever_and_whenever(folder, tmp_path):
    manifest = index(recipe_for(folder))
    assert index(recipe_for(folder)) == manifest
    assert len(parquet_files(folder)) == 1
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "runs")
    for path in (tmp_path / "copy").rglob("*.tif"):
        os.utime(path, (1, 1))
    copy = index(recipe_for(tmp_path / "copy"))
    assert copy.digest == manifest.digest
    assert copy.scenes[0].image == str(tmp_path / "copy" / "images" / "s0.tif")


def change_a_pixel(path: Path, name: str) -> None:
    shutil.rmtree(path / "runs")
    world(path.parent / "other", scenes=6, size=48, seed=1)
    shutil.copy(path.parent / "other" / name, path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: change_a_pixel(f, "images/s3.tif"),
        lambda f: change_a_pixel(f, "masks/s3.tif"),
        lambda f: (f / "splits.csv").write_text((f / "splits.csv").read_text().replace("s4,val", "s4,train")),
        lambda f: (f / "splits.csv").write_text((f / "splits.csv").read_text().replace("s4,val,north", "s4,val,x")),
        lambda f: [(f / d / "s5.tif").unlink() for d in ("images", "masks")],
    ],
)
def test_other_data_have_another_digest(folder, change):
    before = index(recipe_for(folder)).digest
    change(folder)
    assert index(recipe_for(folder)).digest != before


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.classes": [{"name": "ground", "values": [1]}, {"name": "disc", "values": [0]}]},
        {"data.bands": ["a", "b", "c"]},
        {"data.nodata": 17},
    ],
)
def test_another_meaning_of_the_data_has_another_digest(folder, overrides):
    assert index(recipe_for(folder)).digest != index(recipe_for(folder, **overrides)).digest


# ------------------------------------------------------------------------------------------------ the current one


def test_current_indexes_once(folder, caplog):
    with caplog.at_level(logging.INFO, "pipeline"):
        manifest = current(recipe_for(folder))
    assert "no manifest yet" in caplog.text
    (folder / "images" / "s0.tif").unlink()  # a second look would fail
    assert current(recipe_for(folder)) == manifest


def test_current_does_not_mind_what_was_not_indexed(folder):
    manifest = current(recipe_for(folder))
    recipe = recipe_for(folder, **{"data.sampling.size": 16, "data.augment": ["HorizontalFlip"], "train.steps": 9})
    assert current(recipe).digest == manifest.digest
    assert current(recipe).data == recipe.data.model_dump(mode="json")


def test_current_follows_scenes_that_moved(folder, tmp_path):
    recipe = recipes.replace(recipe_for(folder), {"compute.output": str(tmp_path / "out")})
    digest = current(recipe).digest
    folder.rename(tmp_path / "moved")
    moved = current(recipes.replace(recipe, {"data.root": str(tmp_path / "moved")}))
    assert moved.digest == digest and Path(moved.scenes[0].image).exists()


def test_current_refuses_a_recipe_of_other_data(folder):
    index(recipe_for(folder))
    with pytest.raises(ManifestError, match=r"made with other values of data\.classes, data\.nodata") as caught:
        current(recipe_for(folder, **{"data.nodata": 0, "data.classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}))
    assert "segpipe index" in caught.value.hint


def test_an_empty_split_is_named_with_those_that_are_not(folder):
    table = folder / "splits.csv"
    table.write_text(table.read_text().replace(",val,", ",train,"))
    with pytest.raises(
        ManifestError, match=r"the split 'val' is empty; there are train \(5 scenes\), test \(1 scenes\)"
    ):
        index(recipe_for(folder)).split("val")


@pytest.mark.parametrize("damage", [b"PAR1", b"not parquet"])
def test_a_damaged_manifest(folder, damage):
    index(recipe_for(folder))
    (path,) = parquet_files(folder)
    path.write_bytes(damage)
    with pytest.raises(ManifestError, match="is no manifest, or damaged"):
        current(recipe_for(folder))
    path.unlink()
    with pytest.raises(ManifestError, match="there is no manifest at"):
        current(recipe_for(folder))


def test_a_manifest_that_was_edited_is_noticed(folder):
    index(recipe_for(folder))
    (path,) = parquet_files(folder)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ManifestError, match="does not have the digest it names"):
        current(recipe_for(folder))


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("which", ["images/s1.tif", "masks/s1.tif"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "the file is empty"),
        (lambda data: data[: len(data) * 3 // 4], "cannot be read"),
        (lambda data: b"<VRTDataset/>", "cannot be read"),
    ],
)
def test_unreadable_rasters(folder, which, damage, message):
    path = folder / which
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SceneError, match=message) as caught:
        index(recipe_for(folder))
    assert str(path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"height": 40, "width": 48}, "48 × 48 pixels against 48 × 40"),
        ({"height": 48, "width": 48, "transform": (10.0, 0, 500_020.0, 0, -10, 5e6)}, "shifted by up to 2 pixels"),
        ({"height": 48, "width": 48, "crs": "EPSG:32634"}, "EPSG:32633 against EPSG:32634"),
    ],
)
def test_image_and_label_of_different_grids(folder, kind, message):
    height, width = kind.pop("height"), kind.pop("width")
    options = {"crs": "EPSG:32633", "transform": TRANSFORM} | kind
    write_raster(folder / "masks" / "s0.tif", np.zeros((height, width), np.uint8), **options)
    with pytest.raises(SceneError, match=message) as caught:
        index(recipe_for(folder))
    for name in ("scene s0", str(folder / "images" / "s0.tif"), str(folder / "masks" / "s0.tif")):
        assert name in caught.value.message


def test_a_label_value_without_a_class(tmp_path):
    label = np.zeros((2100, 64), np.uint8)
    label[:3, :5] = label[-2:, :5] = 7
    make_scene(tmp_path, "north", pixels=make_pixels(1, 2100, 64, "uint8"), label=label)
    with pytest.raises(LabelError, match=r"scene north: .* 7 \(25 pixels\)\. Known values are ground: 0; disc: 1"):
        index(recipe_for(tmp_path, **{"data.split.test": 0}))


def test_an_elevation_model_as_label_is_refused_without_counting_all_of_it(tmp_path):
    label = np.arange(3000 * 100, dtype=np.int32).reshape(3000, 100)
    make_scene(tmp_path, pixels=make_pixels(1, 3000, 100, "uint8"), label=label, label_ending=".tif")
    with pytest.raises(LabelError, match=r"and \d+ more"):
        index(recipe_for(tmp_path, **{"data.split.test": 0}))


def test_a_colour_label_is_refused(tmp_path):
    make_scene(tmp_path, label=make_pixels(3, 64, 64, "uint8"))
    with pytest.raises(LabelError, match="the label has 3 bands, and they differ"):
        index(recipe_for(tmp_path, **{"data.split.test": 0}))


def test_scenes_with_other_bands_or_types_are_named(folder):
    recipe = recipe_for(folder)
    make_scene(folder, "s0", height=48, width=48, bands=4, label_ending=None)
    make_scene(folder, "s1", height=48, width=48, dtype="uint16", label_ending=None)
    shutil.rmtree(folder / "masks")
    with pytest.raises(SceneError) as caught:
        index(recipes.replace(recipe, {"data.labels": None}))
    assert "2 problems with the scenes" in caught.value.message
    assert "scene s0 has 4 bands (band_1, band_2, band_3, band_4), but 5 have 3 (band_1" in caught.value.message
    assert "scene s1 has uint16 pixels, but 5 have uint8" in caught.value.message


def test_bands_that_the_recipe_does_not_know(folder):
    with pytest.raises(SceneError, match=r"6 scenes \(s0, .* have 3 bands .* but data\.bands names 2: red, nir"):
        index(recipe_for(folder, **{"data.bands": ["red", "nir"]}))


def test_bands_in_another_order_are_not_mixed(tmp_path):
    for i, names in enumerate((("r", "g", "b"), ("r", "g", "b"), ("b", "g", "r"))):
        make_scene(tmp_path, f"s{i}", names=names)
    found = index(recipe_for(tmp_path))
    assert found.bands == ("r", "g", "b")
    assert [scene.bands for scene in found.scenes] == [(), (), (3, 2, 1)]
    make_scene(tmp_path, "s2", names=("b", "g", "x"))
    with pytest.raises(SceneError, match=r"scene s2 has 3 bands \(b, g, x\), but 2 have 3 \(r, g, b\): r missing"):
        index(recipe_for(tmp_path))
    make_scene(tmp_path, "s2", names=("b", "g", "r"))
    found = index(recipe_for(tmp_path, **{"data.bands": ["x", "y", "z"]}))
    assert found.bands == ("x", "y", "z") and found.scenes[2].bands == (3, 2, 1)


def test_everything_that_is_wrong_is_said_at_once(folder):
    (folder / "images" / "s0.tif").write_bytes(b"II*\0")
    write_raster(folder / "masks" / "s1.tif", np.zeros((9, 9), np.uint8))
    write_raster(folder / "masks" / "s2.tif", np.full((48, 48), 77, np.uint8))
    (folder / "splits.csv").write_text("id,split\ns0,train\n")
    with pytest.raises(ManifestError) as caught:
        index(recipe_for(folder))
    first, *lines = caught.value.message.splitlines()
    assert first == "4 problems with the scenes"
    for line, part in zip(lines, ("5 of 6 scenes are not in it", "s0.tif: cannot", "9 × 9", "77 (2304"), strict=True):
        assert part in line
    assert not (folder / "runs").exists()


def test_files_that_do_not_pair_and_scenes_that_differ_are_one_list(folder):
    # An image without label, a label without image, two labels, an id twice, other bands, another type, an empty file.
    (folder / "masks" / "s0.tif").rename(folder / "masks" / "nobody.tif")
    write_raster(folder / "masks" / "s1.png", np.zeros((48, 48), np.uint8))
    shutil.copy(folder / "images" / "s2.tif", folder / "images" / "s2.tiff")
    plain = {"height": 48, "width": 48, "crs": None, "transform": None, "label_ending": None}
    make_scene(folder, "s3", bands=4, **plain)
    make_scene(folder, "s4", dtype="uint16", **plain)
    (folder / "images" / "s5.tif").write_bytes(b"")
    recipe = recipe_for(folder, **{"data.images": "images/*", "data.labels": "masks/{id}.*"})
    with pytest.raises(ManifestError) as caught:
        index(recipe)
    for part in (
        "7 problems with the scenes",
        "image s0 has no label 'masks/s0.*'",
        "label nobody.tif belongs to no image",
        f"id s1 has several labels: {folder}/masks/s1.png, {folder}/masks/s1.tif",
        f"id s2 has several images: {folder}/images/s2.tif, {folder}/images/s2.tiff",
        "scene s3 has 4 bands",
        "scene s4 has uint16 pixels",
        "s5.tif: the file is empty",
    ):
        assert part in caught.value.message
    with pytest.raises(ManifestError, match="belongs to no image"):
        index(recipes.replace(recipe, {"data.on_error": "quarantine"}))


def test_a_pattern_that_finds_no_label_is_told_before_any_file_is_opened(folder, monkeypatch):
    monkeypatch.setattr(raster_io, "describe", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ManifestError, match=r"6 of 6 images have no label 'mask/\{id\}\.tif'"):
        index(recipe_for(folder, **{"data.labels": "mask/{id}.tif"}))


def test_a_table_that_names_a_scene_twice_is_told_with_what_is_wrong_elsewhere(folder):
    rows = [f"s{i},images/s{i}.tif,masks/s{i}.tif" for i in range(6)]
    (folder / "scenes.csv").write_text("\n".join(["id,image,label", *rows, rows[1].replace("images/s1", "images/s2")]))
    (folder / "images" / "s5.tif").write_bytes(b"")
    with pytest.raises(ManifestError) as caught:
        index(recipe_for(folder, **{"data.images": None, "data.labels": None, "data.scenes": "scenes.csv"}))
    assert "id s1 is in scenes.csv 2 times" in caught.value.message and "s5.tif: the file is empty" in str(caught.value)


def test_a_thousand_problems_are_not_all_printed(tmp_path):
    for i in range(60):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"s{i}.tif").write_bytes(b"x")
    with pytest.raises(SceneError) as caught:
        index(recipe_for(tmp_path, **{"data.labels": None}))
    assert caught.value.message.startswith("60 problems") and caught.value.message.endswith("and 10 more")


# ------------------------------------------------------------------------------------------------ a bucket


def test_scenes_in_a_bucket_are_the_same_data(folder, s3_server):
    local = index(recipe_for(folder))
    shutil.rmtree(folder / "runs")
    uri = s3_server.uri("data")
    store.upload_dir(folder, uri)
    recipe = recipes.replace(recipe_for(folder), {"data.root": uri, "compute.output": f"{uri}/runs"})
    remote = index(recipe)
    assert remote.digest == local.digest and remote.scenes[0].image == f"{uri}/images/s0.tif"
    assert current(recipe) == remote
    assert compute.cached(recipe, remote) == compute.compute(local, recipe.data)
    assert store.exists(f"{uri}/runs/tiny/statistics/{local.digest[:12]}.json")


def test_rasters_are_written_to_a_bucket(s3_server):
    uri = s3_server.uri("a.tif")
    pixels = make_pixels(2, 300, 50, "int16")
    raster_io.write_cog(uri, pixels, raster_io.Grid(300, 50), nodata=-1)
    np.testing.assert_array_equal(raster_io.read(uri, Window(0, 0, 300, 50))[0], pixels)
    with pytest.raises(OutputExists):
        raster_io.Writer(uri, raster_io.Grid(300, 50))


def test_an_object_that_is_missing_or_no_raster(s3_server):
    uri = s3_server.uri("a.tif")
    with pytest.raises(SceneError, match=r"a\.tif: no such file"):
        raster_io.describe(uri)
    store.write_bytes(uri, b"no raster at all")
    with pytest.raises(SceneError, match=r"a\.tif: cannot be read"):
        raster_io.describe(uri)
