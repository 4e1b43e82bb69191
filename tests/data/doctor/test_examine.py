"""The audit of whole worlds: a clean one passes, and one that was spoilt gives the finding that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from ruamel.yaml import YAML

from pipeline.data import doctor
from pipeline.data.doctor.findings import Audit
from pipeline.data.scenes.index import index
from pipeline.data.scenes.synthetic import BANDS
from tests.data.doctor.worlds import audit, everywhere, image, kinds, label, recipe, rewrite, scene, the
from tests.factory import make_scene, recipe_for


def plain(folder: Path, **overrides: object) -> Audit:
    """An audit of what `tests.factory` makes."""
    return doctor.examine(recipe_for(folder, **overrides), str(folder / "report"))


def test_a_clean_world_gives_neither_error_nor_warning(clean: Path) -> None:
    found = audit(clean)
    assert kinds(found) == set() and found.exit_code == 0 and not found.wrong
    assert found.splits["train"] == {"scenes": 6, "groups": 3, "pixels": 6 * 320 * 320}
    assert [row.name for row in found.classes] == ["water", "forest", "field", "built"]
    assert sum(row.share["train"] for row in found.classes) == pytest.approx(1)
    assert found.estimates["chips_per_epoch"] == 6 * 25 and found.estimates["chip_bytes"] == 64 * 64 * (4 * 2 + 1)
    assert found.estimates["batch_bytes"] == 2 * found.estimates["chip_bytes"]
    assert 0 < float(found.estimates["read_seconds_per_chip"]) < 1
    assert all(0.7 < (row.valid or 0) < 0.95 for row in found.scenes), "corners hold nothing"


def test_the_json_says_what_the_audit_says(clean: Path) -> None:
    found = audit(clean)
    tree = json.loads((clean / "report" / "report.json").read_text())
    assert tree["audit_version"] == 1 and tree["exit_code"] == 0
    assert [s["id"] for s in tree["scenes"]] == [s.id for s in found.scenes]
    assert tree["findings"] == json.loads(json.dumps(found.to_json()["findings"]))


def test_the_same_data_give_the_same_findings(world: Path) -> None:
    rewrite(label(world, scene(world)), lambda m: np.roll(m, 6, 2))

    def problem_of(found: Audit) -> list[tuple[str, str]]:
        return [(f.kind, f.what) for f in found.findings if f.kind != "slow_storage"]

    assert problem_of(audit(world)) == problem_of(audit(world))


def test_labels_that_lie_beside_are_told_with_how_far(world: Path) -> None:
    everywhere(world, "labels", lambda m: np.roll(m, (3, -4), (1, 2)), names=("label",))
    finding = the(audit(world), "shifted_labels")
    assert finding.severity == "error" and "In the set" in finding.what and "5.0 pixels" in finding.what
    assert "3 pixels up and 4 pixels right" in finding.fix


def test_one_label_that_lies_beside_is_told_by_name(world: Path) -> None:
    i = scene(world, 3)
    rewrite(label(world, i), lambda m: np.roll(m, 5, 1), names=("label",))
    found = audit(world)
    finding = the(found, "shifted_labels")
    assert finding.scenes == (i,) and "5.0 pixels" in finding.what and kinds(found) == {"shifted_labels"}
    assert next(row for row in found.scenes if row.id == i).flags == ("shifted_labels",)


def test_codes_that_no_class_claims_are_counted(world: Path) -> None:
    ids = scene(world, 0), scene(world, 1)

    def spoil(mask: np.ndarray) -> np.ndarray:
        mask[0, 150:160, 150:160] = 77
        return mask

    for i in ids:
        rewrite(label(world, i), spoil, names=("label",))
    found = audit(world)
    finding = the(found, "unknown_codes")
    assert "77 (200 pixels in 2 scenes)" in finding.what and finding.scenes == ids
    assert "ignore_values: [77]" in finding.command
    assert kinds(found) == {"unknown_codes"} and found.exit_code == 3 and found.wrong


def test_a_code_beside_a_class_that_no_label_holds_is_probably_that_class(world: Path) -> None:
    everywhere(world, "labels", lambda m: np.where(m == 3, 200, m), names=("label",))
    finding = the(audit(world), "unknown_codes")
    assert "200 is probably that" in finding.fix and '{name: "built", values: [200]}' in finding.command
    assert audit(world, **{"data.classes": YAML(typ="safe").load(finding.command)["data"]["classes"]}).exit_code == 0


def test_files_that_do_not_pair_are_named_beside_all_other_faults(world: Path) -> None:
    first, second, third = (scene(world, i) for i in range(3))
    label(world, first).rename(label(world, "nobody"))
    image(world, second).write_bytes(b"II*\0")
    rewrite(image(world, third), lambda p: p[:1])
    found = audit(world)
    problem_of = " ".join(f.what for f in found.errors)
    assert f"image {first} has no label" in problem_of and "nobody.tif belongs to no image" in problem_of
    assert f"{second}.tif: cannot be read" in problem_of and f"scene {third} has 1 band" in problem_of
    assert len(found.scenes) == len(list((world / "images").iterdir())), "the others are looked at all the same"


def test_settings_that_training_would_refuse_are_told_before(world: Path) -> None:
    augment = ["D4", "CLAHE", {"transform": "RandomBrightnessContrast", "brightness_by_max": False}, "HorizontalFlop"]
    found = audit(world, **{"data.augment": augment, "data.normalise": "imagenet"})
    problem_of = [f.what for f in found.findings if f.kind == "refused_settings"]
    assert len(problem_of) == 2 and kinds(found) == {"refused_settings"} and found.exit_code == 3
    said = " ".join(problem_of)
    assert "imagenet is for three bands of uint8, the scenes have 4 bands of uint16" in said
    assert "data.augment[1]: CLAHE" in said and "data.augment[3]: " in said and "augment[2]" not in said


def test_labels_without_an_image_are_told(world: Path) -> None:
    shutil.copy(label(world, scene(world)), label(world, "nobody"))
    found = audit(world)
    assert the(found, "spare_labels").what == "Label nobody.tif belongs to no image."
    assert kinds(found) == {"spare_labels"} and found.exit_code == 0


def test_bent_images_are_told_with_the_command(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    i = scene(world)
    with rasterio.open(image(world, i)) as dataset:
        pixels, crs = dataset.read(), dataset.crs
    corners = [(r, c) for r in (0, 160, 320) for c in (0, 160, 320)]
    points = [GroundControlPoint(r, c, 500_000 + 10 * c + 9e-4 * r * r, 5_000_000 - 10 * r) for r, c in corners]
    options = {"gcps": points, "crs": crs, "driver": "GTiff", "dtype": pixels.dtype, "nodata": 0}
    with rasterio.open(image(world, i), "w", count=4, height=320, width=320, **options) as dataset:
        dataset.write(pixels)
        dataset.descriptions = BANDS
    finding = the(audit(world), "bent_images")
    assert finding.scenes == (i,)
    assert finding.command.startswith("gdalwarp -tps")
    assert finding.command.endswith(f"{i}.tif {world}/images/{i}.warped.tif")
    index(recipe(world))
    assert f"scene {i}: GTiff" in caplog.text and "fit no affine transform: without coordinates" in caplog.text


def test_the_same_ground_in_two_splits_is_a_leak(world: Path) -> None:
    train, test = "north_spring", "south_spring"
    # The test scene is moved onto the training scene's ground, half a scene to the east.
    with rasterio.open(image(world, train)) as dataset:
        a, b, c, d, e, f = tuple(dataset.transform)[:6]
    for path in (image(world, test), label(world, test)):
        rewrite(path, lambda p: p, transform=(a, b, c + 160 * a, d, e, f))
    found = audit(world)
    finding = the(found, "shared_ground")
    assert finding.severity == "error" and finding.scenes == (train, test) and "50.0%" in finding.what
    assert kinds(found, "error") == {"shared_ground"}


def test_borders_without_data_may_lie_over_each_other(world: Path) -> None:
    with rasterio.open(image(world, "north_spring")) as dataset:
        a, b, c, d, e, f = tuple(dataset.transform)[:6]
    # Corners of the turned footprints are empty: they meet, and nothing measured does.
    for path in (image(world, "south_spring"), label(world, "south_spring")):
        rewrite(path, lambda p: p, transform=(a, b, c + 318 * a, d, e, f + 318 * e))
    assert "shared_ground" not in kinds(audit(world))


def test_the_same_pixels_elsewhere_in_two_splits_are_a_leak(world: Path) -> None:
    source, target = image(world, "coast_autumn"), image(world, "south_autumn")
    with rasterio.open(source) as dataset:
        pixels = dataset.read()
    rewrite(target, lambda _: np.roll(pixels, (40, 25), (1, 2)))
    found = audit(world)
    finding = the(found, "shared_content")
    assert finding.severity == "error" and finding.scenes == ("coast_autumn", "south_autumn")
    assert "40 rows and 25 columns" in finding.what


def test_equal_files_in_two_splits_are_a_leak(tmp_path: Path) -> None:
    for number in range(4):
        make_scene(tmp_path, f"s{number}", seed=number, ending=".png", layout="folders")
    shutil.copy(tmp_path / "images" / "s0.png", tmp_path / "images" / "s3.png")
    (tmp_path / "splits.csv").write_text("id,split,group\ns0,train,a\ns1,train,b\ns2,test,c\ns3,test,d\n")
    finding = the(plain(tmp_path), "shared_content")
    assert finding.scenes == ("s0", "s3") and "equal files" in finding.what


def test_a_group_in_two_splits_is_told(world: Path) -> None:
    table = (world / "splits.csv").read_text()
    (world / "splits.csv").write_text(table.replace("north_autumn,train", "north_autumn,test"))
    found = audit(world)
    finding = the(found, "group_in_two_splits")
    assert finding.severity == "warning" and "north" in finding.what
    assert finding.scenes == ("north_autumn", "north_spring") and found.exit_code == 0


def test_a_dead_band_is_told(world: Path) -> None:
    def kill(pixels: np.ndarray) -> np.ndarray:
        pixels[1] = np.where(pixels[1] > 0, 77, 0)
        return pixels

    everywhere(world, "images", kill)
    found = audit(world)
    finding = the(found, "dead_band")
    assert "green is 77" in finding.what and "-b 1 -b 3 -b 4" in finding.command and kinds(found) == {"dead_band"}


def test_a_band_that_went_lost_in_one_scene_is_told(world: Path) -> None:
    i = scene(world, 5)

    def lose(pixels: np.ndarray) -> np.ndarray:
        pixels[3] = np.where(pixels[3] > 0, 1, 0)
        return pixels

    rewrite(image(world, i), lose)
    finding = the(audit(world), "dead_band_in_scenes")
    assert finding.scenes == (i,) and "one value only in nir" in finding.what


def test_a_band_that_tells_the_label_is_told(world: Path) -> None:
    for path in sorted((world / "images").iterdir()):
        with rasterio.open(label(world, path.stem)) as dataset:
            mask = dataset.read(1)
        noise = np.random.default_rng(0).integers(0, 60, mask.shape)
        extra = np.where(mask == 255, 0, 100 + 100 * mask.astype(int) + noise).astype(np.uint16)
        rewrite(path, lambda p, extra=extra: np.concatenate([p, extra[None]]), names=("b", "g", "r", "nir", "index"))
    found = audit(world)
    finding = the(found, "leaking_band")
    assert "index (number 5): accuracy 100.0%" in finding.what and "mean IoU 1.00" in finding.what
    assert kinds(found) == {"leaking_band"}


def test_a_scene_in_other_units_stands_apart(world: Path) -> None:
    i = scene(world, 2)
    rewrite(image(world, i), lambda p: np.where(p > 0, np.minimum(p.astype(int) * 9, 65535), 0).astype(np.uint16))
    found = audit(world)
    finding = the(found, "scenes_apart")
    assert finding.scenes == (i,) and "other units" in finding.why and kinds(found) == {"scenes_apart"}


def test_strips_are_told_with_a_measured_gain_and_the_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(1, 200, (3, 2048, 2048), dtype=np.uint8)
        mask = (pixels[0] > 100).astype(np.uint8)
        make_scene(
            tmp_path, f"s{number}", pixels=pixels, label=mask, compress="deflate", blockysize=256, zlevel=1,
            transform=(10.0, 0.0, 5e5 + 1e5 * number, 0.0, -10.0, 5e6),
        )  # fmt: skip
    found = plain(tmp_path, **{"data.sampling.size": 128})
    finding = the(found, "slow_storage")
    assert finding.severity == "warning" and set(finding.scenes) == {"s0", "s1"}
    assert "blocks of 2048 × 256 pixels" in finding.what and "times faster" in finding.what
    assert finding.command.startswith("gdal_translate -of COG") and "images/s" in finding.command


def test_a_broken_scene_is_named_and_the_others_are_looked_at(world: Path) -> None:
    i = scene(world, 4)
    whole = image(world, i).read_bytes()
    image(world, i).write_bytes(whole[: len(whole) // 3])
    found = audit(world)
    finding = the(found, "broken_scenes")
    assert finding.severity == "error" and finding.scenes == (i,) and f"{i}.tif" in finding.what
    assert "{kind: quarantine, max: 1}" in finding.command
    assert len(found.bands) == 4 and len(found.scenes) == 10
    tolerated = audit(world, **{"data.on_error": {"kind": "quarantine", "max": 2}})
    assert the(tolerated, "broken_scenes").severity == "warning" and tolerated.exit_code == 0


def test_a_label_on_another_grid_is_named(world: Path) -> None:
    i = scene(world, 1)
    rewrite(label(world, i), lambda m: m[:, :-10], names=("label",))
    finding = the(audit(world), "broken_scenes")
    assert finding.scenes == (i,) and "310" in finding.what


def test_images_without_label_and_no_images_are_findings_not_crashes(world: Path) -> None:
    label(world, scene(world)).unlink()
    found = audit(world)
    assert kinds(found) == {"scenes"} and scene(world) in the(found, "scenes").what and found.exit_code == 3
    nothing = audit(world, **{"data.images": "nowhere/*.tif"})
    assert kinds(nothing) == {"scenes"} and nothing.scenes == ()


def test_a_single_scene_without_coordinates_and_labels(tmp_path: Path) -> None:
    make_scene(tmp_path, "only", ending=".png", label_ending=None, height=200, width=300)
    found = plain(tmp_path, **{"data.labels": None, "data.split": {"kind": "hash", "test": 0.0}})
    assert "no_labels" in kinds(found) and found.exit_code == 3
    assert len(found.scenes) == 1 and found.scenes[0].crs == "" and found.bands[0].name == "band_1"


def test_a_class_that_is_only_tested_is_an_error_and_one_never_tested_a_warning(world: Path) -> None:
    for path in sorted((world / "labels").iterdir()):
        gone = 3 if path.stem.startswith("south") else 0
        rewrite(path, lambda m, gone=gone: np.where(m == gone, 2, m), names=("label",))
    found = audit(world)
    problem_of = {(f.severity, f.what) for f in found.findings if f.kind == "missing_class"}
    assert ("error", "Class water is in test, but never in train.") in problem_of
    assert ("warning", "Class built is not in test.") in problem_of


def test_empty_splits_and_nothing_annotated_are_told(world: Path) -> None:
    table = (world / "splits.csv").read_text()
    swapped = table.replace(",train,", ",val,").replace("south_autumn,test", "south_autumn,train")
    (world / "splits.csv").write_text(swapped)
    rewrite(label(world, "south_autumn"), lambda m: np.full_like(m, 255), names=("label",))
    found = audit(world)
    assert "nothing_annotated" in kinds(found, "error") and "label_warnings" in kinds(found)
    (world / "splits.csv").write_text(table.replace(",train,", ",val,"))
    assert "empty_split" in kinds(audit(world), "error")


def test_scenes_smaller_than_a_chip_and_rare_classes_are_told(world: Path) -> None:
    small = audit(world, **{"data.sampling.size": 512})
    assert "10 of 10 scenes are smaller than a chip of 512" in the(small, "small_scenes").what
    assert "size: 320" in the(small, "small_scenes").command

    def thin(mask: np.ndarray) -> np.ndarray:
        mask = np.where(mask == 3, 2, mask)
        mask[0, 150:160, 150:160] = 3
        return mask

    everywhere(world, "labels", thin, names=("label",))
    rare = the(audit(world), "rare_classes")
    assert "built 0.1" in rare.what and "classes: [built]" in rare.command and "class_weights" in rare.command


def test_zeros_at_the_border_that_count_as_valid_are_told(world: Path) -> None:
    everywhere(world, "images", lambda p: p, nodata=None)
    found = audit(world)
    assert len(the(found, "undeclared_nodata").scenes) == 10
    assert "undeclared_nodata" not in kinds(audit(world, **{"data.nodata": 0}))


def test_other_bands_in_one_scene_are_an_error(world: Path) -> None:
    rewrite(image(world, scene(world)), lambda p: p[:3])
    assert "3 bands" in the(audit(world), "scenes").what


def test_a_scene_that_shows_nothing_is_told(world: Path) -> None:
    i = scene(world, 6)
    rewrite(image(world, i), lambda p: np.zeros_like(p))
    assert the(audit(world), "no_valid_pixel").scenes == (i,)


def test_pixels_of_other_sizes_are_told(world: Path) -> None:
    i = scene(world, 7)
    for path in (image(world, i), label(world, i)):
        rewrite(path, lambda p: p, transform=(20.0, 0.0, 9e5, 0.0, -20.0, 6e6))
    finding = the(audit(world), "mixed_pixel_sizes")
    assert finding.scenes == (i,) and "a factor of 4.0" in finding.what


def test_vector_labels_are_counted_too(tmp_path: Path) -> None:
    make_scene(tmp_path, "s0", height=128, width=128, label_ending=None)
    left, right, top, bottom = 500_100, 500_600, 4_999_900, 4_999_400
    square = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    tree = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
        "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [square]}}],
    }
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "s0.geojson").write_text(json.dumps(tree))
    found = plain(tmp_path, **{"data.split": {"kind": "hash", "test": 0.0}})
    assert found.classes[1].pixels == {"train": 2500}


def test_scenes_cut_by_blocks_of_ground_share_none(world: Path) -> None:
    (world / "splits.csv").unlink()
    split = {"kind": "blocks", "block": 800, "buffer": 8, "val": 0.2, "test": 0.2, "min_side": 16}
    found = audit(world, **{"data.split": split})
    assert len(found.scenes) > 10 and set(found.splits) == {"train", "val", "test"}
    assert not kinds(found, "error"), "parts of one file do not overlap"
    pixels = sum(of["pixels"] for of in found.splits.values())
    assert 0.5 * 10 * 320 * 320 < pixels < 10 * 320 * 320
    labelled = sum(sum(row.pixels.values()) for row in found.classes)
    assert labelled < pixels


def test_labels_of_several_classes_per_pixel(world: Path) -> None:
    everywhere(
        world,
        "labels",
        lambda m: np.concatenate(
            [np.where(m == 255, 255, (m == 1) | (m == 2)), np.where(m == 255, 255, m == 2)]
        ).astype(np.uint8),
        names=("plants", "crops"),
    )
    given = {
        "data.task": "multilabel",
        "data.classes": [{"name": "plants"}, {"name": "crops"}],
        "loss": [{"kind": "bce"}],
    }
    found = audit(world, **given)
    plants, crops = found.classes
    assert 0 < crops.pixels["train"] < plants.pixels["train"]
    assert kinds(found, "error") == set()


def test_volumes_are_looked_at_slice_by_slice(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        mask = np.zeros((96, 80, 6), np.uint8)
        mask[20:60, 30:50] = 1
        image = (100 + 80 * mask + rng.normal(0, 10, mask.shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "images" / f"v{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "masks" / f"v{number}.nii.gz")
    (tmp_path / "splits.csv").write_text("id,split\nv0.nii,train\nv1.nii,train\nv2.nii,test\n")
    found = plain(tmp_path, **{"data.labels": "masks/{id}.gz"})
    assert [row.size.count("×") for row in found.scenes] == [2, 2, 2], [f.what for f in found.findings]
    assert found.classes[1].pixels == {"train": 2 * 40 * 20 * 6, "test": 40 * 20 * 6}
    assert kinds(found, "error") == set()


def test_progress_is_told(clean: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    doctor.examine(
        recipe(clean), str(clean / "report"), progress=lambda done, total, note="": calls.append((done, total, note))
    )
    assert {note for *_, note in calls} >= {"headers", "pixels", "labels"}
    assert all(0 < done <= total == 10 for done, total, _ in calls)
