"""Tables as people and their programs write them."""

from __future__ import annotations

import os

import pytest

from pipeline.data.scenes import csv_tables, listings
from pipeline.data.scenes.splits.assign import assign
from pipeline.errors import DataError, ManifestError
from tests.factory import recipe_for

ROWS = ["id,split,group", "a,train,x", "b,val,y", "c,test,z"]
EXPECTED = {"a": ("train", "x"), "b": ("val", "y"), "c": ("test", "z")}


def assigned(folder, content: bytes) -> dict:
    (folder / "splits.csv").write_bytes(content)
    return assign(["a", "b", "c"], recipe_for(folder).data)


@pytest.mark.parametrize(
    "content",
    [
        "\r".join(ROWS).encode(),
        "\r\n".join(ROWS).encode(),
        (ROWS[0] + "\r" + ROWS[1] + "\n" + ROWS[2] + "\r\n" + ROWS[3]).encode(),
        "\n\n".join(ROWS).encode(),
        "\n".join(ROWS).encode("utf-8-sig"),
        "\r\n".join(ROWS).encode("utf-16"),
        "\n".join(ROWS).replace(",", ";").encode(),
        "\n".join(ROWS).replace(",", "\t").encode(),
        "\n".join(row.replace(",", ' , "') + '"' for row in ROWS[:1]).replace('"', "").encode()
        + b"\n"
        + "\n".join(ROWS[1:]).encode(),
        ("\n".join(f"{row},{'note' if not n else 'z' * 200_000}" for n, row in enumerate(ROWS))).encode(),
        b'id,split,group\n"a",train,x\nb,"val",y\n"c",test,"z"',
    ],
    ids=["cr", "crlf", "mixed", "blank", "bom", "utf16", "semicolon", "tab", "spaces", "long", "quotes"],
)
def test_a_split_table_from_anywhere_is_read(tmp_path, content):
    assert assigned(tmp_path, content) == EXPECTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'id,split\na,train\n"b,val\nc,test\n', r"splits\.csv, line 3: no CSV"),
        (b"id,split\na,tr\0ain\n", r"splits\.csv, line 2: a NUL character"),
        (b"id,split,id\na,train,b\n", r"several columns are called id"),
        (b"id,split\na,train\nb,\xe9\n", r"not a CSV file in UTF-8 \(line 3"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"splits\.csv"),
    ],
)
def test_what_is_no_table_is_named_with_the_line(tmp_path, content, message):
    with pytest.raises(ManifestError, match=message):
        assigned(tmp_path, content)


def test_a_cell_of_several_lines_is_one_cell_and_lines_are_counted(tmp_path):
    table = csv_tables.parsed('id,note\na,"one\ntwo"\nb,\n', "t.csv")
    assert table.rows == ((2, {"id": "a", "note": "one\ntwo"}), (4, {"id": "b", "note": ""}))


def test_a_list_of_scenes_with_other_separators_and_line_ends(tmp_path):
    (tmp_path / "scenes.csv").write_bytes(b"id\timage\ra\tx.tif;y.tif\rb\tz.tif\r")
    found = listings.read(str(tmp_path / "scenes.csv"), str(tmp_path))
    assert [(scene.id, len(scene.image.split("\n"))) for scene in found] == [("a", 2), ("b", 1)]


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "splits.csv")
    with pytest.raises(DataError, match=r"splits\.csv.* not a regular file"):
        assign(["a"], recipe_for(tmp_path, **{"data.split": {"kind": "table"}}).data)
