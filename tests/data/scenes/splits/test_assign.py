import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes.index import index
from pipeline.data.scenes.splits.assign import ScenePart, assign, divide
from pipeline.errors import ManifestError
from pipeline.recipe import replace
from pipeline.recipe.sampling import BlocksSplit, FoldsSplit
from tests.factory import UTM, make_scene, recipe_for


def by_hash(folder, **split):
    return recipe_for(folder, **{"data.split": {"kind": "hash", **split}}).data


def by_table(folder, text):
    (folder / "splits.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return recipe_for(folder).data


def by_folds(folder, **split):
    return recipe_for(folder, **{"data.split": {"kind": "folds", **split}}).data


def splits_of(assigned):
    return {i: split for i, (split, _) in assigned.items()}


# ------------------------------------------------------------------------------------------------ table


def test_a_table_is_taken_as_it_is(tmp_path):
    data = by_table(tmp_path, "id,split,group\na,train,x\nb,val,y\nc,test,y\n")
    assert assign(["a", "b", "c"], data) == {"a": ("train", "x"), "b": ("val", "y"), "c": ("test", "y")}


def test_a_table_from_a_spreadsheet(tmp_path):
    data = by_table(tmp_path, b"\xef\xbb\xbfsplit, id\r\ntrain, a\r\ntest , b \r\n")
    assert assign(["a", "b"], data) == {"a": ("train", "a"), "b": ("test", "b")}


def test_a_group_in_two_splits_is_only_a_warning(tmp_path, caplog):
    data = by_table(tmp_path, "id,split,group\na,train,x\nb,test,x\nz,test,q\n")
    with caplog.at_level(logging.WARNING):
        assign(["a", "b"], data)
    assert "1 groups are in several splits: x" in caplog.text
    assert "1 rows belong to no scene: z" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\na,train\n", "1 of 2 scenes are not in it: b\n"),
        ("id,split\na,train\nb,tset\n", "splits are train, val, test, not 'tset'"),
        ("id,split\na,tset\n", "1 of 2 scenes are not in it: b; splits are train, val, test, not 'tset'"),
        ("name,split\na,train\n", "the columns id and split are needed; it has name, split"),
        ("", "the columns id and split are needed; it has nothing"),
        ("id,split\na,train\na,test\nb,test\n", "line 3: a is there twice, differently"),
        (b"id,split\n\xff\xfe,train\n", "is not a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message) as caught:
        assign(["a", "b"], by_table(tmp_path, text))
    assert "splits.csv" in caught.value.message


def test_a_missing_table(tmp_path):
    data = by_table(tmp_path, "id,split\n")
    (tmp_path / "splits.csv").unlink()
    with pytest.raises(ManifestError, match=r"the split table .*/splits\.csv does not exist"):
        assign(["a"], data)


def test_a_table_with_columns_of_other_names(tmp_path):
    by_table(tmp_path, "fold,file,patient\ntrain,a,7\ntest,b,8\n")
    section = {"kind": "table", "id": "file", "split": "fold", "group": "patient"}
    data = recipe_for(tmp_path, **{"data.split": section}).data
    assert assign(["a", "b"], data) == {"a": ("train", "7"), "b": ("test", "8")}
    data = recipe_for(tmp_path, **{"data.split": section | {"id": "name"}}).data
    with pytest.raises(ManifestError, match="the columns name and fold are needed; it has fold, file, patient"):
        assign(["a"], data)


# ------------------------------------------------------------------------------------------------ hash


def test_shares_are_about_those_asked_for_and_all_splits_are_served(tmp_path):
    assigned = splits_of(assign([f"s{i}" for i in range(2000)], by_hash(tmp_path, val=0.1, test=0.2)))
    shares = {s: list(assigned.values()).count(s) / 2000 for s in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.03)


@given(st.lists(st.text("abc123", min_size=1, max_size=4), min_size=3, max_size=12, unique=True))
def test_no_split_that_is_asked_for_is_empty(tmp_path_factory, ids):
    assigned = assign(ids, by_hash(tmp_path_factory.getbasetemp(), val=0.05, test=0.05))
    assert {s for s, _ in assigned.values()} == {"train", "val", "test"}


@pytest.mark.parametrize("before", [12, 100])
def test_scenes_keep_their_split_when_others_are_added(tmp_path, before):
    data = by_hash(tmp_path, val=0.1, test=0.2)
    old = splits_of(assign([f"s{i}" for i in range(before)], data))
    new = splits_of(assign([f"s{i}" for i in range(3 * before)], data, kept=old))
    assert {i: new[i] for i in old} == old
    assert Counter(new.values()) == pytest.approx(
        {"train": 2.1 * before, "val": 0.3 * before, "test": 0.6 * before}, abs=1 + 0.06 * before
    )


def test_of_few_scenes_the_shares_are_met_as_well_as_whole_scenes_can(tmp_path):
    assigned = splits_of(assign([f"s{i}" for i in range(12)], by_hash(tmp_path, val=0.1, test=0.2)))
    assert Counter(assigned.values()) in ({"train": 9, "val": 1, "test": 2}, {"train": 8, "val": 1, "test": 3})


@given(
    st.lists(st.text("abc123", min_size=1, max_size=5), min_size=10, max_size=150, unique=True),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_shares_are_met_to_a_scene_or_to_two_hundredths(tmp_path_factory, ids, val, test, seed):
    data = by_hash(tmp_path_factory.getbasetemp(), val=val / 10, test=test / 10, seed=seed)
    counts = Counter(splits_of(assign(ids, data)).values())
    asked = {"val": val / 10, "test": test / 10, "train": 1 - val / 10 - test / 10}
    for split, share in asked.items():
        assert counts[split] == pytest.approx(share * len(ids), abs=1 + 0.02 * len(ids))


def test_of_many_scenes_each_goes_by_its_own_hash(tmp_path):
    """A clone that knows no manifest of before divides them alike."""
    data = by_hash(tmp_path, val=0.1, test=0.2)
    old = splits_of(assign([f"s{i}" for i in range(5000)], data))
    new = splits_of(assign([f"s{i}" for i in range(6000)], data))
    assert {i: new[i] for i in old} == old


def test_another_seed_divides_anew(tmp_path):
    ids = [f"s{i}" for i in range(40)]
    assert assign(ids, by_hash(tmp_path, test=0.3)) != assign(ids, by_hash(tmp_path, test=0.3, seed=1))


def test_indexed_scenes_keep_their_split_whatever_else_changes(tmp_path, caplog):
    for number in range(5):
        make_scene(tmp_path, f"s{number}", height=8, width=8, seed=number)
    recipe = recipe_for(tmp_path, **{"data.split": {"kind": "hash", "test": 0.4}})
    old = {s.id: s.split for s in index(recipe).scenes}
    assert Counter(old.values()) == {"train": 3, "test": 2}
    for number in range(5, 15):
        make_scene(tmp_path, f"s{number}", height=8, width=8, seed=number)
    changed = replace(recipe, {"data.classes": [{"name": "no"}, {"name": "yes"}]})
    new = {s.id: s.split for s in index(changed).scenes}
    assert {i: new[i] for i in old} == old
    assert Counter(new.values()) == {"train": 9, "test": 6}
    with caplog.at_level(logging.WARNING):
        index(replace(recipe, {"data.split.seed": 3}))
    assert "data.split.test asks" not in caplog.text


def test_shares_that_are_far_off_are_said(tmp_path, caplog):
    """One group of ten scenes and two of one scene: no division is near the shares."""
    for name in ("a1", "b1", *(f"c{i}" for i in range(10))):
        make_scene(tmp_path, name, height=8, width=8)
    with caplog.at_level(logging.WARNING):
        index(recipe_for(tmp_path, **{"data.split": {"kind": "hash", "test": 0.3, "group": "^."}}))
    assert "data.split.test asks for 30%" in caplog.text


@pytest.mark.parametrize("pattern", ["^[a-z]+", "^([a-z]+)_", "(?P<region>[a-z]+)"])
def test_a_group_is_never_divided(tmp_path, pattern):
    ids = [f"{group}_{i}" for group in ("north", "south", "east", "west", "mid") for i in range(8)]
    assigned = assign(ids, by_hash(tmp_path, test=0.4, group=pattern))
    assert {g for _, g in assigned.values()} == {"north", "south", "east", "west", "mid"}
    for i, (split, group) in assigned.items():
        assert i.startswith(group)
        assert {s for s, g in assigned.values() if g == group} == {split}


def test_one_scene_can_train_alone(tmp_path):
    assert assign(["a"], by_hash(tmp_path, test=0)) == {"a": ("train", "a")}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"test": 0.2}, "1 group cannot be divided into test, train"),
        ({"test": 0.2, "val": 0.1, "group": "^."}, "1 group cannot be divided into test, val, train"),
        ({"group": "x"}, "finds no group in 2 of 2 ids: a1, a2"),
        ({"group": "("}, "is no regular expression"),
    ],
)
def test_groups_that_cannot_be_split(tmp_path, split, message):
    ids = ["a1", "a2"] if "group" in split else ["a1"]
    with pytest.raises(ManifestError, match=message):
        assign(ids, by_hash(tmp_path, **split))


