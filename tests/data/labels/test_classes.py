import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.data.labels.classes import IGNORE, UNKNOWN, Classes, default_color, pack
from pipeline.errors import LabelError
from pipeline.recipe.labels import ClassSpec, canonical, distinct
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


# ------------------------------------------------------------------------------------------------ ranges


@st.composite
def ranges(draw):
    """Disjoint ranges and single numbers, dealt to classes and to ignore_values; and what a dictionary makes of it."""
    gap = draw(st.sampled_from([3, 40, 100_000]))
    cursor, groups, table = draw(st.integers(-gap, gap)), [[] for _ in range(draw(st.integers(2, 4)) + 1)], {}
    for number in range(draw(st.integers(len(groups), 12))):
        cursor += draw(st.integers(1, gap))
        length = draw(st.integers(1, 5))
        owner = number % len(groups)
        groups[owner].append(cursor if length == 1 else f"{cursor}..{cursor + length - 1}")
        table.update(dict.fromkeys(range(cursor, cursor + length), owner if owner < len(groups) - 1 else IGNORE))
        cursor += length
    return make(groups[:-1], groups[-1]), table


@given(ranges(), st.data())
def test_ids_are_those_of_a_plain_dictionary(case, data):
    classes, table = case
    near = sorted({v + d for v in table for d in (-1, 0, 1)})
    label = np.array(data.draw(st.lists(st.sampled_from(near), min_size=6, max_size=6)), np.int32).reshape(2, 3)
    expected = [[table.get(v, UNKNOWN) for v in row] for row in label.tolist()]
    np.testing.assert_array_equal(classes.ids(label), expected)


@given(ranges(), st.sampled_from(["uint8", "int8", "uint16", "int64", "uint32"]))
def test_every_integer_type_means_the_same(case, dtype):
    classes, table = case
    limits = np.iinfo(dtype)
    label = np.array([[v for v in table if limits.min <= v <= limits.max]], np.int64)
    np.testing.assert_array_equal(classes.ids(label.astype(dtype)), classes.ids(label))


@given(ranges(), st.booleans(), st.data())
def test_a_mask_is_what_a_plain_dictionary_says(case, plain, data):
    classes, table = (make([[0], [1], [2, 9]], [255]), {0: 0, 1: 1, 2: 2, 9: 2, 255: IGNORE}) if plain else case
    near = sorted({min(max(v + d, 0), 255) for v in table for d in (-1, 0, 1)})
    label = np.array(data.draw(st.lists(st.sampled_from(near), min_size=6, max_size=6)), np.uint8).reshape(2, 3)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6))).reshape(2, 3)
    before = label.copy()
    for values in (label, label.astype(np.int32)):
        mask, unclaimed = classes.mask(values, valid)
        found = np.where(valid, [[table.get(v, UNKNOWN) for v in row] for row in label.tolist()], IGNORE)
        np.testing.assert_array_equal(mask, np.where(found == UNKNOWN, IGNORE, found))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(np.zeros((2, 3), bool) if unclaimed is None else unclaimed, found == UNKNOWN)
    np.testing.assert_array_equal(label, before)


@given(ranges())
def test_json_keeps_ranges(case):
    classes, _ = case
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes


def test_classes_of_an_older_bundle_are_read():
    old = {"names": ["a", "b"], "colors": [[0, 0, 0], [1, 2, 3]], "values": [[0], [7, 9]], "ignore_values": [255]}
    classes = Classes.from_json(old)
    np.testing.assert_array_equal(classes.encode(np.array([[0, 9, 255]]), "a"), [[0, 1, IGNORE]])
    assert classes.to_json() == old


def test_tables_do_not_travel():
    classes = make([["0..60000"], [60001]])
    classes.encode(np.zeros((2, 2), np.int32), "a")
    assert len(pickle.dumps(classes)) < 1000


# ------------------------------------------------------------------------------------------------ colours

COLORS = make([["#000000", "#010203"], ["#ff0000"]], ["#ffffff"])


@given(st.lists(st.sampled_from([0x000000, 0x010203, 0xFF0000, 0xFFFFFF, 0x020304, 0xFF0001]), min_size=4, max_size=4))
def test_colours_are_those_of_a_plain_dictionary(codes):
    known = {0x000000: 0, 0x010203: 0, 0xFF0000: 1, 0xFFFFFF: IGNORE}
    label = np.array([[c >> bits & 255 for c in codes] for bits in (16, 8, 0)], np.uint8).reshape(3, 2, 2)
    np.testing.assert_array_equal(pack(label).ravel(), codes)
    np.testing.assert_array_equal(COLORS.ids(label).ravel(), [known.get(c, UNKNOWN) for c in codes])


