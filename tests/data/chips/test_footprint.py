"""What is valid by `data.footprint`: at any place and scale, from files and shards, on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image

from pipeline import __main__ as command_line
from pipeline.data.chips import raw_chip
from pipeline.data.feed.chip_reader import ChipReader
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.index import current, index
from pipeline.errors import DataError
from pipeline.evaluation.evaluate import evaluate
from tests.data.feed.feed_world import FILL, plan, scene
from tests.data.feed.shards.test_shards import prepared
from tests.data.labels.places import geojson, in_utm
from tests.data.scenes.footprint_world import (
    ALL,
    DISC,
    PATTERN,
    drawn,
    in_degrees,
    inside,
    items,
    transform_of,
    valid_of,
)
from tests.evaluation.test_evaluate import make_bundle
from tests.factory import TRANSFORM, UTM, recipe_for, world, write_raster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six scenes without footprints."""
    return world(tmp_path / "data", scenes=6, size=96)


@pytest.mark.parametrize("kind", ["vector", "raster", "stac"])
def test_what_has_its_centre_in_the_footprint_is_valid(folder: Path, kind: str) -> None:
    said: dict[str, Any] = {"data.footprint": f"valid/{{id}}.{'tif' if kind == 'raster' else 'geojson'}"}
    if kind == "vector":
        drawn(folder, *range(6))
    elif kind == "raster":
        for number in range(6):
            path = folder / "valid" / f"s{number}.tif"
            write_raster(path, inside().astype(np.uint16) * 300, crs=UTM, transform=transform_of(number))
    else:
        said = items(folder, *(in_degrees(DISC, number) for number in range(6)))
    manifest = index(recipe_for(folder, **said))
    data = recipe_for(folder, **said).data
    for one in manifest.scenes:
        whole = valid_of(replace(one, footprint=None), data)
        seen = valid_of(one, data)
        np.testing.assert_array_equal(seen, whole & inside())
        part = valid_of(one, data, Window(-10, 20, 60, 50))
        assert not part[:10].any()
        np.testing.assert_array_equal(part[10:], seen[:50, 20:70])
        mask = raw_chip.read(one, ALL, manifest.classes, data=data).finished(FILL[:3])[1]
        np.testing.assert_array_equal(mask != IGNORE, seen)


def test_a_part_of_a_file_has_its_part_of_the_footprint(folder: Path) -> None:
    (whole,) = [s for s in index(recipe_for(drawn(folder, *range(6)), **PATTERN)).scenes if s.id == "s1"]
    data = recipe_for(folder, **PATTERN).data
    grid = whole.grid.part(20, 30, 40, 50)
    part = replace(whole, origin=(20, 30), height=40, width=50, transform=grid.transform)
    found, wanted = valid_of(part, data, Window(0, 0, 40, 50)), valid_of(whole, data)[20:60, 30:80]
    np.testing.assert_array_equal(found, wanted)
    assert found.any() and not found.all()


