"""A value that a class claims counts as that class, though the file declares it nodata or its pixel transparent."""

import json
import logging
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.data.labels import masks
from pipeline.data.labels import masks as label_masks
from pipeline.data.labels.classes import IGNORE
from pipeline.data.scenes import index
from tests.data.labels.places import scene, setup, whole
from tests.factory import TRANSFORM, UTM, make_scene, recipe_for, write_raster

RNG = np.random.default_rng(0)
COLORS = [{"name": "ground", "values": ["#000000"]}, {"name": "house", "values": ["#ff0000"]}]
THREE = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
IGNORING = {"label": {"nodata": "ignore"}}


def encoded(path, size=(6, 8), **settings):
    classes, data = setup(**settings)
    place = scene(path, *size, crs=None, transform=(1, 0, 0, 0, 1, 0))
    return masks.encode(place, whole(place), classes, data)


def mask_of(path, size=(6, 8), **settings):
    return encoded(path, size, **settings).mask


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_a_claimed_value_wins_over_the_files_nodata(tmp_path, dtype):
    label = RNG.integers(0, 3, (6, 8)).astype(dtype)
    path = write_raster(tmp_path / "a.tif", label, nodata=0)
    found = encoded(path, classes=THREE)
    np.testing.assert_array_equal(found.mask, label)
    assert found.claimed == Counter({0: int((label == 0).sum())})
    np.testing.assert_array_equal(mask_of(path, classes=THREE, **IGNORING), np.where(label == 0, IGNORE, label))


def test_a_value_that_no_class_claims_is_still_not_annotated(tmp_path):
    label = RNG.integers(0, 3, (6, 8)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", label, nodata=0)
    only = [{"name": "a", "values": [1]}, {"name": "b", "values": [2]}]
    np.testing.assert_array_equal(mask_of(path, classes=only), np.select([label == 1, label == 2], [0, 1], IGNORE))
    np.testing.assert_array_equal(
        mask_of(path, classes=only, ignore_values=[0]), np.select([label == 1, label == 2], [0, 1], IGNORE)
    )
    assert not encoded(path, classes=only).claimed


def test_a_mask_band_hides_whatever_the_value_is(tmp_path):
    label, known = RNG.integers(0, 2, (6, 8)).astype(np.uint8), RNG.random((6, 8)) < 0.7
    path = write_raster(tmp_path / "a.tif", label, mask=known, nodata=None)
    np.testing.assert_array_equal(mask_of(path), np.where(known, label, IGNORE))


def test_nan_is_never_annotated(tmp_path):
    label = np.where(RNG.random((6, 8)) < 0.5, np.nan, RNG.integers(0, 2, (6, 8))).astype(np.float32)
    path = write_raster(tmp_path / "a.tif", label, nodata=np.nan)
    np.testing.assert_array_equal(mask_of(path), np.where(np.isnan(label), IGNORE, np.nan_to_num(label)))


def test_transparent_pixels_of_a_claimed_colour_count(tmp_path):
    which, clear = RNG.integers(0, 2, (6, 8)), RNG.random((6, 8)) < 0.5
    colors = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[which]
    Image.fromarray(np.dstack([colors, np.where(clear, 0, 255).astype(np.uint8)]), "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", classes=COLORS), which)
    hidden = mask_of(tmp_path / "a.png", classes=COLORS, **IGNORING)
    np.testing.assert_array_equal(hidden, np.where(clear, IGNORE, which))
    found = encoded(tmp_path / "a.png", classes=COLORS)
    assert found.claimed["#000000"] == int((clear & (which == 0)).sum())


def test_transparent_pixels_of_another_colour_are_not_annotated(tmp_path):
    which = RNG.integers(0, 3, (6, 8))
    colors = np.array([(0, 0, 0, 255), (255, 0, 0, 255), (255, 255, 255, 0)], np.uint8)[which]
    Image.fromarray(colors, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", classes=COLORS), np.where(which == 2, IGNORE, which))


def test_grey_with_alpha(tmp_path):
    label, clear = RNG.integers(0, 2, (6, 8)).astype(np.uint8), RNG.random((6, 8)) < 0.5
    Image.fromarray(np.dstack([label, np.where(clear, 0, 255).astype(np.uint8)]), "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png"), label)
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", **IGNORING), np.where(clear, IGNORE, label))