# ------------------------------------------------------------------------------------------------ folds


@given(st.lists(st.text("abc123", min_size=1, max_size=4), min_size=5, max_size=30, unique=True), st.booleans())
def test_every_scene_tests_in_exactly_one_fold(tmp_path_factory, ids, val):
    runs = [
        splits_of(assign(ids, by_folds(tmp_path_factory.getbasetemp(), folds=5, fold=fold, val=val)))
        for fold in range(5)
    ]
    assert all([run[i] for run in runs].count("test") == 1 for i in ids)
    assert all([run[i] for run in runs].count("val") == val for i in ids)
    assert all("test" in run.values() and "train" in run.values() for run in runs)


def test_a_patient_is_in_one_fold(tmp_path):
    ids = [f"patient{number}_slice{i}" for number in range(30) for i in range(6)]
    assigned = assign(ids, by_folds(tmp_path, folds=3, fold=1, val=True, group="^patient[0-9]+"))
    splits = {}
    for i, (split, group) in assigned.items():
        assert i.startswith(f"{group}_")
        splits.setdefault(group, set()).add(split)
    assert len(splits) == 30
    assert all(len(of) == 1 for of in splits.values())
    assert {split for of in splits.values() for split in of} == {"train", "val", "test"}


def test_folds_stay_when_scenes_are_added(tmp_path):
    data = by_folds(tmp_path, folds=4, fold=2)
    old = assign([f"s{i}" for i in range(100)], data)
    new = assign([f"s{i}" for i in range(300)], data)
    assert {i: new[i] for i in old} == old