def test_a_raster_on_another_grid_is_refused_or_brought_to_the_image(folder: Path) -> None:
    said = {"data.footprint": "valid/{id}.tif"}
    for number in range(6):
        coarse = (20.0, 0.0, transform_of(number)[2], 0.0, -20.0, TRANSFORM[5])
        valid = np.zeros((48, 48), np.uint8)
        valid[10:30, 5:40] = 1
        write_raster(folder / "valid" / f"s{number}.tif", valid, crs=UTM, transform=coarse)
    with pytest.raises(DataError, match=r"footprint \S*s0.tif are not on the same grid") as caught:
        index(recipe_for(folder, **said))
    assert "data.align: image" in caught.value.hint
    said["data.align"] = "image"
    seen = valid_of(index(recipe_for(folder, **said)).scenes[0], recipe_for(folder, **said).data)
    wanted = np.zeros((96, 96), bool)
    wanted[20:60, 10:80] = True
    wanted[:48, :24] = False  # where the file says nodata
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("kind", ["finest level", "overview"])
@pytest.mark.parametrize("side", [30, 90, 130, 200])
def test_at_no_scale_a_pixel_shows_what_lies_outside(tmp_path: Path, kind: str, side: int) -> None:
    """Coarse levels mix what is inside with what is outside."""
    seen = []
    for seed in (1, 2):
        pixels = np.random.default_rng(0).integers(1, 60_000, (4, 256, 256)).astype(np.uint16)
        disc = shapely.Point(120, 140).buffer(90)
        pixels[:, ~inside(disc, 256)] = np.random.default_rng(seed).integers(1, 60_000, (4, (~inside(disc, 256)).sum()))
        one = scene(tmp_path / str(seed), "a", height=256, width=256, pixels=pixels)
        one = replace(one, footprint=str(geojson(tmp_path / f"{seed}.geojson", in_utm([disc]), UTM)))
        if kind == "overview":
            with rasterio.open(one.image, "r+") as image:
                image.build_overviews([2, 4], rasterio.enums.Resampling.average)
        source = plan(tmp_path / str(seed) / "world")
        for row, col in ((-20, -30), (130, 20), (100, 120)):
            cut = raw_chip.read(one, Window(row, col, side, side), source.classes, data=source.data, shape=(40, 40))
            seen.append((cut.valid, *cut.finished(FILL)))
    for first, second in zip(seen[:3], seen[3:], strict=True):
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert any(valid.any() and not valid.all() for valid, *_ in seen)


def test_shards_hold_it(tmp_path: Path) -> None:
    """Chips of any scale from shards are those from the files."""
    one = scene(tmp_path, "a", height=200, width=180, invalid="nodata")
    one = replace(one, footprint=str(geojson(tmp_path / "f.geojson", in_utm([shapely.Point(90, 90).buffer(70)]), UTM)))
    source = prepared(tmp_path, replace(plan(tmp_path / "world"), scenes=(one,)))
    for side in (25, 40, 90):
        for row, col in ((-5, 30), (60, 70), (140, 100)):
            kinds = (source, replace(source, shards=""))
            reads = [ChipReader(each.scenes, each.classes, each.data, each.digest, 40, each.shards) for each in kinds]
            found, wanted = (each.one(0, Window(row, col, side, side)) for each in reads)
            np.testing.assert_array_equal(found.valid, wanted.valid)
            for ours, theirs in zip(found.finished(FILL), wanted.finished(FILL), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_scores_are_of_the_footprint_alone(folder: Path) -> None:
    recipe = recipe_for(drawn(folder, *range(6)), **PATTERN, **{"predict.window": 128})
    manifest = index(recipe)
    bundle = make_bundle(folder / "bundle", recipe, manifest)
    found = evaluate(recipe, bundle, manifest=manifest, out=str(folder / "report"))
    (one,) = manifest.split("test")
    with rasterio.open(str(one.label)) as label:
        truth = label.read(1)[valid_of(one, recipe.data)]
    assert np.array(found.confusion).sum(axis=1).tolist() == np.bincount(truth, minlength=2).tolist()


def test_from_the_command_line(folder: Path, capsys) -> None:
    """index, doctor and preview of scenes that are red outside of their footprints."""
    bright = np.array([250, 1, 1], np.uint8)
    for number in range(6):
        with rasterio.open(folder / "images" / f"s{number}.tif", "r+") as image:
            image.write(np.where(inside(), image.read(), bright[:, None, None]))
    recipe = recipe_for(drawn(folder, *range(6)), **PATTERN, **{"data.sampling.size": 64})
    path = folder / "recipe.yaml"
    path.write_text(recipe.model_dump_json())
    assert command_line.main(["index", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"] == 6
    assert command_line.main(["doctor", str(path), "--out", str(folder / "audit"), "--json"]) in (0, 3)
    report = json.loads((folder / "audit" / "report.json").read_text())
    for row in report["scenes"]:
        one = next(s for s in current(recipe).scenes if s.id == row["id"])
        assert row["valid"] == pytest.approx(valid_of(one, recipe.data).mean())
    assert report["bands"][0]["percentiles"]["max"] < 250
    out = folder / "sheet.png"
    assert command_line.main(["data", "preview", str(path), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:] < 40).all(-1)
    assert not red.any()
