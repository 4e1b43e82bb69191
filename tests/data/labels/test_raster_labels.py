import numpy as np
import pytest
from PIL import Image

from pipeline.data.labels import masks
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.errors import LabelError, SceneError
from tests.data.labels.places import scene, setup, whole
from tests.factory import TRANSFORM, UTM, write_raster

RNG = np.random.default_rng(0)
COLORS = [{"name": "ground", "values": ["#000000", "#00ff00"]}, {"name": "house", "values": ["#ff0000"]}]
THREE = [{"name": "a"}, {"name": "b"}, {"name": "c"}]


def mask_of(path, size=(6, 8), window=None, **settings):
    classes, data = setup(**settings)
    place = scene(path, *size, crs=None, transform=(1, 0, 0, 0, 1, 0))
    return masks.mask(place, window or whole(place), classes, data)


def values_of(choice, size=(6, 8), dtype=np.uint8):
    return RNG.choice(np.array(choice, dtype), size)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_codes_of_any_type(tmp_path, dtype, ending):
    label = values_of([0, 3, 64, 99], dtype=dtype)
    if ending == ".png" and dtype not in ("uint8", "uint16"):
        ending = ".tif"
    path = write_raster(tmp_path / f"a{ending}", label)
    classes = [{"name": "a", "values": ["0..3"]}, {"name": "b", "values": [64]}]
    mask = mask_of(path, classes=classes, ignore_values=[99])
    np.testing.assert_array_equal(mask, np.select([label <= 3, label == 64], [0, 1], IGNORE))


def test_minus_one_may_mean_not_annotated(tmp_path):
    label = values_of([-1, 0, 1], dtype=np.int16)
    mask = mask_of(write_raster(tmp_path / "a.tif", label), ignore_values=[-1])
    np.testing.assert_array_equal(mask, np.where(label < 0, IGNORE, label))


def test_whole_numbers_as_floats_where_nan_is_not_annotated(tmp_path):
    label = values_of([0, 1, np.nan], dtype=np.float32)
    mask = mask_of(write_raster(tmp_path / "a.tif", label))
    np.testing.assert_array_equal(mask, np.where(np.isnan(label), IGNORE, np.nan_to_num(label)))
    label[2, 3] = 0.25
    with pytest.raises(LabelError, match=r"no whole numbers, such as 0\.25 \(1 pixels\)"):
        mask_of(write_raster(tmp_path / "b.tif", label))


def test_nodata_and_masks_of_a_label_are_not_annotated(tmp_path):
    label, known = values_of([0, 1]), RNG.random((6, 8)) < 0.7
    expected = np.where(known, label, IGNORE)
    with_nodata = write_raster(tmp_path / "a.tif", np.where(known, label, 77).astype(np.uint8), nodata=77)
    np.testing.assert_array_equal(mask_of(with_nodata), expected)
    np.testing.assert_array_equal(mask_of(write_raster(tmp_path / "b.tif", label, mask=known)), expected)


def test_one_bit_per_pixel(tmp_path):
    label = RNG.random((6, 8)) < 0.5
    Image.fromarray(label).save(tmp_path / "a.png")
    write_raster(tmp_path / "a.tif", label.astype(np.uint8), nbits=1)
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png"), label)
    np.testing.assert_array_equal(mask_of(tmp_path / "a.tif"), label)


@pytest.mark.parametrize("ending", [".tif", ".png"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours(tmp_path, ending, alpha):
    which = RNG.integers(0, 3, (6, 8))
    label = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8)[which].transpose(2, 0, 1)
    if alpha:
        label = np.concatenate([label, np.full((1, 6, 8), 255, np.uint8)])
    path = write_raster(tmp_path / f"a{ending}", label, alpha=alpha)
    np.testing.assert_array_equal(mask_of(path, classes=COLORS), which == 2)


def test_a_strange_colour_is_named(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((3, 6, 8), 7, np.uint8))
    with pytest.raises(LabelError, match=r"scene a: label values without a class: #070707 \(48 pixels\)"):
        mask_of(path, classes=COLORS)


def test_a_palette_means_indices_or_its_colours(tmp_path):
    label = RNG.integers(0, 3, (6, 8)).astype(np.uint8)
    picture = Image.fromarray(label, "P")
    picture.putpalette([0, 255, 0, 255, 0, 0, 0, 0, 0] + [9] * 759)
    picture.save(tmp_path / "a.png")
    colors = {0: (0, 255, 0), 1: (255, 0, 0), 2: (0, 0, 0)}
    write_raster(tmp_path / "a.tif", label, photometric="palette", colors=colors)
    picture.save(tmp_path / "a.gif")
    for ending in (".png", ".tif", ".gif"):
        np.testing.assert_array_equal(mask_of(tmp_path / f"a{ending}", classes=THREE), label)
        np.testing.assert_array_equal(mask_of(tmp_path / f"a{ending}", classes=COLORS), label == 1)


def test_colours_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(LabelError, match=r"one band and no palette, but data\.classes lists colours"):
        mask_of(write_raster(tmp_path / "a.tif", values_of([0, 1])), classes=COLORS)
    with pytest.raises(LabelError, match=r"2 bands of uint8, but data\.classes"):
        mask_of(write_raster(tmp_path / "b.tif", np.zeros((2, 6, 8), np.uint8)), classes=COLORS)


def test_a_grey_picture_saved_in_colour_is_one_band(tmp_path):
    label = values_of([0, 255])
    path = write_raster(tmp_path / "a.png", np.stack([label] * 3))
    classes = [{"name": "a", "values": [0]}, {"name": "b", "values": [255]}]
    np.testing.assert_array_equal(mask_of(path, classes=classes), label == 255)
    colored = write_raster(tmp_path / "b.png", np.stack([label, label, 255 - label]))
    with pytest.raises(LabelError, match="3 bands, and they differ") as caught:
        mask_of(colored, classes=classes)
    assert "colours" in caught.value.hint and "multilabel" in caught.value.hint


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1.0), ("float32", 1 / 255)])
def test_soft_edges_have_a_threshold(tmp_path, dtype, scale):
    label = (RNG.integers(0, 256, (6, 8)) * scale).astype(dtype)
    label[0, 0] = np.dtype(dtype).type(128 * scale)
    path = write_raster(tmp_path / "a.tif", label)
    mask = mask_of(path, label={"threshold": 128 * scale})
    np.testing.assert_array_equal(mask, label >= np.float32(128 * scale) if dtype == "float32" else label >= 128)
    assert mask[0, 0] == 1 or dtype == "float32"


