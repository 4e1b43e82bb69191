"""Lists of scenes: CSV, Parquet, STAC."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.scenes.discovery import find
from pipeline.data.scenes.listings import SceneFiles, read
from pipeline.errors import ManifestError
from tests.factory import recipe_for

ROWS = [
    {"id": "a", "image": "x/a.tif", "label": "y/a.png"},
    {"id": "b", "image": "s3://bucket/b1.tif; s3://bucket/b2.tif", "label": ""},
]
EXPECTED = [
    SceneFiles("a", "/base/x/a.tif", "/base/y/a.png"),
    SceneFiles("b", "s3://bucket/b1.tif\ns3://bucket/b2.tif", None),
]


def as_csv(rows):
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return ("\ufeff" + "\n".join(lines) + "\n").encode()


def test_csv_and_parquet_tell_the_same_whatever_they_are_called(tmp_path):
    (tmp_path / "one").write_bytes(as_csv(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "two.csv")
    assert read(str(tmp_path / "one"), "/base") == read(str(tmp_path / "two.csv"), "/base") == EXPECTED


def item(name, **assets):
    return {"type": "Feature", "id": name, "assets": assets}


def stac(*items):
    return json.dumps({"type": "FeatureCollection", "features": list(items)})


def asset(href, *roles):
    return {"href": href, "roles": list(roles)}


DATA = asset("a.tif", "data")


def test_stac_items(tmp_path):
    path = tmp_path / "items.json"
    first = item("a", data=asset("./a.tif", "data"), preview=asset("a.png", "thumbnail"), y=asset("a_l.tif", "labels"))
    second = item("b", B04=asset("s3://bucket/b4.tif"), B08=asset("../b8.tif"))
    path.write_text(stac(first))
    assert read(str(path), "/elsewhere") == [SceneFiles("a", f"{tmp_path}/a.tif", f"{tmp_path}/a_l.tif")]
    path.write_text(stac(second))
    files = ("s3://bucket/b4.tif", f"{tmp_path}/../b8.tif")
    assert read(str(path), "/elsewhere", ["B04", "B08"]) == [SceneFiles("b", "\n".join(files), None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,picture\na,b\n", "the column image missing; it has id, picture"),
        (b"", "the columns id and image missing; it has nothing"),
        (b"id,image\na,b,c\nd\n", "more or fewer values than the header: 2, 3"),
        (b"id,image\na,\n,b\n", "row 1 has no image\n  row 2 has no id"),
        (b"PAR1 and no more", "the Parquet file cannot be read"),
        (b"\xff\xfe\x00", "neither Parquet nor text in UTF-8"),
        (b'{"type": "FeatureCollection", "features": [}', "is no JSON"),
        (b'{"type": "FeatureCollection", "features": []}', "it has no features"),
        (
            stac(item("a", x=asset("a", "data"), y=asset("b", "data"))).encode(),
            "item a has 2 assets with the role data",
        ),
        (stac(item("a", x=asset("a"))).encode(), "item a has no assets with the role data; there are x"),
        (b'{"type": "FeatureCollection", "features": null}', "it has no features"),
        (b'{"type": "FeatureCollection"}', "it has no features"),
        (stac(None, 3, item("a", data=DATA)).encode(), "item 1 is None\n  item 2 is 3"),
        (stac({**item("a"), "id": None}).encode(), "item 1 has no id"),
        (stac({**item("a"), "assets": None}).encode(), "item a has no assets with the role data; there are none"),
        (stac({**item("a"), "assets": ["a.tif"]}).encode(), "item a has no assets with the role data; there are none"),
        (stac(item("a", data=None)).encode(), "item a has no assets with the role data; there are none"),
        (stac(item("a", data="a.tif")).encode(), "item a has no assets with the role data; there are data"),
        (stac(item("a", data={"href": "a.tif", "roles": None})).encode(), "item a has no assets with the role data"),
        (stac(item("a", data={"href": "a.tif", "roles": 3})).encode(), "item a has no assets with the role data"),
        (b'{"type": ' + b"[" * 20_000, "is no JSON"),
        (stac(item("a", data=asset(None, "data"))).encode(), "item a has an asset data without an href"),
        (stac(item("a", data={"roles": ["data"]})).encode(), "item a has an asset data without an href"),
        (stac(item("a", data=asset("", "data"))).encode(), "item a has an asset data without an href"),
        (stac(item("a", data=DATA, y=asset(None, "labels"))).encode(), "item a has an asset y without an href"),
        (b'{"type": "Collection", "id": "c", "assets": {}}', "it has no features"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, message):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read(str(tmp_path / "list"), "/base")
    assert message in str(caught.value)


def test_what_an_item_may_lack(tmp_path):
    bare = {**item("a", data=DATA, unmatched=None), "geometry": None, "properties": None, "bbox": None}
    (tmp_path / "list").write_text(stac(bare, {**item("b", data=DATA), "id": 7}))
    files = (f"{tmp_path}/a.tif",)
    found = read(str(tmp_path / "list"), "/base", geometry=True)
    assert found == [SceneFiles("a", *files, None), SceneFiles("7", *files, None)]


def test_cells_of_tables_may_be_null_or_numbers(tmp_path):
    table = pa.table(
        {
            "id": pa.array([0.0, 1.0, 12.0]),
            "image": ["a.tif", "b.tif", "c.tif"],
            "label": pa.array([None, "b.png", ""]),
            "footprint": pa.array([float("nan"), None, None]),
        }
    )
    pq.write_table(table, tmp_path / "list")
    found = read(str(tmp_path / "list"), "/base")
    images = [f"/base/{name}.tif" for name in "abc"]
    assert [(f.id, *f.image.split("\n"), f.label, f.footprint) for f in found] == [
        ("0", images[0], None, None),
        ("1", images[1], "/base/b.png", None),
        ("12", images[2], None, None),
    ]
    pq.write_table(pa.table({"id": pa.array([None, "b"]), "image": pa.array(["a.tif", None])}), tmp_path / "list")
    with pytest.raises(ManifestError, match=r"row 1 has no id\n  row 2 has no image"):
        read(str(tmp_path / "list"), "/base")


def test_a_list_that_does_not_exist(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        read(str(tmp_path / "none.csv"), "/base")


def test_scenes_of_a_list(tmp_path):
    (tmp_path / "list.csv").write_bytes(as_csv([ROWS[0], {**ROWS[0], "id": "c", "image": "c.tif", "label": ""}]))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "c.png").touch()
    settings = {"data.images": None, "data.scenes": "list.csv", "data.labels": "m/{id}.png"}
    found = find(recipe_for(tmp_path, **settings).data)
    assert [(f.id, f.image, f.label) for f in found] == [
        ("a", f"{tmp_path}/x/a.tif", f"{tmp_path}/y/a.png"),
        ("c", f"{tmp_path}/c.tif", f"{tmp_path}/m/c.png"),
    ]
    (tmp_path / "list.csv").write_bytes(as_csv([ROWS[0], ROWS[0]]))
    with pytest.raises(ManifestError, match=r"id a is in list.csv 2 times"):
        find(recipe_for(tmp_path, **settings).data)
