import math

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint

from pipeline.data.labels import summary
from pipeline.data.rasters import raster_io
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import LabelError, SceneError
from tests.data.labels.places import geojson, in_utm, setup
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster

RNG = np.random.default_rng(0)
DEGREES = (0.0001, 0.0, 14.998, 0.0, -0.0001, 45.1545)


@pytest.fixture
def image(tmp_path):
    return write_raster(tmp_path / "image.tif", make_pixels(3, 64, 80, "uint8"), crs=UTM, transform=TRANSFORM)


def share_annotated(found):
    return found.num_annotated / found.num_pixels


def look(image, path, aoi=None, part=None, **settings):
    classes, data = setup(**settings)
    found = SceneFiles("a", str(image), None if path is None else str(path), aoi=None if aoi is None else str(aoi))
    return summary.summarise(found, raster_io.describe(str(image)), classes, data, part=part)


def label_file(path, choice=(0, 1), size=(64, 80), **where):
    label = RNG.choice(np.array(choice, np.uint8), size)
    return label, write_raster(path, label, **({"crs": UTM, "transform": TRANSFORM} | where))


def test_what_a_raster_holds(tmp_path, image):
    label, path = label_file(tmp_path / "a.tif", (0, 1, 1, 9))
    found = look(image, path, ignore_values=[9])
    counts = tuple(int((label == k).sum()) for k in (0, 1))
    assert found.class_counts == counts and found.problems == found.warnings == ()
    assert (found.num_pixels, found.num_annotated) == (64 * 80, sum(counts))
    assert share_annotated(found) == pytest.approx((label != 9).mean())


def test_the_stamp_tells_contents_apart(tmp_path, image):
    label, path = label_file(tmp_path / "a.tif")
    copy = write_raster(tmp_path / "b.tif", label, crs=UTM, transform=TRANSFORM, tiled=True, compress="deflate")
    label[5, 5] ^= 1
    other = write_raster(tmp_path / "c.tif", label, crs=UTM, transform=TRANSFORM)
    stamps = [look(image, p).stamp for p in (path, copy, other)]
    assert stamps[0] == stamps[1] != stamps[2] and len(stamps[0]) == 16


def test_windows_together_are_the_whole(tmp_path, monkeypatch, image):
    _, path = label_file(tmp_path / "a.tif", (0, 1, 9))
    once = look(image, path, ignore_values=[9])
    monkeypatch.setattr("pipeline.data.labels.summary._WINDOW", 17)
    pieces = look(image, path, ignore_values=[9])
    assert (pieces.class_counts, pieces.num_annotated) == (once.class_counts, once.num_annotated)


def test_a_part_of_an_image_has_its_part_of_the_label(tmp_path, image):
    label, path = label_file(tmp_path / "a.tif")
    found = look(image, path, part=(10, 20, 30, 40))
    assert found.class_counts[1] == (label[10:40, 20:60] == 1).sum() and found.num_pixels == 1200


def test_all_strangers_of_the_whole_scene_are_counted(tmp_path, monkeypatch, image):
    monkeypatch.setattr("pipeline.data.labels.summary._WINDOW", 17)
    label, path = label_file(tmp_path / "a.tif", (0, 1, 7, 8))
    (problem,) = look(image, path).problems
    assert isinstance(problem, LabelError)
    assert f"7 ({(label == 7).sum()} pixels)" in problem.message
    assert f"8 ({(label == 8).sum()} pixels)" in problem.message


def test_what_a_vector_file_holds(tmp_path, image):
    bow = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    path = geojson(tmp_path / "a.geojson", [*in_utm([bow, shapely.box(40, 40, 50, 50)]), None], UTM)
    found = look(image, path)
    assert found.problems == ()
    assert (found.num_shapes, found.num_repaired, found.num_empty) == (2, 1, 1)
    assert found.class_counts == (64 * 80 - found.class_counts[1], found.class_counts[1])
    assert 290 < found.class_counts[1] < 320
    assert [w.split(": ")[1] for w in found.warnings] == [
        "1 shapes have no geometry and are left out",
        f"1 invalid shapes of {path} were repaired",
    ]


