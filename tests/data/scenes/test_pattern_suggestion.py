"""Labels with other names than their images: the pattern that is said pairs everything, and is said only if so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data import doctor
from pipeline.data.scenes import discovery, pattern_suggestion
from pipeline.errors import ManifestError
from tests.factory import make_pixels, recipe_for, write_raster


def files(folder: Path, images: list[str], labels: list[str]) -> list[str]:
    for name in (*images, *labels):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in images]


@pytest.mark.parametrize(
    ("image", "label", "numbers"),
    [
        ("images/{}_training.tif", "masks/{}_manual1.gif", ("21", "22", "30")),
        ("images/img_{}.png", "masks/mask_{}.png", ("001", "002", "017")),
        ("{}_sat.jpg", "{}_mask.png", ("a", "bc", "100034")),
        ("images/IMG-{}.tif", "labels/LBL-{}.tif", ("12-x", "13-y", "14-x")),
        ("images/scene_{}_rgb.tif", "masks/{}.tif", ("ab_1", "ab_2", "c_1")),
        ("images/{}.tif", "masks/{} (mask).tif", ("a", "b", "c")),
        ("images/p{}.tif", "masks/p{}[1].tif", ("1", "2", "12")),
        ("images/x.{}.tif", "masks/y+{}.tif", ("1", "2", "12")),
        ("images/T32_{}_B.tif", "gt/T32_{}_GT.tif", ("2020_07", "2020_17", "2021_07")),
    ],
)
def test_the_pattern_pairs_everything(tmp_path: Path, image: str, label: str, numbers: tuple[str, ...]) -> None:
    images = files(tmp_path, [image.format(n) for n in numbers], [label.format(n) for n in numbers])
    found = pattern_suggestion.pattern(images, "masks/{id}.png", str(tmp_path))
    folder = image.rpartition("/")[0]
    given = {"data.images": f"{folder}/*" if folder else "*.*", "data.labels": found, "data.split": {"kind": "hash"}}
    pairs = discovery.find(recipe_for(tmp_path, **given).data)
    assert {(f.image, f.label) for f in pairs} == {
        (str(tmp_path / image.format(n)), str(tmp_path / label.format(n))) for n in numbers
    }


def test_numbers_with_and_without_zeros(tmp_path: Path) -> None:
    images = files(tmp_path, ["images/a_001.png", "images/a_010.png"], ["masks/m1.png", "masks/m10.png"])
    assert pattern_suggestion.pattern(images, "masks/{id}.png", str(tmp_path)) == "masks/m{id:0*([0-9]+)$}.png"


def test_nothing_is_said_where_nothing_pairs_all(tmp_path: Path) -> None:
    images = files(tmp_path, ["images/a_1.png", "images/a_2.png"], ["masks/b_1.png", "masks/b_3.png"])
    assert pattern_suggestion.pattern(images, "masks/{id}.png", str(tmp_path)) == ""
    images = files(tmp_path, ["images/c_1.png", "images/d_1.png"], ["masks/m_1.png"])
    assert pattern_suggestion.pattern(images, "masks/{id}.png", str(tmp_path)) == "", (
        "two images must not share a label"
    )


def test_index_and_doctor_say_the_line(tmp_path: Path) -> None:
    for number in range(21, 27):
        write_raster(tmp_path / f"images/{number}_training.tif", make_pixels(3, 64, 64, "uint8", number))
        write_raster(tmp_path / f"masks/{number}_manual1.png", make_pixels(1, 64, 64, "uint8", number) % 2)
    given = recipe_for(tmp_path, **{"data.labels": "masks/{id}.png"})
    line = "labels: 'masks/{id:^(.+)_training$}_manual1.png'"
    with pytest.raises(ManifestError) as failed:
        discovery.find(given.data)
    assert line in failed.value.hint
    found = doctor.examine(given, str(tmp_path / "report"))
    (finding,) = [f for f in found.findings if f.kind == "scenes" and f.command]
    assert (
        finding.command == f"data:\n  {line}"
        and finding.severity == "error"
        and "6 of 6" in finding.what
        and found.exit_code == 3
    )
    good = recipe_for(tmp_path, **{"data.labels": "masks/{id:^(.+)_training$}_manual1.png"})
    assert not [f for f in doctor.examine(good, str(tmp_path / "report")).errors if f.kind == "scenes"]
