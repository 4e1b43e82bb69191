"""Coordinates of vector files whose CRS is not said, or said wrongly."""

import json

import numpy as np
import pytest
import shapely

from pipeline.data.labels import masks, summary
from pipeline.data.rasters import raster_io
from pipeline.data.scenes import index
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import LabelError
from tests.data.labels.places import geojson, in_utm, scene, setup, vector, whole
from tests.factory import TRANSFORM, UTM, make_pixels, make_scene, recipe_for, write_raster

BOX = shapely.box(10, 20, 40, 50)


def mask_of(path, **settings):
    classes, data = setup(**settings)
    place = scene(path)
    return masks.mask(place, whole(place), classes, data)


def box_mask():
    mask = np.zeros((64, 80), np.uint8)
    mask[20:50, 10:40] = 1
    return mask


def test_metres_are_no_degrees(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([BOX]))
    with pytest.raises(LabelError) as caught:
        mask_of(path)
    assert "a.geojson" in caught.value.message and "should be degrees" in caught.value.message
    assert "(500400, 4999800)" in caught.value.message
    assert "ogr2ogr -a_srs EPSG:32633" in caught.value.hint and "data.label.crs: EPSG:32633" in caught.value.hint


def test_the_recipe_says_the_crs(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([BOX]))
    np.testing.assert_array_equal(mask_of(path, label={"crs": UTM}), box_mask())
    path = vector(tmp_path / "b.shp", in_utm([BOX]), None, kind=["x"])
    with pytest.raises(LabelError, match="does not say what its coordinates mean") as caught:
        mask_of(path)
    assert "data.label.crs" in caught.value.hint
    np.testing.assert_array_equal(mask_of(path, label={"crs": UTM}), box_mask())
    wrong = vector(tmp_path / "c.gpkg", in_utm([BOX]), "EPSG:32634")
    np.testing.assert_array_equal(mask_of(wrong, label={"crs": UTM}), box_mask())
    with pytest.raises(LabelError, match=r"data\.label\.crs 'EPSG:1' is no CRS"):
        mask_of(path, label={"crs": "EPSG:1"})


def test_a_crs_member_is_enough(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([BOX]), UTM)
    np.testing.assert_array_equal(mask_of(path), box_mask())


def test_lines_of_geojson_in_metres(tmp_path):
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(s)} for s in in_utm([BOX])]
    path = tmp_path / "a.geojsonl"
    path.write_text("".join(json.dumps(f) + "\n" for f in features * 2))
    with pytest.raises(LabelError, match="should be degrees"):
        mask_of(path)


def test_latitude_first(tmp_path):
    path = geojson(tmp_path / "a.geojson", [shapely.box(45.0, 100.0, 45.1, 100.1)])
    with pytest.raises(LabelError, match=r"\(45\.?[01]*, 100\.?[01]*\): latitude seems to come first"):
        mask_of(path)


def test_longitudes_of_every_kind_are_degrees(tmp_path):
    for turn in (-360, 0, 360):
        path = geojson(tmp_path / "a.geojson", [shapely.box(14 + turn, 44, 16 + turn, 46)])
        assert (mask_of(path) == 1).all()


@pytest.mark.parametrize("what", ["aoi", "footprint"])
def test_areas_in_metres(tmp_path, what):
    image = write_raster(tmp_path / "image.tif", make_pixels(3, 64, 80, "uint8"), crs=UTM, transform=TRANSFORM)
    path = geojson(tmp_path / "a.geojson", in_utm([BOX]))
    label = geojson(tmp_path / "b.geojson", in_utm([BOX]), UTM)
    classes, data = setup()
    found = SceneFiles("a", str(image), str(label), **{what: str(path)})
    info = raster_io.describe(str(image))
    look = (
        summary.summarise(found, info, classes, data)
        if what == "aoi"
        else summary.summarise_footprint(found, info, data)
    )
    (problem,) = look.problems
    assert "should be degrees" in problem.message and "a.geojson" in problem.message


def test_a_scene_without_a_crs_takes_any_number_for_pixels(tmp_path):
    classes, data = setup()
    path = geojson(tmp_path / "a.geojson", [shapely.box(100, 600, 120, 650)])
    place = scene(path, 700, 200, crs=None, transform=(1, 0, 0, 0, 1, 0))
    assert masks.mask(place, whole(place), classes, data).sum() == 20 * 50


# ------------------------------------------------------------------------------------------ shapes that miss all scenes


def two_scenes(folder, shapes):
    for number in range(2):
        where = (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])
        make_scene(folder, f"s{number}", transform=where, label_ending=None, seed=number)
        (folder / "masks").mkdir(exist_ok=True)
        geojson(folder / "masks" / f"s{number}.geojson", shapes[number])
    return recipe_for(folder)


def test_shapes_that_miss_every_scene_are_an_error(tmp_path):
    swapped = shapely.box(45.14, 15.0, 45.15, 15.15)
    with pytest.raises(LabelError) as caught:
        index.index(two_scenes(tmp_path, [[swapped]] * 2))
    assert "no shape of any label touches its scene: of scene s0 the file has 1 shapes at x 45.14" in str(caught.value)
    assert "x and y seem to be swapped" in caught.value.message and "data.label.crs" in caught.value.hint


def test_one_scene_without_its_shapes_is_a_warning(tmp_path, caplog):
    there, away = shapely.box(15.0, 45.14, 15.003, 45.2), shapely.box(2, 3, 4, 5)
    manifest = index.index(two_scenes(tmp_path, [[there], [away]]))
    assert manifest.scenes[0].class_counts[1] > 0 == manifest.scenes[1].class_counts[1]
    assert "touches it: the file has 1 shapes at x 2 to 4, y 3 to 5" in caplog.text


def test_files_without_shapes_are_no_error(tmp_path):
    assert len(index.index(two_scenes(tmp_path, [[], []])).scenes) == 2