def test_shapes_with_unknown_values_are_counted_once(tmp_path, monkeypatch, image):
    monkeypatch.setattr("pipeline.data.labels.summary._WINDOW", 17)
    path = geojson(tmp_path / "a.geojson", in_utm([shapely.box(0, 0, 60, 60)]), UTM, kind=["tree"])
    (problem,) = look(image, path, label={"attribute": "kind"}).problems
    assert "tree (1 shapes)" in problem.message


def test_shapes_elsewhere_are_a_warning(tmp_path, image):
    path = geojson(tmp_path / "a.geojson", in_utm([shapely.box(900, 900, 950, 950)]), UTM)
    found = look(image, path)
    assert found.problems == () and len(found.warnings) == 1
    assert f"scene a: no shape of {path} touches it: the file has 1 shapes at x 509000" in found.warnings[0]


def test_one_file_may_serve_all_scenes(tmp_path, image):
    path = geojson(tmp_path / "all.geojson", in_utm([shapely.box(60, 0, 100, 40), shapely.box(300, 0, 301, 1)]), UTM)
    east = (10.0, 0.0, TRANSFORM[2] + 800, 0.0, -10.0, TRANSFORM[5])
    other = write_raster(tmp_path / "b.tif", make_pixels(3, 64, 80, "uint8"), crs=UTM, transform=east)
    assert look(image, path).class_counts[1] == look(other, path).class_counts[1] == 20 * 40


def test_an_area_of_interest_counts(tmp_path, image):
    label, path = label_file(tmp_path / "a.tif")
    aoi = geojson(tmp_path / "aoi.geojson", in_utm([shapely.box(0, 0, 20, 64)]), UTM)
    found = look(image, path, aoi)
    assert found.class_counts[1] == (label[:, :20] == 1).sum() and share_annotated(found) == 0.25
    nowhere = geojson(tmp_path / "no.geojson", in_utm([shapely.box(900, 0, 901, 64)]), UTM)
    assert look(image, path, nowhere).warnings == ("scene a: nothing in it is annotated",)


def test_one_mask_per_class_is_counted_per_class(tmp_path, image):
    label = RNG.choice(np.array([0, 1, 9], np.uint8), (2, 64, 80))
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=TRANSFORM)
    found = look(image, path, task="multilabel", ignore_values=[9])
    assert found.class_counts == tuple(int((band == 1).sum()) for band in label)
    assert found.num_annotated == ((label != 9).any(axis=0)).sum()


def test_without_a_label_there_is_nothing_to_say(image):
    assert look(image, None) == summary.LabelSummary()


# ------------------------------------------------------------------------------------------------ known-bad grids

