"""What `index` says about images that it reads in one of several possible ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import errors
from pipeline.data.chips import raw_chip
from pipeline.data.chips.statistics import compute
from pipeline.data.doctor import access
from pipeline.data.feed.shards.prepare import prepare
from pipeline.data.feed.shards.shard_reader import Shards
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.file_notices import alpha_values
from pipeline.data.scenes.index import current, index
from pipeline.data.scenes.manifest import Manifest
from pipeline.recipe import Recipe, replace
from pipeline.recipe.data import BEFORE, Reading
from tests.factory import make_pixels, make_scene, recipe_for, write_raster

NAMES = ("B02", "B03", "B04")


def all_train(folder: Path, **said: Any) -> Recipe:
    return recipe_for(folder, **{"data.split.test": 0, "data.split.val": 0, **said})


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " | ".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING")


def test_alpha_that_holds_many_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        pixels = make_pixels(4, 64, 64, "uint8", seed=number)
        if number == 3:  # a soft edge is no band
            pixels[3] = 255
            pixels[3, :, :2] = np.arange(128).reshape(64, 2)
        make_scene(tmp_path, f"s{number}", pixels=pixels, alpha=True)
    found = index(all_train(tmp_path))
    assert len(found.bands) == 3
    assert "3 scenes (s0, s1, s2): the alpha band holds many values" in said(caplog)
    assert "data.reading.alpha: band" in said(caplog)
    uri = found.scenes[0].image
    values = alpha_values(uri, raster_io.describe(uri), Reading())
    assert values is not None and values.count == len(np.unique(make_pixels(4, 64, 64, "uint8", seed=0)[3]))
    caplog.clear()
    found = index(all_train(tmp_path, **{"data.reading.alpha": "band"}))
    assert len(found.bands) == 4 and "alpha" not in said(caplog)


def test_chosen_bands_of_which_one_is_alpha(tmp_path: Path) -> None:
    uri = str(write_raster(tmp_path / "a.tif", make_pixels(4, 8, 8, "uint8"), alpha=True))
    with pytest.raises(errors.SceneError) as caught:
        raster_io.describe(uri, reading=Reading(bands=(4,)))
    assert "data.reading.alpha: band" in caught.value.hint


def test_a_sentinel_in_one_band_among_valid_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        pixels = make_pixels(3, 64, 64, "int16", seed=number).clip(1)
        if number:
            pixels[1, :5] = -9999
        make_scene(tmp_path, f"s{number}", pixels=pixels, dtype="int16", nodata=-9999)
    index(all_train(tmp_path))
    assert "2 scenes (s1, s2): band band_2 holds its nodata value -9999" in said(caplog)
    assert "data.reading.nodata_rule: any" in said(caplog)
    caplog.clear()
    recipe = all_train(tmp_path, **{"data.reading.nodata_rule": "any"})
    manifest = index(recipe)
    assert "nodata value" not in said(caplog)
    assert min(compute.cached(recipe, manifest).min) > 0


def test_a_dark_value_in_one_band_is_no_sentinel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = make_pixels(3, 64, 64, "uint8")
    pixels[2, :5] = 0
    make_scene(tmp_path, "a", pixels=pixels, nodata=0)
    index(all_train(tmp_path))
    assert "nodata value" not in said(caplog)


def test_statistics_and_class_counts_follow_the_rule(tmp_path: Path) -> None:
    pixels = make_pixels(2, 64, 64, "uint8")
    pixels[1, :32] = 0
    make_scene(tmp_path, "a", pixels=pixels, nodata=0)
    counts = {}
    for rule in ("all", "any"):
        recipe = all_train(tmp_path, **{"data.reading.nodata_rule": rule})
        manifest = index(recipe)
        counts[rule] = (sum(manifest.scenes[0].class_counts), compute.cached(recipe, manifest).count)
    assert counts == {"all": (64 * 64, 64 * 64), "any": (32 * 64, 32 * 64)}


def test_files_that_declare_different_nodata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        pixels = make_pixels(1, 64, 64, "float32", seed=number)
        make_scene(tmp_path, f"s{number}", pixels=pixels, dtype="float32", nodata=None if number == 2 else -9999)
    index(all_train(tmp_path))
    assert "files declare different nodata values: 3 -9999, but scene s2: none" in said(caplog)
    assert "`data.nodata: -9999`" in said(caplog)
    caplog.clear()
    index(all_train(tmp_path, **{"data.nodata": -9999}))
    assert "declare" not in said(caplog)


def test_pages_and_frames_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "images").mkdir()
    pages = [Image.fromarray(make_pixels(1, 16, 16, "uint8", seed=n)[0]) for n in range(3)]
    pages[0].save(tmp_path / "images" / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "images" / "b.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "images" / "c.tif")
    found = index(all_train(tmp_path, **{"data.labels": None}))
    assert "2 scenes (a, b): the file holds 3 pages or frames, of which the first is read" in said(caplog)
    assert [s.height for s in found.scenes] == [16, 16, 16]


# --- bands by name


def scene_of(folder: Path, name: str, order: list[int], names: tuple[str, ...]) -> np.ndarray:
    """A scene whose file holds bands of one scene in an order of its own; returns them as B02, B03, B04, B08."""
    pixels = make_pixels(4, 64, 64, "uint8", seed=ord(name))
    make_scene(folder, name, pixels=pixels[order], names=names)
    return pixels


def test_files_are_read_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = {
        "a": scene_of(tmp_path, "a", [0, 1, 2], NAMES),
        "b": scene_of(tmp_path, "b", [0, 1, 2], NAMES),
        "c": scene_of(tmp_path, "c", [2, 0, 1], ("b04", "b02", "b03")),
        "d": scene_of(tmp_path, "d", [3, 2, 1, 0], ("B08", "B04", "B03", "B02")),
        "e": scene_of(tmp_path, "e", [0, 1, 2], ()),
    }
    recipe = all_train(tmp_path)
    found = index(recipe)
    assert found.bands == NAMES and [s.bands for s in found.scenes] == [(), (), (2, 3, 1), (4, 3, 2), ()]
    assert "scene d has 4 bands (B08, B04, B03, B02); not read are B08" in said(caplog)
    assert "scene e has 3 bands (band_1, band_2, band_3) without names" in said(caplog)
    for manifest in (found, current(recipe), index(recipe)):
        assert [s.bands for s in manifest.scenes] == [s.bands for s in found.scenes]
        for scene in manifest.scenes:
            image, _ = raw_chip.pixels(scene, Window(8, 8, 16, 16), data=recipe.data)
            np.testing.assert_array_equal(image, expected[scene.id][:3, 8:24, 8:24])
    stored = np.mean([pixels[:3].mean(axis=(1, 2)) for i, pixels in expected.items()], axis=0)
    everything = all_train(tmp_path)
    np.testing.assert_allclose(compute.cached(everything, index(everything)).mean, stored)


@pytest.mark.parametrize("rule", ["all", "any"])
def test_shards_hold_what_is_read_by_name_and_rule(tmp_path: Path, rule: str) -> None:
    pixels = make_pixels(3, 64, 64, "uint8")
    pixels[1, :8] = 0
    make_scene(tmp_path, "a", pixels=pixels, names=NAMES, nodata=0)
    make_scene(tmp_path, "b", pixels=pixels[::-1], names=NAMES[::-1], nodata=0)
    recipe = all_train(tmp_path, **{"data.reading.nodata_rule": rule})
    manifest = index(recipe)
    shards = Shards.open(prepare(recipe, manifest).uri, manifest.digest)
    for scene in manifest.scenes:
        window = Window(0, 0, 64, 64)
        stored = shards.read(scene.id, window)
        assert stored is not None and stored.valid[:8].any() == (rule == "all") and stored.valid[8:].all()
        np.testing.assert_array_equal(stored.image[:, stored.valid], pixels[:, stored.valid])


def test_a_file_that_lacks_a_band(tmp_path: Path) -> None:
    scene_of(tmp_path, "a", [0, 1, 2], NAMES)
    scene_of(tmp_path, "b", [0, 1, 2], NAMES)
    scene_of(tmp_path, "c", [1, 2, 3], ("B03", "B04", "B08"))
    with pytest.raises(errors.SceneError, match=r"scene c has 3 bands \(B03, B04, B08\), but 2 have .*: B02 missing"):
        index(all_train(tmp_path))


def test_names_of_the_recipe_choose_among_named_bands(tmp_path: Path) -> None:
    pixels = scene_of(tmp_path, "a", [3, 2, 1, 0], ("B08", "B04", "B03", "B02"))
    recipe = all_train(tmp_path, **{"data.bands": ["B02", "B08"]})
    found = index(recipe)
    image, _ = raw_chip.pixels(found.scenes[0], Window(0, 0, 64, 64), data=recipe.data)
    assert found.bands == ("B02", "B08")
    np.testing.assert_array_equal(image, pixels[[0, 3]])
    with pytest.raises(errors.SceneError, match="the files call their bands B08, B04, B03, B02"):
        index(all_train(tmp_path, **{"data.bands": ["B04", "B03", "B05", "B01"]}))


def test_files_that_name_bands_in_ways_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As fields of GRIB, whose names hold a time."""
    for name in "abc":
        make_scene(tmp_path, name, bands=2, names=(f"TMP_{name}", f"RH_{name}"))
    with pytest.raises(errors.SceneError, match="2 bands"):
        index(all_train(tmp_path))
    recipe = all_train(tmp_path, **{"data.bands": ["t", "rh"]})
    found = index(recipe)
    assert (found.bands, found.file_bands) == (("t", "rh"), ())
    assert said(caplog).count("in file order as t, rh") == 1
    make_scene(tmp_path, "d", bands=2, names=("TMP_d", "RH_d"))
    again = index(recipe)
    assert again.bands == ("t", "rh") and [s.bands for s in again.scenes] == [()] * 4


