"""Numbers in labels with a palette: greys mean their grey value or rank, colours their index."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.labels import masks
from pipeline.data.scenes import index
from pipeline.errors import LabelError
from tests.data.labels.places import scene, setup, whole
from tests.factory import make_scene, recipe_for, write_raster

RNG = np.random.default_rng(0)
THREE = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
ENDINGS = ["png", "gif", "bmp", "tif"]


def mask_of(path, size=(6, 8), **settings):
    classes, data = setup(**settings)
    place = scene(path, *size, crs=None, transform=(1, 0, 0, 0, 1, 0))
    return masks.mask(place, whole(place), classes, data)


def values_of(*choice):
    return RNG.choice(np.array(choice, np.uint8), (6, 8))


def indexed(path, indices, palette):
    """Write indices with a palette of greys, or of colours."""
    picture = Image.fromarray(indices, "P")
    flat = [v for entry in palette for v in (entry if isinstance(entry, tuple) else (entry,) * 3)]
    picture.putpalette(flat + [0] * (768 - len(flat)))
    picture.save(path)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_grey_value_counts_and_not_the_index(tmp_path, ending):
    indices = values_of(0, 1)
    path = indexed(tmp_path / f"a.{ending}", indices, [0, 2])
    np.testing.assert_array_equal(mask_of(path, classes=THREE), 2 * indices)


def test_a_gif_of_values_keeps_them_in_every_file(tmp_path):
    for choice in ((0, 1, 2), (0, 2), (2,), (1, 2), (0,)):
        label = values_of(*choice)
        Image.fromarray(label).save(tmp_path / "a.gif")
        np.testing.assert_array_equal(mask_of(tmp_path / "a.gif", classes=THREE), label)


@pytest.mark.parametrize("choice", [(0, 255), (255,), (0,)])
def test_black_and_white_as_classes_claim_them(tmp_path, choice):
    label = values_of(*choice)
    Image.fromarray(label).save(tmp_path / "a.gif")
    greys = [{"name": "a", "values": [0]}, {"name": "b", "values": [255]}]
    np.testing.assert_array_equal(mask_of(tmp_path / "a.gif", classes=greys), label == 255)
    np.testing.assert_array_equal(mask_of(tmp_path / "a.gif"), label == 255)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("palette", [[0, 255], [255, 0]])
def test_black_and_white_reversed(tmp_path, ending, palette):
    indices = values_of(0, 1)
    path = indexed(tmp_path / f"a.{ending}", indices, palette)
    np.testing.assert_array_equal(mask_of(path), np.array(palette)[indices] == 255)


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
def test_one_bit_is_black_or_white(tmp_path, photometric):
    stored = values_of(0, 1)
    path = write_raster(tmp_path / "a.tif", stored, nbits=1, photometric=photometric)
    white = stored == 1 if photometric == "MINISBLACK" else stored == 0
    np.testing.assert_array_equal(mask_of(path), white)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_mean_ranks(tmp_path, bits):
    stored = RNG.integers(0, min(3, 1 << bits), (6, 8)).astype(np.uint8)
    greys = [round(255 * i / ((1 << bits) - 1)) for i in range(1 << bits)]
    picture = Image.fromarray(stored, "P")
    picture.putpalette([v for grey in greys for v in (grey,) * 3])
    picture.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", classes=THREE), stored)


def test_a_palette_that_says_nothing_new(tmp_path):
    label = values_of(0, 1, 2)
    path = indexed(tmp_path / "a.png", label, list(range(256)))
    np.testing.assert_array_equal(mask_of(path, classes=THREE), label)
    path = indexed(tmp_path / "b.png", label, [0])  # all black
    np.testing.assert_array_equal(mask_of(path, classes=THREE), label)


def test_greys_that_no_class_claims_are_only_for_the_eye(tmp_path):
    label = values_of(0, 1, 2)
    path = indexed(tmp_path / "a.png", label, [0, 50, 100])
    np.testing.assert_array_equal(mask_of(path, classes=THREE), label)
    greys = [{"name": n, "values": [v]} for n, v in (("a", 0), ("b", 50), ("c", 100))]
    np.testing.assert_array_equal(mask_of(path, classes=greys), label)


def test_the_recipe_may_insist_on_indices(tmp_path):
    indices = values_of(0, 1)
    path = indexed(tmp_path / "a.png", indices, [0, 2])
    np.testing.assert_array_equal(mask_of(path, classes=THREE, label={"palette": "index"}), indices)


# ------------------------------------------------------------------------------------- colours that differ by file


def coloured_scenes(folder, palettes):
    for number, palette in enumerate(palettes):
        east = (10.0, 0.0, 500_000.0 + 10_000 * number, 0.0, -10.0, 5_000_000.0)
        make_scene(folder, f"s{number}", transform=east, label_ending=None, seed=number, height=32, width=32)
        (folder / "masks").mkdir(exist_ok=True)
        indexed(folder / "masks" / f"s{number}.png", RNG.integers(0, 2, (32, 32)).astype(np.uint8), palette)


def test_colours_that_differ_for_an_index_are_an_error(tmp_path):
    coloured_scenes(tmp_path, [[(0, 0, 0), (255, 0, 0)], [(0, 0, 0), (255, 0, 0)], [(255, 0, 0), (0, 0, 0)]])
    with pytest.raises(LabelError) as caught:
        index.index(recipe_for(tmp_path))
    assert "index 0 is #000000 in scene s0, #ff0000 in scene s2" in caught.value.message
    assert '["#rrggbb"]' in caught.value.hint and "data.label.palette: index" in caught.value.hint
    by_index = index.index(recipe_for(tmp_path, **{"data.label.palette": "index"}))
    classes = [{"name": "ground", "values": ["#000000"]}, {"name": "disc", "values": ["#ff0000"]}]
    by_color = index.index(recipe_for(tmp_path, **{"data.classes": classes}))
    (ground, disc), (black, red) = by_index.scenes[2].class_counts, by_color.scenes[2].class_counts
    assert (ground, disc) == (red, black)


def test_a_scene_that_is_added_is_compared_with_those_that_were_there(tmp_path):
    coloured_scenes(tmp_path, [[(0, 0, 0), (255, 0, 0)]] * 3)
    index.index(recipe_for(tmp_path))
    coloured_scenes(tmp_path / "more", [[(255, 0, 0), (0, 0, 0)]])
    for kind, ending in (("images", "tif"), ("masks", "png")):
        (tmp_path / "more" / kind / f"s0.{ending}").rename(tmp_path / kind / f"s9.{ending}")
    with pytest.raises(LabelError, match="index 0 is #000000 in scene s0, #ff0000 in scene s9"):
        index.index(recipe_for(tmp_path))


def test_entries_that_do_not_occur_may_differ(tmp_path):
    coloured_scenes(tmp_path, [[(0, 0, 0), (255, 0, 0), (1, 2, 3)], [(0, 0, 0), (255, 0, 0), (3, 2, 1)]])
    assert len(index.index(recipe_for(tmp_path)).scenes) == 2


def test_a_grey_that_no_class_claims_is_explained(tmp_path):
    path = indexed(tmp_path / "a.png", values_of(0, 1, 2), [0, 2, 77])
    with pytest.raises(LabelError, match=r"77 \([0-9]+ pixels\).*a palette of greys") as caught:
        mask_of(path, classes=THREE)
    assert "data.label.palette: index" in caught.value.hint


def test_eight_bits_whose_0_is_white_mean_what_is_stored(tmp_path):
    label = values_of(0, 1, 2)
    path = write_raster(tmp_path / "a.tif", label, photometric="MINISWHITE")
    np.testing.assert_array_equal(mask_of(path, classes=THREE), label)