def test_a_threshold_leaves_what_is_not_annotated(tmp_path):
    label = values_of([0, 10, 200, 255], dtype=np.uint8)
    mask = mask_of(write_raster(tmp_path / "a.tif", label), label={"threshold": 100}, ignore_values=[255])
    np.testing.assert_array_equal(mask, np.select([label == 255, label >= 100], [IGNORE, 1], 0))
    soft = np.where(label == 255, np.nan, label).astype(np.float32)
    mask = mask_of(write_raster(tmp_path / "b.tif", soft), label={"threshold": 100})
    np.testing.assert_array_equal(mask, np.select([np.isnan(soft), soft >= 100], [IGNORE, 1], 0))


def test_one_band_per_class(tmp_path):
    label = RNG.choice(np.array([0, 1, 7, 99], np.uint8), (3, 6, 8))
    path = write_raster(tmp_path / "a.tif", label)
    mask = mask_of(path, classes=THREE, task="multilabel", ignore_values=[99])
    assert mask.shape == (3, 6, 8)
    np.testing.assert_array_equal(mask, np.where(label == 99, IGNORE, label != 0))
    with pytest.raises(LabelError, match="3 bands, but there are 2 classes"):
        mask_of(path, classes=THREE[:2], task="multilabel")


def test_one_band_per_class_with_soft_edges(tmp_path):
    label = RNG.random((2, 6, 8)).astype(np.float32)
    label[:, 0, 0] = np.nan
    path = write_raster(tmp_path / "a.tif", label)
    mask = mask_of(path, task="multilabel", label={"threshold": 0.5})
    np.testing.assert_array_equal(mask, np.where(np.isnan(label), IGNORE, label >= 0.5))


def test_a_single_class_of_a_multilabel_task(tmp_path):
    label = values_of([0, 5])
    mask = mask_of(write_raster(tmp_path / "a.tif", label), classes=THREE[:1], task="multilabel")
    np.testing.assert_array_equal(mask, (label != 0)[None])


def test_without_a_label_nothing_is_annotated():
    classes, data = setup()
    assert (masks.mask(scene(None, 6, 8), Window(0, 0, 4, 5), classes, data) == IGNORE).all()
    classes, data = setup(task="multilabel")
    assert masks.mask(scene(None, 6, 8), Window(0, 0, 4, 5), classes, data).shape == (2, 4, 5)


def test_a_label_that_is_no_raster_is_named(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"nothing of the kind")
    with pytest.raises((SceneError, LabelError), match=r"a\.tif"):
        mask_of(tmp_path / "a.tif")


# ------------------------------------------------------------------------------------------------ windows and parts


def test_outside_the_scene_is_not_annotated(tmp_path):
    label = values_of([0, 1])
    mask = mask_of(write_raster(tmp_path / "a.tif", label), window=Window(-2, -3, 12, 14))
    expected = np.full((12, 14), IGNORE)
    expected[2:8, 3:11] = label
    np.testing.assert_array_equal(mask, expected)


def test_a_part_of_a_file_sees_nothing_of_the_rest(tmp_path):
    label = values_of([0, 1], (40, 50))
    path = write_raster(tmp_path / "a.tif", label)
    classes, data = setup()
    part = scene(path, 10, 12, crs=None, transform=(1, 0, 0, 0, 1, 0), origin=(20, 30))
    np.testing.assert_array_equal(masks.mask(part, whole(part), classes, data), label[20:30, 30:42])
    around = masks.mask(part, Window(-5, -6, 30, 30), classes, data)
    expected = np.full((30, 30), IGNORE)
    expected[5:15, 6:18] = label[20:30, 30:42]
    np.testing.assert_array_equal(around, expected)


def test_an_area_of_interest_may_be_a_raster(tmp_path):
    label, area = values_of([0, 1]), RNG.integers(0, 3, (6, 8)).astype(np.uint8)
    path, aoi = write_raster(tmp_path / "a.tif", label), write_raster(tmp_path / "aoi.png", area)
    classes, data = setup()
    place = scene(path, 6, 8, crs=None, transform=(1, 0, 0, 0, 1, 0), aoi=str(aoi))
    np.testing.assert_array_equal(masks.mask(place, whole(place), classes, data), np.where(area > 0, label, IGNORE))


def test_a_label_on_the_grid_of_its_file_needs_no_alignment(tmp_path):
    label = values_of([0, 1], (40, 50))
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=TRANSFORM)
    x, y = TRANSFORM[2] + 300, TRANSFORM[5] - 200
    for settings in ({}, {"align": "image"}):
        classes, data = setup(**settings)
        part = scene(path, 10, 12, transform=(10, 0, x, 0, -10, y), origin=(20, 30))
        np.testing.assert_array_equal(masks.mask(part, whole(part), classes, data), label[20:30, 30:42])
