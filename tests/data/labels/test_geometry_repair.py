"""Shapes that cross themselves are repaired, unless that would take all memory."""

import numpy as np
import pytest
import shapely

from pipeline.data.labels import geometry_repair, masks, vectors
from pipeline.errors import LabelError
from tests.data.labels.places import geojson, scene, setup, whole

RNG = np.random.default_rng(0)
SQUARE = shapely.box(0, 0, 10, 10)


def table(*shapes):
    return vectors.table("a.geojson", None, shapely.to_wkb(np.array(shapes, object)), {})


def scribble(num):
    return shapely.Polygon(RNG.random((num, 2)) * 1000)


def test_a_ring_that_crosses_itself_too_often_is_named():
    with pytest.raises(LabelError, match=r"a\.geojson: shape 2 of the file, of 20001 vertices, crosses itself"):
        table(SQUARE, scribble(20_000))


def test_parts_that_cross_each_other_too_often():
    parts = [scribble(60).buffer(0) for _ in range(3)]
    several = shapely.MultiPolygon([shapely.Polygon(RNG.random((400, 2)) * 1000) for _ in range(3)])
    with pytest.raises(LabelError, match="shape 1 of the file"):
        table(several, *parts)


def test_a_long_ring_that_hardly_crosses_itself_is_repaired():
    angle = np.linspace(0, 2 * np.pi, 200_001)[:-1]
    points = np.column_stack([np.cos(angle), np.sin(angle)]) * 1000
    points[[1000, 1005]] = points[[1005, 1000]]
    found = table(shapely.Polygon(points))
    assert found.repaired.tolist() == [True]
    assert found.geometry[0].area == pytest.approx(np.pi * 1e6, rel=1e-3)


def test_a_few_crossings_of_many_vertices_are_counted_exactly():
    star = shapely.Polygon([(np.cos(a), np.sin(a)) for a in 2 * np.pi * np.arange(501) * 2 / 501])
    assert geometry_repair._crosses_too_often(star) is False
    assert geometry_repair._crosses_too_often(scribble(3000)) is True


def test_small_shapes_are_repaired_whatever_they_cross():
    found = table(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]))
    assert found.geometry[0].area == pytest.approx(50) and found.repaired.tolist() == [True]


def test_a_line_with_a_width_that_crosses_itself_too_often(tmp_path):
    classes, data = setup(label={"buffer": 2.0})
    line = shapely.LineString(RNG.random((3000, 2)) * 50)
    place = scene(geojson(tmp_path / "a.geojson", [line]), crs=None, transform=(1, 0, 0, 0, 1, 0))
    with pytest.raises(LabelError, match=r"shape 1 of the file, of 3000 vertices, crosses itself"):
        masks.mask(place, whole(place), classes, data)