@pytest.mark.parametrize("ending", ["png", "gif"])
@pytest.mark.parametrize("classes", [THREE, [*COLORS, {"name": "road", "values": ["#00ff00"]}]])
def test_a_transparent_entry_of_a_palette(tmp_path, ending, classes):
    label = RNG.integers(0, 3, (6, 8)).astype(np.uint8)
    picture = Image.fromarray(label, "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / f"a.{ending}", transparency=0)
    np.testing.assert_array_equal(mask_of(tmp_path / f"a.{ending}", classes=classes), label)


def test_a_colour_declared_transparent_hides_no_other(tmp_path):
    which = RNG.integers(0, 2, (6, 8))
    picture = Image.fromarray(np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[which], "RGB")
    picture.save(tmp_path / "a.png", transparency=(0, 0, 0))
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", classes=COLORS), which)


def test_one_band_per_class(tmp_path):
    label = RNG.choice(np.array([0, 1, 7], np.uint8), (3, 6, 8))
    settings = {"classes": THREE, "task": "multilabel"}
    found = encoded(write_raster(tmp_path / "a.tif", label, nodata=0), **settings)
    np.testing.assert_array_equal(found.mask, label != 0)
    assert found.claimed == Counter({0: int((label == 0).sum())})
    other = mask_of(write_raster(tmp_path / "b.tif", label, nodata=7), **settings)
    np.testing.assert_array_equal(other, np.where(label == 7, IGNORE, label != 0))


def test_a_threshold(tmp_path):
    soft = RNG.choice(np.array([0, 90, 130, 255], np.uint8), (6, 8))
    settings = {"label": {"threshold": 128}}
    path = write_raster(tmp_path / "a.tif", soft, nodata=0)
    np.testing.assert_array_equal(mask_of(path, **settings), soft >= 128)
    path = write_raster(tmp_path / "b.tif", soft.astype(np.float32) - (soft == 90) * np.float32(10_089), nodata=-9999)
    np.testing.assert_array_equal(mask_of(path, **settings), np.where(soft == 90, IGNORE, soft >= 128))


def test_a_label_on_another_grid(tmp_path):
    label = RNG.integers(0, 2, (6, 8)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", label, nodata=0, crs=UTM, transform=(20, 0, 500_000, 0, -20, 5_000_000))
    classes, data = setup(align="image")
    place = scene(path, 12, 16, transform=TRANSFORM)
    mask = label_masks.mask(place, whole(place), classes, data)
    np.testing.assert_array_equal(mask, label.repeat(2, 0).repeat(2, 1))


def test_outside_the_label_nothing_is_annotated(tmp_path):
    label = np.zeros((6, 8), np.uint8)
    path = write_raster(tmp_path / "a.tif", label, nodata=0, crs=UTM, transform=TRANSFORM)
    classes, data = setup(align="image")
    place = scene(path, 9, 8, transform=TRANSFORM)
    mask = label_masks.mask(place, whole(place), classes, data)
    assert (mask[:6] == 0).all() and (mask[6:] == IGNORE).all()


# ----------------------------------------------------------------------------------------------- index says so, once


def two_scenes(folder):
    label = (RNG.random((64, 64)) < 0.3).astype(np.uint8)
    for number, nodata in enumerate([None, 0, 0]):
        where = (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])
        make_scene(
            folder, f"s{number}", label=label, label_ending=".tif", label_nodata=nodata, transform=where, seed=number
        )
    return int((label == 0).sum()), int(label.sum())


def test_index_counts_the_class_and_says_so_once(tmp_path, caplog):
    ground, disc = two_scenes(tmp_path)
    with caplog.at_level(logging.WARNING):
        manifest = index.index(recipe_for(tmp_path))
    assert [pixels for _, pixels, _ in manifest.shares()] == [3 * ground, 3 * disc]
    (said,) = [r.getMessage() for r in caplog.records if "nodata" in r.getMessage()]
    assert f"0 counts as class ground ({2 * ground} pixels in 2 labels: s1, s2)" in said
    assert "data.ignore_values: [0]" in said and "data.label.nodata: ignore" in said


def test_chips_see_what_index_counted(tmp_path):
    two_scenes(tmp_path)
    manifest = index.index(recipe_for(tmp_path))
    for one in manifest.scenes:
        found = label_masks.mask(one, whole(one), manifest.classes, recipe_for(tmp_path).data)
        assert not (found == IGNORE).any()


def test_a_manifest_of_an_older_version_is_still_current(tmp_path):
    two_scenes(tmp_path)
    recipe = recipe_for(tmp_path)
    index.index(recipe)
    pointer = tmp_path / "runs" / "tiny" / "manifest.json"
    entry = json.loads(pointer.read_text())
    for key in ("nodata", "palette"):
        del entry["data"]["label"][key]
    pointer.write_text(json.dumps(entry))
    assert len(index.current(recipe).scenes) == 3
