"""Chips: pixels as in the file, IGNORE and the fill where nothing was measured."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.feed.plan import Plan
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import LabelError, ManifestError, RecipeError, SceneError
from tests.data.feed.feed_world import AUGMENT, FILL, cut, plan, scene, section

ROUNDED = np.array([11, 13, 13, 14])


def classes(folder: Path) -> Classes:
    return Classes.from_section(section(folder))


def pixels(path: str) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    one = scene(tmp_path, "a")
    image, mask = cut(one, Window(10, 5, 32, 40), classes(tmp_path), nodata=None, fill=FILL)
    assert (image.dtype, mask.dtype) == (np.uint16, np.uint8)
    assert np.array_equal(image, pixels(one.image)[:, 10:42, 5:45])
    assert np.array_equal(mask, pixels(one.label)[0, 10:42, 5:45])


@pytest.mark.parametrize("invalid", ["nodata", "mask", "alpha"])
def test_invalid_pixels_are_ignored_and_filled(tmp_path: Path, invalid: str) -> None:
    one = scene(tmp_path, "a", invalid=invalid)
    image, mask = cut(one, Window(0, 0, 64, 64), classes(tmp_path), nodata=None, fill=FILL)
    assert (mask[:32, :16] == IGNORE).all()
    assert (image[:, :32, :16] == ROUNDED[:, None, None]).all()
    assert (mask[32:] < 2).all()
    assert np.array_equal(image[:, 32:], pixels(one.image)[:4, 32:])


def test_the_recipe_names_another_nodata_value(tmp_path: Path) -> None:
    values = np.full((4, 64, 64), 900, np.uint16)
    values[:, :10] = 77
    one = scene(tmp_path, "a", pixels=values)
    image, mask = cut(one, Window(0, 0, 64, 64), classes(tmp_path), nodata=77.0, fill=FILL)
    assert (mask[:10] == IGNORE).all()
    assert (mask[10:] < 2).all()
    assert (image[:, :10] == ROUNDED[:, None, None]).all()


def test_padding_is_ignored_and_filled(tmp_path: Path) -> None:
    one = scene(tmp_path, "a", height=20, width=50)
    image, mask = cut(one, Window(0, 30, 32, 32), classes(tmp_path), nodata=None, fill=FILL)
    inside = np.zeros((32, 32), bool)
    inside[:20, :20] = True
    assert ((mask == IGNORE) == ~inside).all()
    assert (image[:, ~inside] == ROUNDED[:, None]).all()
    assert np.array_equal(image[:, :20, :20], pixels(one.image)[:, :, 30:])


def test_the_fill_fits_the_dtype(tmp_path: Path) -> None:
    one = scene(tmp_path, "a", dtype="uint8", bands=2, height=20)
    image, _ = cut(one, Window(0, 0, 32, 32), classes(tmp_path), nodata=None, fill=(-3.0, 300.0))
    assert image[:, -1, 0].tolist() == [0, 255]
    real = scene(tmp_path, "b", dtype="float32", bands=1, height=20, invalid="nan")
    image, mask = cut(real, Window(0, 0, 32, 32), classes(tmp_path), nodata=None, fill=(0.25,))
    assert np.isfinite(image).all()
    assert (image[0][mask == IGNORE] == np.float32(0.25)).all()


def test_label_nodata_is_ignored_and_keeps_the_image(tmp_path: Path) -> None:
    label = np.ones((64, 64), np.uint8)
    label[:5] = 9
    one = scene(tmp_path, "a", label=label, label_nodata=9)
    image, mask = cut(one, Window(0, 0, 64, 64), classes(tmp_path), nodata=None, fill=FILL)
    assert (mask[:5] == IGNORE).all()
    assert np.array_equal(image, pixels(one.image))


def test_a_scene_without_a_label_is_all_ignored(tmp_path: Path) -> None:
    one = scene(tmp_path, "a", label_ending=None)
    image, mask = cut(one, Window(0, 0, 64, 64), classes(tmp_path), nodata=None, fill=FILL)
    assert (mask == IGNORE).all()
    assert np.array_equal(image, pixels(one.image))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    label = np.zeros((64, 64), np.uint8)
    label[3, 3:5] = 7
    one = scene(tmp_path, "strange", label=label)
    with pytest.raises(LabelError, match=r"scene strange.* 7 \(2 pixels\)"):
        cut(one, Window(0, 0, 32, 32), classes(tmp_path), nodata=None, fill=FILL)
    gone = scene(tmp_path, "gone")
    Path(gone.image).unlink()
    with pytest.raises(SceneError, match=r"gone\.tif"):
        cut(gone, Window(0, 0, 32, 32), classes(tmp_path), nodata=None, fill=FILL)


def test_chips_of_a_plan_travel(tmp_path: Path) -> None:
    """A copy in another process would make the same chips; two epochs do not."""
    here = plan(tmp_path, augment=AUGMENT)
    there = pickle.loads(pickle.dumps(here))
    length = here.order.epoch_size
    images, masks = here.stack(range(2 * length))
    assert images.shape == (2 * length, 4, 32, 32)
    assert (images.dtype, masks.dtype, masks.shape) == (np.uint16, np.uint8, (2 * length, 32, 32))
    for number in (2 * length - 1, 0, 7):
        image, mask = there.chip(number)
        assert np.array_equal(image, images[number])
        assert np.array_equal(mask, masks[number])
    assert not np.array_equal(images[:length], images[length:])
    assert pickle.loads(pickle.dumps(there)) == here


def test_a_chip_is_the_window_that_the_order_says(tmp_path: Path) -> None:
    here = plan(tmp_path)
    for number in range(here.order.epoch_size):
        ref = here.order.chip(number)
        image, mask = here.chip(number)
        wanted = cut(here.scenes[ref.scene], ref.window, here.classes, nodata=None, fill=FILL)
        assert np.array_equal(image, wanted[0])
        assert np.array_equal(mask, wanted[1])


def manifest(folder: Path, **options) -> Manifest:
    scenes = plan(folder).scenes
    data = section(folder)
    return Manifest(scenes, tuple("rgbn"), "uint16", Classes.from_section(data), {}, "d" * 64, **options)


def statistics() -> Statistics:
    return Statistics(100, FILL, (1.0,) * 4, (0.0,) * 4, (4000.0,) * 4, (60, 40))


def test_a_plan_of_a_manifest(tmp_path: Path) -> None:
    data = section(tmp_path, augment=AUGMENT)
    made = Plan.of(manifest(tmp_path), statistics(), data, seed=5)
    assert (made.fill, made.dtype, made.num_bands, made.digest) == (FILL, "uint16", 4, "d" * 64)
    assert len(made.scenes) == 4
    assert made.chip(0)[0].shape == (4, 32, 32)
    with pytest.raises(ManifestError, match="val"):
        Plan.of(manifest(tmp_path), statistics(), data, 5, split="val")


def test_gamma_knows_the_range_of_the_data(tmp_path: Path) -> None:
    gamma = {"transform": "RandomGamma", "gamma_limit": [150, 150], "p": 1.0}
    plain, curved = (Plan.of(manifest(tmp_path), statistics(), section(tmp_path, augment=a), 5) for a in ([], [gamma]))
    (before, mask), (after, _) = (made.chip(3) for made in (plain, curved))
    valid = mask != IGNORE
    assert valid.any()
    np.testing.assert_allclose(after[:, valid], 4000 * (before[:, valid] / 4000) ** 1.5, atol=0.51)


def test_a_plan_refuses_augmentation_that_its_chips_cannot_take(tmp_path: Path) -> None:
    data = section(tmp_path, augment=["D4", "GaussNoise", {"transform": "RandomCrop", "height": 16, "width": 16}])
    with pytest.raises(RecipeError) as caught:
        Plan.of(manifest(tmp_path), statistics(), data, 5)
    assert "data.augment[1]: GaussNoise does not work on 4 bands of uint16" in str(caught.value)
    assert "data.augment[2]: RandomCrop makes 16×16 of a chip of 32×32" in str(caught.value)
