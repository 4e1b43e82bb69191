"""Values: undeclared nodata, class maps among bands, bright targets, image rims, classes that are never valid."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import doctor_worlds as made
from pipeline.data.doctor import sentinels
from pipeline.data.doctor.findings import Audit
from tests.data.doctor.worlds import audit, kinds, the

TWO = {"data.classes": [{"name": "ground"}, {"name": "thing"}], "data.ignore_values": []}


def checked(folder: Path, **overrides: object) -> Audit:
    return audit(folder, **TWO | overrides)


def bands(number: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    image, mask = made.buildings(number, bands=count)
    return image.round().astype(np.int16), mask


def test_a_value_in_one_band_is_told_with_number_scenes_share_and_line(tmp_path: Path) -> None:
    def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = bands(number)
        if number == 5:
            image[2, :19] = -9999
        return image, mask

    found = checked(made.make(tmp_path, scene))
    finding = the(found, "undeclared_nodata")
    assert finding.scenes == ("s05",) and finding.severity == "warning"
    assert "-9999 is in band band_3 of 1 scene of 12 (s05)" in finding.what and "9.9%" in finding.what
    assert finding.command == "data:\n  nodata: -9999\n  reading: {nodata_rule: any}"
    assert "{bands: [1, 2, 4]}" in finding.fix
    assert "nodata: -9999" in found.text()
    changed = {"data.nodata": -9999, "data.reading.nodata_rule": "any"}
    assert "undeclared_nodata" not in kinds(checked(tmp_path, **changed))


@pytest.mark.parametrize(
    ("dtype", "value", "written"),
    [
        ("int16", -32768, "-32768"),
        ("uint16", 65535, "65535"),
        ("float32", float(np.finfo(np.float32).min), "-3.4028234663852886e+38"),
        ("float32", float(np.float32(1e20)), "1.0000000200408773e+20"),
        ("float32", -9999, "-9999"),
    ],
)
def test_the_line_holds_the_very_value(tmp_path: Path, dtype: str, value: float, written: str) -> None:
    def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = bands(number)
        image = image.clip(1).astype(dtype)
        image[:, :, :12] = value
        return image if dtype != "float32" else image.astype(np.float64).astype(dtype), mask

    for number in range(6):
        pixels, mask = scene(number)
        made.write(tmp_path / f"images/s{number}.tif", pixels, number)
        made.write(tmp_path / f"labels/s{number}.tif", mask, number)
    found = checked(tmp_path, **{"data.split": {"kind": "hash", "test": 0.3}})
    finding = the(found, "undeclared_nodata")
    assert finding.command == f"data:\n  nodata: {written}" and len(finding.scenes) == 6
    assert "all bands" in finding.what and "6.2%" in finding.what
    split = {"data.split": {"kind": "hash", "test": 0.3}}
    assert "undeclared_nodata" not in kinds(checked(tmp_path, **split, **{"data.nodata": float(written)}))


def test_saturated_and_ordinary_extremes_are_no_nodata() -> None:
    rng = np.random.default_rng(0)
    saturated = rng.normal(60_000, 9_000, (1, 64, 64)).clip(0, 65535).astype(np.uint16)
    dark = rng.normal(0, 30, (1, 64, 64)).clip(0, 255).astype(np.uint8)
    for pixels in (saturated, dark, np.where(rng.random((1, 64, 64)) < 0.3, 255, 0).astype(np.uint8)):
        found = sentinels.extremes([(pixels, np.ones((64, 64), bool))])
        assert sentinels.sentinels({"a": found}, [(0.0, 200.0)]) == []


def test_a_class_map_among_the_bands_is_told_and_bright_targets_are_a_note(tmp_path: Path) -> None:
    def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = bands(number, 3)
        image[0] += 90 * mask  # bright things, as in plain RGB
        rng = np.random.default_rng(number)
        map_ = np.where(rng.random(mask.shape) < 0.88, mask, 1 - mask) * 7
        return np.concatenate([image, map_[None].astype(np.int16)]), mask

    found = checked(made.make(tmp_path, scene))
    finding = the(found, "leaking_band")
    assert "band_4: 2 values, accuracy 8" in finding.what and "mean IoU 0.7" in finding.what
    assert finding.severity == "warning" and finding.command == "data:\n  reading: {bands: [1, 2, 3]}"
    assert "band_1" not in finding.what


def test_plain_images_with_bright_targets_give_no_warning(tmp_path: Path) -> None:
    def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = made.roads(number)
        return made.as_bytes(image * 0.4 + 150 * mask), mask

    found = checked(made.make(tmp_path, scene))
    assert the(found, "telling_band").severity == "note" and "leaking_band" not in kinds(found)
    assert "mean IoU" in the(found, "telling_band").what


def test_a_class_that_is_never_valid_is_an_error(tmp_path: Path) -> None:
    folder = made.make(tmp_path, lambda n: bands(n, 3))
    for number in range(12):
        pixels, mask = bands(number, 3)
        pixels[2, mask == 1] = 0
        made.write(folder / f"images/s{number:02}.tif", pixels, number, nodata=0)
    found = checked(folder)
    # Where the reader takes such pixels as valid, the class is seen, and nothing is to be said.
    if any(s.valid is not None and s.valid < 0.99 for s in found.scenes):
        assert "Class thing: of" in the(found, "never_valid").what and "0 are valid" in the(found, "never_valid").what
        assert found.exit_code == 3
    for number in range(12):
        pixels, mask = bands(number, 3)
        pixels[:, mask == 1] = 0
        made.write(folder / f"images/s{number:02}.tif", pixels, number, nodata=0)
    assert the(checked(folder), "never_valid").severity == "error"


def test_labels_that_annotate_nothing_are_told_by_scene(tmp_path: Path) -> None:
    folder = made.make(tmp_path, lambda n: bands(n, 3), label=lambda m, n: m * 0 + 255 if n in (2, 7) else m)
    ignored = {"data.ignore_values": [255]}
    finding = the(checked(folder, **ignored), "unannotated_scenes")
    assert finding.scenes == ("s02", "s07") and finding.severity == "warning"
    made.make(tmp_path / "all", lambda n: bands(n, 3), label=lambda m, n: m * 0 + 255)
    found = checked(tmp_path / "all", **ignored)
    assert the(found, "unannotated_scenes").severity == "error" and found.exit_code == 3


def rim_of(image: np.ndarray) -> sentinels.Rim | None:
    return sentinels.rim(image, np.ones(image.shape[1:], bool))


def test_frames_and_round_fields_of_view_are_rims_and_dark_ground_is_none() -> None:
    image = made.as_bytes(made.buildings(1)[0])
    assert rim_of(image) is None
    framed = image.copy()
    framed[:, :10] = framed[:, -10:] = 0
    framed[:, :, :10] = framed[:, :, -10:] = 0
    found = rim_of(framed)
    assert found is not None and found.exact and found.values == (0, 0, 0)
    assert found.share == pytest.approx(1 - (made.SIDE - 20) ** 2 / made.SIDE**2, abs=1e-6)
    y, x = np.mgrid[: made.SIDE, : made.SIDE] - made.SIDE / 2
    disc = np.hypot(y, x) < 90
    assert (rim_of(np.where(disc, image, 0)) or framed).share == pytest.approx(1 - disc.mean(), abs=0.01)  # type: ignore[union-attr]
    dots = np.zeros((1, 128, 128), np.uint8)
    for row, col in np.random.default_rng(0).integers(10, 118, (12, 2)):
        cv2.circle(dots[0], (int(col), int(row)), 5, 200, -1)
    assert rim_of(dots) is None, "bright things on black ground"


def test_an_alpha_band_of_many_values_is_told_and_soft_edges_are_not(tmp_path: Path) -> None:
    folder = made.make(tmp_path, lambda n: bands(n, 3))
    for number in range(12):
        pixels = made.as_bytes(made.buildings(number, bands=4)[0])
        made.write(folder / f"images/s{number:02}.tif", pixels, number, alpha=True)
    finding = the(checked(folder), "alpha_of_many_values")
    assert len(finding.scenes) == 12 and finding.command == "data:\n  reading: {alpha: band}"
    for number in range(12):
        pixels = made.as_bytes(made.buildings(number, bands=4)[0])
        pixels[3] = 255
        pixels[3, :40] = np.arange(40)[:, None] * 6
        made.write(folder / f"images/s{number:02}.tif", pixels, number, alpha=True)
    assert "alpha_of_many_values" not in kinds(checked(folder))


def test_a_dark_band_of_few_grades_is_no_class_map(tmp_path: Path) -> None:
    def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = bands(number, 3)
        image[2] = 6 + 9 * mask + np.random.default_rng(number).normal(0, 1.5, mask.shape).round()
        return image.clip(0), mask

    assert "leaking_band" not in kinds(checked(made.make(tmp_path, scene)))
