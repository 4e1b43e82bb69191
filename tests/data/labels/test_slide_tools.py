"""GeoJSON as slide tools write it: bare lists, single shapes, attributes inside of attributes."""

import json

import numpy as np
import pytest
import shapely

from pipeline.data.labels import masks
from pipeline.errors import LabelError
from tests.data.labels.places import scene, setup, vector, whole
from tests.factory import UTM

THREE = [{"name": "ground"}, {"name": "Tumor"}, {"name": "Stroma"}]
NESTED = {"label": {"attribute": "classification.name"}, "classes": THREE}


def polygon(left, top, right, bottom):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(geometry, name=None, **properties):
    """As QuPath exports an annotation."""
    kind = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return {
        "type": "Feature",
        "id": "7f2c",
        "geometry": geometry,
        "properties": {"objectType": "annotation", **kind, **properties},
    }


TUMOR, STROMA = feature(polygon(2, 3, 10, 9), "Tumor"), feature(polygon(20, 3, 30, 9), "Stroma")


def mask_of(path, tree, **settings):
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    classes, data = setup(**settings)
    place = scene(path, 20, 40, crs=None, transform=(1, 0, 0, 0, 1, 0))
    return masks.mask(place, whole(place), classes, data)


def expected(stroma=2):
    mask = np.zeros((20, 40), np.uint8)
    mask[3:9, 2:10], mask[3:9, 20:30] = 1, stroma
    return mask


@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\t"])
def test_a_bare_list_of_features(tmp_path, name, before):
    text = before + json.dumps([TUMOR, STROMA])
    np.testing.assert_array_equal(mask_of(tmp_path / name, text, **NESTED), expected())
    np.testing.assert_array_equal(mask_of(tmp_path / name, text), expected(1))


def test_an_empty_list_has_no_shapes(tmp_path):
    assert (mask_of(tmp_path / "a.geojson", []) == 0).all()


def test_a_collection_with_nested_attributes(tmp_path):
    tree = {"type": "FeatureCollection", "features": [TUMOR, STROMA]}
    np.testing.assert_array_equal(mask_of(tmp_path / "a.geojson", tree, **NESTED), expected())


def test_lines_of_features_with_nested_attributes(tmp_path):
    text = json.dumps(TUMOR) + "\n" + json.dumps(STROMA) + "\n"
    np.testing.assert_array_equal(mask_of(tmp_path / "a.geojsonl", text, **NESTED), expected())


def test_attributes_may_lie_deeper_or_have_dots_in_their_names(tmp_path):
    one = feature(polygon(2, 3, 10, 9), measured={"by": {"grade": 1}}, **{"a.b": 1})
    other = feature(polygon(20, 3, 30, 9), measured={"by": {"grade": 2}}, **{"a.b": 2})
    for name in ("measured.by.grade", "a.b"):
        settings = {"label": {"attribute": name}, "classes": [{"name": n, "values": [i]} for i, n in enumerate("abc")]}
        np.testing.assert_array_equal(mask_of(tmp_path / "a.geojson", [one, other], **settings), expected())


def test_the_order_may_be_nested_too(tmp_path):
    over = [
        feature(polygon(2, 3, 10, 9), "Tumor", z={"level": 2}),
        feature(polygon(2, 3, 10, 9), "Stroma", z={"level": 1}),
    ]
    settings = {**NESTED, "label": {"attribute": "classification.name", "order": "z.level"}}
    assert (mask_of(tmp_path / "a.geojson", over, **settings)[3:9, 2:10] == 1).all()


def test_shapes_without_a_class_are_named(tmp_path):
    with pytest.raises(LabelError, match=r"null \(1 shapes\)"):
        mask_of(tmp_path / "a.geojson", [TUMOR, feature(polygon(1, 1, 2, 2))], **NESTED)


def test_what_is_there_instead_is_named(tmp_path):
    settings = {"label": {"attribute": "classification.title"}, "classes": THREE}
    with pytest.raises(LabelError, match=r"no shape has an attribute classification\.title; .* has color, name"):
        mask_of(tmp_path / "a.geojson", [TUMOR], **settings)
    with pytest.raises(LabelError, match=r"no attribute kind\.name; .* id, objectType, classification") as caught:
        mask_of(tmp_path / "b.geojson", [TUMOR], label={"attribute": "kind.name"}, classes=THREE)
    assert "classification.name" in caught.value.hint


def test_json_in_a_column_of_another_format(tmp_path):
    shapes = [shapely.box(500_020, 4_999_910, 500_100, 4_999_970)]
    path = vector(tmp_path / "a.gpkg", shapes, UTM, kind=[json.dumps({"name": "Tumor"})])
    classes, data = setup(label={"attribute": "kind.name"}, classes=THREE)
    place = scene(path, 20, 40)
    np.testing.assert_array_equal(masks.mask(place, whole(place), classes, data) == 1, expected(0) == 1)


@pytest.mark.parametrize(
    "tree",
    [
        TUMOR,
        TUMOR["geometry"],
        {"type": "GeometryCollection", "geometries": [TUMOR["geometry"]]},
        [feature({"type": "GeometryCollection", "geometries": [TUMOR["geometry"]]})],
        [TUMOR["geometry"]],
    ],
    ids=["feature", "geometry", "collection", "feature of a collection", "list of geometries"],
)
def test_one_shape_in_any_wrapping(tmp_path, tree):
    np.testing.assert_array_equal(mask_of(tmp_path / "a.geojson", tree) == 1, expected(0) == 1)


@pytest.mark.parametrize("text", ["[1, 2, 3]", "[", '["Feature"]', '[{"type": "Feature", ]'])
def test_lists_of_something_else_are_refused(tmp_path, text):
    with pytest.raises(LabelError, match=r"a\.geojson"):
        mask_of(tmp_path / "a.geojson", text)
