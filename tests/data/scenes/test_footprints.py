"""Where `data.footprint` is found, what the manifest keeps of it, and what is said of a wrong one."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import rasterio
import shapely

from pipeline.data import doctor
from pipeline.data.labels.classes import Classes
from pipeline.data.scenes import inspection, staleness
from pipeline.data.scenes.discovery import find
from pipeline.data.scenes.index import current, index
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene, SceneFiles
from pipeline.errors import DataError, ManifestError, RecipeError, SceneError
from pipeline.recipe import Data
from tests.data.scenes.footprint_world import DISC, PATTERN, drawn, in_degrees, inside, items, valid_of
from tests.factory import UTM, recipe_for, world, write_raster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six scenes without footprints."""
    return world(tmp_path / "data", scenes=6, size=96)


def test_a_file_for_each_scene_or_one_for_all_or_a_column(folder: Path) -> None:
    drawn(folder, *range(6))
    found = find(recipe_for(folder, **PATTERN).data)
    assert [f.footprint for f in found] == [f"{folder}/valid/s{i}.geojson" for i in range(6)]
    assert all(f.files[-1] == f.footprint for f in found)
    (folder / "coast.geojson").write_text("{}")
    found = find(recipe_for(folder, **{"data.footprint": "coast.geojson"}).data)
    assert {f.footprint for f in found} == {f"{folder}/coast.geojson"}
    (folder / "list.csv").write_text("id,image,footprint\ns0,images/s0.tif,f/a.shp\ns1,images/s1.tif,\n")
    listed = {"data.images": None, "data.scenes": "list.csv"}
    assert [f.footprint for f in find(recipe_for(folder, **listed).data)] == [f"{folder}/f/a.shp", None]
    both = find(recipe_for(folder, **listed, **PATTERN).data)
    assert [f.footprint for f in both] == [f"{folder}/f/a.shp", f"{folder}/valid/s1.geojson"]


def test_scenes_without_a_footprint_are_valid_all_over_and_named(folder: Path, caplog) -> None:
    drawn(folder, 0, 1, 2, 3)
    recipe = recipe_for(folder, **PATTERN)
    with caplog.at_level(logging.WARNING):
        found = find(recipe.data)
    assert [f.footprint is None for f in found] == [False] * 4 + [True] * 2
    assert "2 of 6 scenes without a footprint 'valid/{id}.geojson', so valid all over: s4, s5" in caplog.text
    manifest = index(recipe)
    assert valid_of(manifest.scenes[4], recipe.data).sum() == 96 * 96 - 48 * 24
    assert valid_of(manifest.scenes[3], recipe.data).sum() < inside().sum()


@pytest.mark.parametrize(
    ("files", "footprint", "message"),
    [
        ([], "valid/{id}.geojson", "no scene has a footprint 'valid/{id}.geojson'"),
        ([], "coast.gpkg", "'coast.gpkg' finds no file; without {id} it must name one footprint for all scenes"),
        (["valid/s0.tif", "valid/s0.png"], "valid/{id}.*", "id s0 has several footprints"),
    ],
)
def test_wrong_patterns_are_said(folder: Path, files: list[str], footprint: str, message: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(ManifestError) as caught:
        find(recipe_for(folder, **{"data.footprint": footprint}).data)
    assert message in caught.value.message and "data.footprint" in caught.value.hint


def test_rasters_of_footprints_are_no_images(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "a_valid.tif", "b_valid.tif"):
        (tmp_path / name).touch()
    said = {"data.images": "*.tif", "data.labels": None, "data.footprint": "{id}_valid.tif"}
    assert [f.id for f in find(recipe_for(tmp_path, **said).data)] == ["a", "b"]


def test_geometries_of_stac_items(folder: Path, caplog) -> None:
    said = items(folder, in_degrees(DISC, 0), None, in_degrees(DISC, 2))
    with caplog.at_level(logging.WARNING):
        found = find(recipe_for(folder, **said).data)
    assert json.loads(str(found[0].footprint))["type"] == "Polygon"
    assert found[0].files == (f"{folder}/images/s0.tif", f"{folder}/masks/s0.tif")
    assert found[1] == SceneFiles("s1", f"{folder}/images/s1.tif", f"{folder}/masks/s1.tif")
    assert "1 of 3 scenes without a footprint in items.json, so valid all over: s1" in caplog.text
    assert all(f.footprint is None for f in find(recipe_for(folder, **said | {"data.footprint": None}).data))


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "item s0 has a geometry of the type Point"),
        ({"type": "Polygon"}, "item s0 has a Polygon whose coordinates are not rings"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "item s0 has a Polygon whose coordinates"),
        (
            {"type": "MultiPolygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
            "item s0 has a MultiPolygon whose",
        ),
        ("POLYGON ((0 0, 1 1))", "item s0 has a geometry of the type None"),
    ],
)
def test_geometries_that_are_no_footprints_are_named(folder: Path, geometry: Any, message: str) -> None:
    said = items(folder, geometry, in_degrees(DISC, 1))
    with pytest.raises(ManifestError) as caught:
        find(recipe_for(folder, **said).data)
    assert message in caught.value.message
    find(recipe_for(folder, **said | {"data.footprint": None}).data)


def test_stac_needs_a_list_and_its_geometries(folder: Path) -> None:
    with pytest.raises(RecipeError, match="scenes names none"):
        recipe_for(folder, **{"data.footprint": "stac"})
    with pytest.raises(ManifestError, match=r"no scene has a footprint in items\.json"):
        find(recipe_for(folder, **items(folder, None, None)).data)