BAD = {
    "resolution": ((20, 0, 5e5, 0, -20, 5e6), UTM, (32, 40), "80 × 64 pixels against 40 × 32"),
    "crs": (TRANSFORM, "EPSG:32634", (64, 80), "EPSG:32633 against EPSG:32634"),
    "degrees": (DEGREES, "EPSG:4326", (64, 80), "EPSG:32633 against EPSG:4326"),
    "half a pixel": ((10, 0, 5e5 + 5, 0, -10, 5e6 - 5), UTM, (64, 80), "half a pixel"),
    "south-up": ((10, 0, 5e5, 0, 10, 5e6 - 640), UTM, (64, 80), "begin in the south"),
    "rotated": ((8, 6, 5e5, 6, -8, 5e6), UTM, (64, 80), "shifted by up to"),
    "shifted": ((10, 0, 5e5 + 40, 0, -10, 5e6), UTM, (64, 80), "shifted by up to 4 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_another_grid_is_refused_and_by_recipe_brought_to_the_image(tmp_path, image, name):
    transform, crs, size, says = BAD[name]
    _, path = label_file(tmp_path / "a.tif", size=size, crs=crs, transform=transform)
    (problem,) = look(image, path).problems
    assert isinstance(problem, SceneError) and says in problem.message
    assert str(image) in problem.message and str(path) in problem.message
    assert "data.align: image" in problem.hint
    aligned = look(image, path, align="image")
    assert aligned.problems == ()
    assert (aligned.num_annotated > 1000) == (name != "crs")


def test_longitudes_of_two_kinds_are_refused_with_the_reason(tmp_path):
    pixels = make_pixels(1, 64, 80, "uint8")
    east, west = ((0.1, 0, lon, 0, -0.1, 10.0) for lon in (190.0, -170.0))
    image = write_raster(tmp_path / "image.tif", pixels, crs="EPSG:4326", transform=east)
    _, path = label_file(tmp_path / "a.tif", crs="EPSG:4326", transform=west)
    (problem,) = look(image, path).problems
    assert "360 degrees of longitude" in problem.message
    assert share_annotated(look(image, path, align="image")) == 1


def test_a_transform_that_is_none_is_refused_also_with_alignment(tmp_path, image):
    _, path = label_file(tmp_path / "a.tif", transform=(math.nan, 0, 5e5, 0, -10, 5e6))
    for settings in ({}, {"align": "image"}):
        (problem,) = look(image, path, **settings).problems
        assert "its transform holds no numbers" in problem.message


def test_without_coordinates_only_sizes_can_be_compared(tmp_path, image):
    label = RNG.integers(0, 2, (64, 80)).astype(np.uint8)
    assert look(image, write_raster(tmp_path / "a.png", label)).class_counts[1] == label.sum()
    (problem,) = look(image, write_raster(tmp_path / "b.png", label[:32]), align="image").problems
    assert "80 × 64 pixels against 80 × 32" in problem.message


def test_an_area_of_interest_on_another_grid_is_refused(tmp_path, image):
    _, path = label_file(tmp_path / "a.tif")
    _, aoi = label_file(tmp_path / "aoi.tif", size=(10, 10))
    (problem,) = look(image, path, aoi).problems
    assert str(aoi) in problem.message


def test_label_and_area_are_both_named(tmp_path, image):
    (tmp_path / "a.tif").write_bytes(b"?")
    (tmp_path / "aoi.geojson").write_text("{")
    problems = look(image, tmp_path / "a.tif", tmp_path / "aoi.geojson").problems
    assert [name in p.message for name, p in zip(("a.tif", "aoi.geojson"), problems, strict=True)] == [True, True]


def with_control_points(path, bend=0.0):
    """An image that has no transform but control points in degrees."""
    corners = [(r, c) for r in (0, 32, 64) for c in (0, 40, 80)]
    points = [
        GroundControlPoint(row=r, col=c, x=14.998 + 0.0001 * c + bend * (r - 32) ** 2, y=45.15 - 0.0001 * r)
        for r, c in corners
    ]
    write_raster(path, make_pixels(3, 64, 80, "uint8"))
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, rasterio.CRS.from_epsg(4326))
    return path


def test_control_points_place_an_image(tmp_path):
    image = with_control_points(tmp_path / "image.tif")
    box = shapely.box(14.999, 45.146, 15.003, 45.148)  # columns 10 to 50, rows 20 to 40
    assert look(image, geojson(tmp_path / "a.geojson", [box])).class_counts[1] == 40 * 20
    _, path = label_file(tmp_path / "a.tif", crs="EPSG:4326", transform=(0.0001, 0, 14.998, 0, -0.0001, 45.15))
    assert share_annotated(look(image, path)) == 1
    _, shifted = label_file(tmp_path / "b.tif", crs="EPSG:4326", transform=(0.0001, 0, 14.999, 0, -0.0001, 45.15))
    (problem,) = look(image, shifted).problems
    assert "shifted by up to 10 pixels" in problem.message


def test_control_points_that_bend_an_image_place_nothing(tmp_path):
    image = with_control_points(tmp_path / "image.tif", bend=1e-6)
    box = shapely.box(14.999, 45.146, 15.003, 45.148)
    (warning,) = look(image, geojson(tmp_path / "a.geojson", [box])).warnings
    assert "are they degrees?" in warning
    (problem,) = look(image, geojson(tmp_path / "b.geojson", in_utm([box]), UTM)).problems
    assert "its shapes are in EPSG:32633, but the scene has no CRS" in problem.message