def test_chosen_bands_are_renamed_and_others_not_read(tmp_path: Path) -> None:
    pixels = scene_of(tmp_path, "a", [0, 1, 2, 3], (*NAMES, "B08"))
    recipe = all_train(tmp_path, **{"data.reading.bands": ["B08", 1], "data.bands": ["nir", "blue"]})
    found = index(recipe)
    assert (found.bands, found.file_bands) == (("nir", "blue"), ("B08", "B02"))
    image, _ = raw_chip.pixels(found.scenes[0], Window(0, 0, 64, 64), data=recipe.data)
    np.testing.assert_array_equal(image, pixels[[3, 0]])
    assert compute.cached(recipe, found).mean == pytest.approx(pixels[[3, 0]].mean(axis=(1, 2)).tolist())


def test_bands_chosen_by_number_keep_their_numbers(tmp_path: Path) -> None:
    pixels = scene_of(tmp_path, "a", [0, 1, 2, 3], ())
    recipe = all_train(tmp_path, **{"data.reading.bands": [4, 1]})
    found = index(recipe)
    assert found.bands == ("band_4", "band_1")
    assert compute.cached(recipe, found).mean == pytest.approx(pixels[[3, 0]].mean(axis=(1, 2)).tolist())


def test_the_doctor_reads_by_name(tmp_path: Path) -> None:
    pixels = {"a": scene_of(tmp_path, "a", [0, 1, 2], NAMES), "b": scene_of(tmp_path, "b", [2, 1, 0], NAMES[::-1])}
    entries, problems, _ = access.entries(all_train(tmp_path).data, {}, lambda *_: None)
    assert not problems and not access.disagreements(entries, all_train(tmp_path).data)
    for entry in entries:
        scene, section = access.scene(entry), all_train(tmp_path).data
        assert entry.info is not None and entry.info.bands == NAMES
        image, _ = raw_chip.pixels(scene, Window(0, 0, 64, 64), data=section)
        np.testing.assert_array_equal(image, pixels[entry.id][:3])


