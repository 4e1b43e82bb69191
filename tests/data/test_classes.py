import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.classes import IGNORE, Classes, default_color
from pipeline.errors import LabelError
from tests.factory import recipe_for


def make(values, ignore=()):
    names = tuple(f"c{i}" for i in range(len(values)))
    return Classes(names, tuple(default_color(i) for i in range(len(values))), tuple(map(tuple, values)), tuple(ignore))


@st.composite
def codes(draw):
    """Classes with one to three label values each, dense or far apart, and some ignored values."""
    span = draw(st.sampled_from([20, 300, 2**31 - 1]))
    values = draw(st.lists(st.integers(-span, span), min_size=4, max_size=12, unique=True))
    num_classes = draw(st.integers(2, len(values) - 1))
    groups = [[v] for v in values[:num_classes]]
    for position, value in enumerate(values[num_classes + 1 :]):
        groups[position % num_classes].append(value)
    return make(groups, values[num_classes : num_classes + 1])


@given(codes(), st.integers(0, 2**32 - 1))
def test_encoding_is_the_inverse_of_the_codes(classes, seed):
    rng = np.random.default_rng(seed)
    codes = [*classes.values, classes.ignore_values]
    wanted = rng.integers(0, len(codes), (5, 7))
    label = np.array([[rng.choice(codes[k]) for k in row] for row in wanted], np.int32)
    mask = classes.encode(label, "a")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.where(wanted == len(classes), IGNORE, wanted))


@given(codes(), st.integers(-(2**31), 2**31 - 1))
def test_a_value_without_a_class_is_never_accepted(classes, value):
    known = {v for values in classes.values for v in values} | set(classes.ignore_values)
    label = np.array([[classes.values[0][0], value]], np.int32)
    if value in known:
        classes.encode(label, "a")
    else:
        with pytest.raises(LabelError, match=rf" {value} \(1 pixels\)"):
            classes.encode(label, "a")


def test_the_error_names_values_counts_scene_and_what_is_known():
    label = np.array([[0, 32, 7, 7], [64, 255, 7, 9]], np.uint8)
    with pytest.raises(LabelError) as caught:
        make([(0,), (32, 64)], [255]).encode(label, "north_3")
    assert caught.value.message == (
        "scene north_3: label values without a class: 7 (3 pixels), 9 (1 pixels). "
        "Known values are c0: 0; c1: 32, 64; ignored: 255"
    )
    assert "data.classes" in caught.value.hint and "data.ignore_values" in caught.value.hint


def test_many_strange_values_make_a_short_message():
    with pytest.raises(LabelError, match="and 92 more") as caught:
        make([(1000,), (1001,)]).encode(np.arange(100).reshape(10, 10), "a")
    assert len(caught.value.message) < 400


def test_values_under_invalid_pixels_are_not_looked_at():
    label = np.array([[0, 1, 77]], np.int32)
    mask = make([(0,), (1,)]).encode(label, "a", np.array([[True, False, False]]))
    np.testing.assert_array_equal(mask, [[0, IGNORE, IGNORE]])


def test_255_is_an_ordinary_label_value():
    np.testing.assert_array_equal(make([(0,), (255,)]).encode(np.array([[0, 255]], np.uint8), "a"), [[0, 1]])


def test_a_label_is_not_changed_by_encoding_it():
    label = np.array([[0, 1]], np.int32)
    make([(1,), (0,)]).encode(label, "a")
    np.testing.assert_array_equal(label, [[0, 1]])


def test_from_a_recipe(tmp_path):
    section = recipe_for(
        tmp_path,
        **{
            "data.classes": [{"name": "ground", "color": "#0a0bff"}, {"name": "roof", "values": [7, 9]}],
            "data.ignore_values": [5],
        },
    ).data
    classes = Classes.from_section(section)
    assert classes.names == ("ground", "roof") and len(classes) == 2
    assert classes.values == ((0,), (7, 9)) and classes.ignore_values == (5,)
    assert classes.colors == ((10, 11, 255), default_color(1))
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes


def test_default_colours_differ_however_many_there_are():
    colors = [default_color(i) for i in range(60)]
    assert len(set(colors)) == 60
    assert all(0 <= v <= 255 for color in colors for v in color)
