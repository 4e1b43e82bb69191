import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.splits import assign
from pipeline.errors import ManifestError
from tests.factory import recipe_for


def by_hash(folder, **split):
    return recipe_for(folder, **{"data.split": {"kind": "hash", **split}}).data


def by_table(folder, text):
    (folder / "splits.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return recipe_for(folder).data


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


# ------------------------------------------------------------------------------------------------ hash


def test_shares_are_about_those_asked_for_and_all_splits_are_served(tmp_path):
    assigned = splits_of(assign([f"s{i}" for i in range(2000)], by_hash(tmp_path, val=0.1, test=0.2)))
    shares = {s: list(assigned.values()).count(s) / 2000 for s in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.03)


@given(st.lists(st.text("abc123", min_size=1, max_size=4), min_size=3, max_size=12, unique=True))
def test_no_split_that_is_asked_for_is_empty(tmp_path_factory, ids):
    assigned = assign(ids, by_hash(tmp_path_factory.getbasetemp(), val=0.05, test=0.05))
    assert {s for s, _ in assigned.values()} == {"train", "val", "test"}


def test_scenes_keep_their_split_when_others_are_added(tmp_path):
    data = by_hash(tmp_path, val=0.1, test=0.2)
    old = assign([f"s{i}" for i in range(100)], data)
    new = assign([f"s{i}" for i in range(300)], data)
    assert {i: new[i] for i in old} == old


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