def test_folds_that_cannot_be(tmp_path):
    with pytest.raises(ManifestError, match="3 groups cannot be divided into 5 folds"):
        assign(["a", "b", "c"], by_folds(tmp_path))
    with pytest.raises(ValidationError, match="fold 5 is none of the 5, which are counted from 0"):
        FoldsSplit(fold=5)
    with pytest.raises(ValidationError, match="with two folds, nothing is left to train on"):
        FoldsSplit(folds=2, val=True)


# ------------------------------------------------------------------------------------------------ divide


def test_scenes_are_divided_whole_unless_by_blocks(tmp_path):
    grids = {i: Grid(300, 400 + n, UTM, (1.0, 0.0, 1000.0 * n, 0.0, -1.0, 0.0)) for n, i in enumerate("ba")}
    data = by_hash(tmp_path, test=0.5)
    assigned = assign(["a", "b"], data)
    assert divide(grids, data) == [
        ScenePart("a", "a", (0, 0), 300, 401, *assigned["a"]),
        ScenePart("b", "b", (0, 0), 300, 400, *assigned["b"]),
    ]
    by_blocks = recipe_for(tmp_path, **{"data.split": {"kind": "blocks", "block": 100, "buffer": 9}}).data
    parts = divide(grids, by_blocks)
    assert {p.scene for p in parts} == {"a", "b"}
    assert all(p.id == f"{p.scene}_r{p.origin[0]}c{p.origin[1]}" for p in parts)
    assert {p.split for p in parts} == {"train", "test"}


def test_blocks_leave_something_to_train_on():
    with pytest.raises(ValidationError, match=r"val 0\.5 \+ test 0\.5 leaves nothing to train on"):
        BlocksSplit(block=10, val=0.5, test=0.5)
