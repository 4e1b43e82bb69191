"""The made-up world: what is promised about its files, and that it needs more than colours to be told apart."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.synthetic import BANDS, CLASSES, REGIONS, SEASONS, make_scene, make_world

SIZE = 256


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_scenes=4, size=SIZE, seed=3)
    return folder


def table(world: Path) -> list[dict[str, str]]:
    with (world / "splits.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_names_every_scene_and_holds_out_whole_regions(world: Path) -> None:
    rows = table(world)
    assert {row["id"] for row in rows} == {path.stem for path in (world / "images").iterdir()}
    assert {row["id"] for row in rows} == {path.stem for path in (world / "labels").iterdir()}
    assert [(row["split"], row["group"]) for row in rows] == [("train", "north")] * 2 + [("test", "south")] * 2


def test_the_full_world_has_all_splits_and_no_region_in_two() -> None:
    assert len(REGIONS) * len(SEASONS) >= 12
    assert len({region.name for region in REGIONS}) == len(REGIONS)
    assert {region.split for region in REGIONS} == {"train", "val", "test"}


def test_images_are_georeferenced_and_lie_on_the_grid_of_their_labels(world: Path) -> None:
    places = set()
    for row in table(world):
        image = raster_io.describe(str(world / "images" / f"{row['id']}.tif"))
        label = raster_io.describe(str(world / "labels" / f"{row['id']}.tif"), label=True)
        assert (image.bands, image.dtype, image.georeferenced) == (BANDS, "uint16", True)
        assert "UTM zone 33N" in str(image.grid.crs)
        assert image.grid.difference(label.grid) == ""
        places.add(image.grid.transform)
    assert len(places) == 4


def test_corners_have_no_data_and_no_label_and_nothing_else_does(world: Path) -> None:
    whole = Window(0, 0, SIZE, SIZE)
    for path in (world / "images").iterdir():
        pixels, valid = raster_io.read(str(path), whole)
        label, labelled = raster_io.read_label(str(world / "labels" / path.name), whole)
        assert not valid[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert 0.85 < valid.mean() < 0.97
        assert (valid == labelled).all()
        assert pixels[:, valid].min() > 0
        assert set(np.unique(label[labelled])) <= set(range(len(CLASSES)))


def test_equal_seeds_give_equal_pixels_and_other_seeds_others() -> None:
    first, again, other = (make_scene(REGIONS[0], SEASONS[0], 96, seed) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[1] != other[1]).mean() > 0.3


def test_each_class_is_somewhere_the_largest() -> None:
    largest = set()
    for region in REGIONS:
        _, label = make_scene(region, SEASONS[0], 512, 0)
        largest.add(int(np.bincount(label[label != 255], minlength=len(CLASSES)).argmax()))
    assert largest == set(range(len(CLASSES)))


def test_colour_alone_does_not_tell_the_classes_apart() -> None:
    """Nearest mean colour in a region nobody has seen stays far below what the demo's network must reach (0.80)."""
    train, test = ([make_scene(r, s, 256, 0) for r in REGIONS if r.split == part for s in SEASONS] for part in SPLITS)
    pixels, truth = flat(train)
    mean, std = pixels.mean(1, keepdims=True), pixels.std(1, keepdims=True)
    centres = np.stack([((pixels - mean) / std)[:, truth == k].mean(1) for k in range(len(CLASSES))])
    pixels, truth = flat(test)
    distance = (((pixels - mean) / std)[None] - centres[:, :, None]) ** 2
    miou = mean_iou(truth, distance.sum(1).argmin(0))
    assert 0.3 < miou < 0.65
    assert mean_iou(truth, np.full_like(truth, np.bincount(truth).argmax())) < 0.25


SPLITS = ("train", "test")


def flat(scenes: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    pixels = [image[:, label != 255] for image, label in scenes]
    return np.concatenate(pixels, axis=1).astype(float), np.concatenate([label[label != 255] for _, label in scenes])


def mean_iou(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([((truth == k) & (found == k)).sum() / ((truth == k) | (found == k)).sum() for k in range(4)]))


@pytest.mark.parametrize("number", [0, 15])
def test_says_how_many_scenes_there_are(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="1 to 14 scenes"):
        make_world(tmp_path, num_scenes=number)
    assert not any(tmp_path.iterdir())
