"""Classes are counted where the image is valid; a class that never is makes training pointless."""

import numpy as np
import pytest
import shapely

from pipeline.data.labels import aoi
from pipeline.data.scenes import index
from pipeline.errors import LabelError
from tests.data.labels.places import geojson, in_utm
from tests.factory import TRANSFORM, UTM, make_pixels, make_scene, recipe_for, write_raster

RNG = np.random.default_rng(0)
LABEL = (RNG.random((64, 64)) < 0.3).astype(np.uint8)


def manifest_of(folder, **overrides):
    return index.index(recipe_for(folder, **{"data.split.test": 0, "data.split.val": 0, **overrides}))


def counts(folder, **overrides):
    return manifest_of(folder, **overrides).scenes[0].class_counts


def expected(valid, label=LABEL):
    return tuple(int(((label == k) & valid).sum()) for k in (0, 1))


@pytest.mark.parametrize(
    ("invalid", "dtype"),
    [("nodata", "uint8"), ("mask", "uint8"), ("alpha", "uint8"), ("nan", "float32"), ("none", "int16")],
)
def test_labelled_pixels_count_where_the_image_is_valid(tmp_path, invalid, dtype):
    valid = make_scene(tmp_path, label=LABEL, invalid=invalid, dtype=dtype)
    assert counts(tmp_path) == expected(valid)
    assert valid.all() == (invalid == "none")


def test_the_recipes_nodata_counts(tmp_path):
    pixels = make_pixels(3, 64, 64, "uint8")
    pixels[:, 10:30, 5:20] = 0
    make_scene(tmp_path, label=LABEL, pixels=pixels)
    assert counts(tmp_path, **{"data.nodata": 0}) == expected((pixels != 0).all(axis=0))


def test_the_footprint_counts(tmp_path):
    make_scene(tmp_path, label=LABEL)
    geojson(tmp_path / "valid.geojson", in_utm([shapely.box(0, 0, 40, 64)]), UTM)
    valid = np.arange(64)[None] < np.full((64, 1), 40)
    assert counts(tmp_path, **{"data.footprint": "valid.geojson"}) == expected(valid)


def test_one_band_per_class(tmp_path):
    planes = np.stack([LABEL, 1 - LABEL])
    valid = make_scene(tmp_path, label=planes, label_ending=".tif", invalid="nodata")
    assert counts(tmp_path, **{"data.task": "multilabel"}) == expected(valid)[::-1]


def test_images_in_several_files(tmp_path):
    valid = make_scene(tmp_path, label=LABEL, invalid="nodata", bands=1)
    (tmp_path / "images" / "a.tif").rename(tmp_path / "images" / "a_red.tif")
    write_raster(tmp_path / "images" / "a_nir.tif", make_pixels(1, 64, 64, "uint8", 5), crs=UTM, transform=TRANSFORM)
    bands = {"red": "images/{id}_red.tif", "nir": "images/{id}_nir.tif"}
    changes = {"data.images": None, "data.bands_apart": bands}
    assert counts(tmp_path, **changes) == expected(np.ones((64, 64), bool))  # the other band has values there
    assert counts(tmp_path, **changes | {"data.reading.nodata_rule": "any"}) == expected(valid)


def test_integers_that_declare_nothing_are_not_read(tmp_path, monkeypatch):
    make_scene(tmp_path, label=LABEL, dtype="uint16")
    monkeypatch.setattr(aoi, "valid", None)
    assert counts(tmp_path) == expected(np.ones((64, 64), bool))


def two_scenes(folder, seen=0):
    """Class 1 lies under nodata, but for `seen` pixels of the second scene."""
    for number in range(2):
        pixels, hidden = make_pixels(3, 64, 64, "uint8", number), LABEL == 1
        if number:
            hidden[tuple(np.argwhere(hidden)[:seen].T)] = False
        pixels[:, hidden] = 0
        where = (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])
        write_raster(folder / "images" / f"s{number}.tif", pixels, crs=UTM, transform=where, nodata=0)
        write_raster(folder / "masks" / f"s{number}.tif", LABEL, crs=UTM, transform=where)


def test_a_class_that_is_never_valid_is_an_error(tmp_path):
    two_scenes(tmp_path)
    with pytest.raises(LabelError) as caught:
        manifest_of(tmp_path)
    pixels = 2 * int(LABEL.sum())
    assert f"class disc: all of its {pixels} labelled pixels, in 2 scenes (s0, s1)" in caught.value.message
    assert "data.reading.nodata_rule" in caught.value.hint and "data.ignore_values" in caught.value.hint


def test_one_valid_pixel_in_one_scene_is_enough(tmp_path):
    two_scenes(tmp_path, seen=1)
    manifest = manifest_of(tmp_path)
    assert [s.class_counts[1] for s in manifest.scenes] == [0, 1]


def test_a_class_that_no_label_holds_stays_a_warning(tmp_path, caplog):
    make_scene(tmp_path, label=np.zeros((64, 64), np.uint8), invalid="nodata")
    manifest_of(tmp_path)
    assert "no label holds a pixel of class disc" in caplog.text