def test_a_manifest_keeps_it_wherever_the_folder_is(folder: Path, tmp_path: Path) -> None:
    for said in (PATTERN, items(folder, *(in_degrees(DISC, number) for number in range(6)))):
        recipe = recipe_for(drawn(folder, *range(6)), **said)
        manifest = index(recipe)
        assert current(recipe) == manifest
        written = next(p for p in (folder / "runs").rglob("*.parquet") if manifest.digest[:12] in p.name)
        moved = Manifest.read(str(written), root=str(tmp_path / "elsewhere"))
        assert moved.digest == manifest.digest
        wanted = [str(s.footprint).replace(str(folder), str(tmp_path / "elsewhere")) for s in manifest.scenes]
        assert [s.footprint for s in moved.scenes] == wanted


def test_without_footprints_the_digest_is_as_before_there_were_any(folder: Path, tmp_path: Path) -> None:
    said = {"root": "/d", "images": "*", "labels": "m/{id}", "classes": [{"name": "a"}, {"name": "b"}]}
    classes = Classes.from_section(Data.model_validate(said))
    where = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    one = Scene("x", "/d/x.tif", "/d/m/x.png", "train", "x", 8, 9, UTM, where, "ab", (3, 4))
    other = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    two = Scene("y", "/d/y.tif", None, "val", "y", 8, 9, None, other, "cd", aoi="/d/a.gpkg")
    made = Manifest.of([one, two], ["r"], "uint8", classes, {"root": "/d", "nodata": None}, version=3)
    assert made.digest == "2a8999db96a3b723518dcd860f3ecb35447de3748f05add39b7372c9759bb360"


def test_a_manifest_that_knows_no_footprints_is_read_and_saves_the_reading(folder: Path, monkeypatch) -> None:
    manifest = index(recipe_for(folder))
    path = next((folder / "runs").rglob("*.parquet"))
    table = pq.read_table(path)
    tree = json.loads(table.schema.metadata[b"segpipe"])
    del tree["data"]["footprint"]
    rows = (manifest.scenes, manifest.bands, manifest.dtype, manifest.classes, manifest.data)
    digest = Manifest.of(*rows, version=2).digest
    older = {b"segpipe": json.dumps(tree | {"version": 2, "digest": digest}).encode()}
    pq.write_table(table.drop_columns(["footprint"]).replace_schema_metadata(older), path)
    assert current(recipe_for(folder)) == replace(manifest, digest=digest, version=2)
    monkeypatch.setattr(inspection, "inspect_scene", lambda *_: pytest.fail("a scene is read again"))
    assert index(recipe_for(folder)) == manifest


def test_another_footprint_is_another_version_of_the_data(folder: Path, caplog) -> None:
    recipe = recipe_for(drawn(folder, *range(6)), **PATTERN)
    first = index(recipe)
    data = recipe.data
    staleness.forget()
    staleness.check(first.scenes[2], first.classes, data)
    drawn(folder, 2, shape=DISC.buffer(-3))
    with pytest.raises(SceneError, match="scene s2 has changed since it was indexed"):
        staleness.check(first.scenes[2], first.classes, data)
    with caplog.at_level(logging.INFO, "pipeline"):
        assert index(recipe).digest != first.digest
    assert "1 changed (s2)" in caplog.text
    (folder / "valid" / "s2.geojson").unlink()
    with pytest.raises(SceneError, match=r"s2\.geojson: no such file; it belongs to scene s2"):
        staleness.check(first.scenes[2], first.classes, data)


def test_files_that_cannot_be_used_are_named(folder: Path) -> None:
    (folder / "broken.geojson").write_text('{"type": "FeatureCollection", "features": [')
    rows = ["id,image,footprint", "s0,images/s0.tif,none.gpkg", "s1,images/s1.tif,broken.geojson"]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    recipe = recipe_for(folder, **{"data.images": None, "data.scenes": "list.csv"})
    with pytest.raises(DataError) as caught:
        index(recipe)
    assert (
        "none.gpkg: no such file" in caught.value.message and "broken.geojson: cannot be read" in caught.value.message
    )
    audit = doctor.examine(recipe, str(folder / "report"))
    said = " ".join(f.what for f in audit.findings if f.kind == "broken_scenes")
    assert audit.exit_code == 3 and "none.gpkg" in said and "broken.geojson" in said


def test_degrees_are_no_footprint_of_a_scene_without_coordinates(tmp_path: Path) -> None:
    world(tmp_path, scenes=2, size=48)
    for number in range(2):
        shutil.copy(tmp_path / "images" / f"s{number}.tif", tmp_path / "copy.tif")
        with rasterio.open(tmp_path / "copy.tif") as image:
            write_raster(tmp_path / "images" / f"s{number}.tif", image.read())
        with rasterio.open(tmp_path / "masks" / f"s{number}.tif") as label:
            values = label.read()
        write_raster(tmp_path / "masks" / f"s{number}.tif", values)
    with pytest.raises(DataError, match="the geometry of the STAC item") as caught:
        index(recipe_for(tmp_path, **items(tmp_path, in_degrees(DISC, 0), in_degrees(DISC, 1))))
    assert "has no CRS" in caught.value.message


def test_footprints_that_lie_elsewhere_are_found(folder: Path, caplog) -> None:
    drawn(folder, 0, 1, 2, 4, 5)
    drawn(folder, 3, shape=shapely.box(5000, 0, 5096, 96))
    recipe = recipe_for(folder, **PATTERN)
    audit = doctor.examine(recipe, str(folder / "report"))
    (finding,) = [f for f in audit.findings if f.kind == "footprint_beside"]
    assert (finding.severity, finding.scenes) == ("warning", ("s3",))
    assert "s3.geojson touches it" in finding.what
    with caplog.at_level(logging.WARNING):
        index(recipe)
    assert (
        f"scene s3: nothing of it is valid, for it is outside its footprint, {folder}/valid/s3.geojson" in caplog.text
    )