def test_a_strange_colour_is_named_as_it_is_written():
    label = np.zeros((3, 2, 2), np.uint8)
    label[:, 0, 0] = (18, 52, 86)
    with pytest.raises(LabelError, match=r"#123456 \(1 pixels\)"):
        COLORS.encode(label, "a")
    counts, unclaimed = COLORS.tally(label, np.ones((2, 2), bool))
    assert counts.tolist() == [3, 0] and unclaimed == {"#123456": 1}


def test_the_colours_of_a_jpeg_get_the_right_advice():
    rng = np.random.default_rng(0)
    label = np.stack([rng.integers(230, 256, (40, 40)), *rng.integers(0, 20, (2, 40, 40))]).astype(np.uint8)
    with pytest.raises(LabelError) as caught:
        COLORS.encode(label, "a")
    assert "JPEG" in caught.value.hint and len(caught.value.message) < 500


def test_soft_edges_get_the_right_advice():
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(LabelError) as caught:
        make([(0,), (255,)]).encode(label, "a")
    assert "data.label.threshold" in caught.value.hint


# ------------------------------------------------------------------------------------------------ words


def test_attribute_values_as_words_and_numbers():
    classes = make([["ground"], ["house", "shed", 7], ["10..12"]], ["unclear"])
    values = ["ground", "shed", 7, "7", "11", 12, "unclear", "tree", "", 13, "10.5"]
    found = [classes.id_of(value) for value in values]
    assert found == [0, 1, 1, 1, 2, 2, IGNORE, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]


def test_the_name_of_a_class_is_its_attribute_value_unless_values_are_given(tmp_path):
    classes = [{"name": "ground"}, {"name": "house"}, {"name": "shed", "values": ["barn"]}]
    section = recipe_for(tmp_path, **{"data.classes": classes, "data.label.attribute": "kind"}).data
    found = Classes.from_section(section)
    assert [found.id_of(v) for v in ("house", "barn", "shed")] == [1, 2, UNKNOWN]


# ------------------------------------------------------------------------------------------------ the recipe's side


def spec(name, *values):
    return ClassSpec(name=name, values=list(values))


@pytest.mark.parametrize(
    ("classes", "ignore", "says"),
    [
        ([spec("a", "1..5"), spec("b", 5)], [], "label value 5 belongs to a and to b"),
        ([spec("a", "1..9"), spec("b", "3..4")], [], "label value 3 belongs to a and to b"),
        ([spec("a", 0), spec("b", "7..9")], [8], "label value 8 belongs to b and to ignore_values"),
        ([spec("a", "#FF0000"), spec("b", "#ff0000")], [], "label value #ff0000 belongs to a and to b"),
        ([spec("a", "tree"), spec("b", "tree")], [], "label value tree belongs to a and to b"),
        ([ClassSpec(name="a"), spec("b", 0)], [], "label value 0 belongs to a and to b"),
    ],
)
def test_values_that_two_claim_are_refused(classes, ignore, says):
    with pytest.raises(ValueError, match=says):
        distinct(classes, ignore)


def test_a_name_is_a_value_where_shapes_have_attributes():
    classes = [spec("a", 0), ClassSpec(name="house"), spec("shed", "house")]
    distinct(classes, [])
    with pytest.raises(ValueError, match="label value house belongs to house and to shed"):
        distinct(classes, [], named=True)


@given(ranges(), st.data())
def test_disjoint_values_are_accepted_and_any_overlap_is_not(case, data):
    classes, table = case
    specs = [spec(n, *v) for n, v in zip(classes.names, classes.values, strict=True)]
    distinct(specs, classes.ignore_values)
    value = data.draw(st.sampled_from(sorted(table)))
    with pytest.raises(ValueError, match=f"label value {value} belongs to"):
        distinct([*specs, spec("extra", value)], classes.ignore_values)


@pytest.mark.parametrize("value", ["9..5", "#12345", "#gg0000", "123456789012345678901234567890"])
def test_impossible_values_are_refused_when_the_recipe_is_read(value):
    with pytest.raises(ValidationError):
        spec("a", value)


def test_one_spelling_per_value():
    assert [canonical(v) for v in ("7", "-7", "#FFaa00", "007", "a b", "1..2", 3)] == [
        7, -7, "#ffaa00", "007", "a b", "1..2", 3,
    ]  # fmt: skip