def test_a_new_scene_in_another_order_beside_known_ones_that_are_renamed(tmp_path: Path) -> None:
    recipe = all_train(tmp_path, **{"data.bands": ["x", "y", "z"]})
    scene_of(tmp_path, "a", [0, 1, 2], NAMES)
    index(recipe)
    pixels = scene_of(tmp_path, "b", [2, 1, 0], ("B04", "B03", "B02"))
    found = index(recipe)
    image, _ = raw_chip.pixels(found.scenes[1], Window(0, 0, 64, 64), data=recipe.data)
    np.testing.assert_array_equal(image, pixels[:3])


def test_a_manifest_from_before_these_keys(tmp_path: Path) -> None:
    make_scene(tmp_path, "a")
    recipe = all_train(tmp_path)
    made = index(recipe)
    for key in ("bands", "alpha", "greys", "nodata_rule"):
        del made.data["reading"][key]
    made.write(f"{tmp_path}/old.parquet")
    assert Manifest.read(f"{tmp_path}/old.parquet").digest == made.digest
    pointer = tmp_path / "runs" / "tiny" / "manifest.json"
    tree = json.loads(pointer.read_text())
    for key in ("bands", "alpha", "greys", "nodata_rule"):
        del tree["data"]["reading"][key]
    pointer.write_text(json.dumps(tree))
    # It was made when the rule for nodata was `any`: training on it by another rule must not happen in silence.
    with pytest.raises(errors.ManifestError, match=r"made with other values of data\.reading"):
        current(recipe)
    before = {f"data.reading.{key}": value for key, value in BEFORE.items()}
    assert current(replace(recipe, before)).digest == made.digest
