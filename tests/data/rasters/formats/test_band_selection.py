"""Choosing bands by name or number, and alpha bands that are bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline import config
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import RecipeError, SceneError
from pipeline.recipe.data import Reading
from tests.factory import make_pixels, recipe_for, write_raster

ALL = Window(0, 0, 8, 8)
NAMES = ("B02", "B03", "B04", "B08")


def of(*bands: str | int) -> Reading:
    return config.validate(Reading, {"bands": list(bands)})


@pytest.mark.parametrize(
    ("wanted", "places", "called"),
    [
        (("B08", "B02"), [3, 0], ("B08", "B02")),
        ((4, 1), [3, 0], ("B08", "B02")),
        (("b03", 1), [1, 0], ("b03", "B02")),
        (NAMES, [0, 1, 2, 3], NAMES),
    ],
)
def test_bands_are_read_in_the_order_given(tmp_path: Path, wanted: tuple, places: list[int], called: tuple) -> None:
    pixels = make_pixels(4, 8, 8, "uint16")
    uri = str(write_raster(tmp_path / "a.tif", pixels, names=NAMES))
    assert raster_io.describe(uri, reading=of(*wanted)).bands == called
    np.testing.assert_array_equal(raster_io.read(uri, ALL, reading=of(*wanted))[0], pixels[places])
    half = raster_io.read(uri, ALL, reading=of(*wanted), shape=(4, 4))[0]
    np.testing.assert_array_equal(half, raster_io.read(uri, ALL, shape=(4, 4))[0][places])
    apart = "\n".join(
        str(write_raster(tmp_path / f"{n}.tif", p, names=[n])) for n, p in zip(NAMES, pixels, strict=True)
    )
    np.testing.assert_array_equal(raster_io.read(apart, ALL, reading=of(*wanted))[0], pixels[places])


def test_nodata_and_masks_of_other_bands_do_not_count(tmp_path: Path) -> None:
    pixels = make_pixels(3, 8, 8, "float32")
    pixels[0, 0] = -9999
    pixels[1, 1] = np.nan
    uri = str(write_raster(tmp_path / "a.tif", pixels, nodata=-9999))
    assert not raster_io.read(uri, ALL, reading=of(1))[1][0].any()
    assert raster_io.read(uri, ALL, reading=of(3))[1].all()
    assert not raster_io.read(uri, ALL, reading=of(3, 2))[1][1].any()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("B05",), r"it has no band B05; it has 4: 1 B02, 2 B03, 3 B04, 4 B08"),
        ((5, "x"), r"it has no band 5, x; it has 4"),
        (("B02", 1), r"lists its band 1 \(B02\) twice"),
    ],
)
def test_bands_that_are_not_there(tmp_path: Path, wanted: tuple, said: str) -> None:
    uri = str(write_raster(tmp_path / "a.tif", make_pixels(4, 8, 8, "uint8"), names=NAMES))
    with pytest.raises(SceneError, match=said):
        raster_io.describe(uri, reading=of(*wanted))


def test_a_name_that_two_bands_have_without_regard_to_case(tmp_path: Path) -> None:
    uri = str(write_raster(tmp_path / "a.tif", make_pixels(2, 8, 8, "uint8"), names=("red", "RED")))
    assert raster_io.describe(uri, reading=of("red")).bands == ("red",)
    with pytest.raises(SceneError, match="several of its bands are called Red"):
        raster_io.describe(uri, reading=of("Red"))


def test_colours_of_a_palette_are_bands(tmp_path: Path) -> None:
    colors = {0: (10, 20, 30), 1: (40, 50, 60)}
    uri = str(write_raster(tmp_path / "a.png", np.eye(8, dtype=np.uint8), colors=colors))
    pixels, _ = raster_io.read(uri, ALL, reading=of(3, 1))
    np.testing.assert_array_equal(pixels[:, 0, 0], [60, 40])


@pytest.mark.parametrize("value", [[], ["a", "a"], [0], [-1]])
def test_recipes_that_choose_nothing(value: list) -> None:
    with pytest.raises(RecipeError):
        config.validate(Reading, {"bands": value})


def test_bands_in_files_of_their_own_are_listed_instead(tmp_path: Path) -> None:
    apart = {"data.images": None, "data.bands_apart": {"red": "{id}_r.tif"}, "data.reading.bands": ["red"]}
    with pytest.raises(RecipeError, match="of bands_apart list the wanted ones"):
        recipe_for(tmp_path, **apart)


def test_the_label_keeps_its_bands(tmp_path: Path) -> None:
    from pipeline.data.labels.raster_labels import _plain

    plain = _plain(Reading(bands=("B08",), alpha="band"))
    assert (plain.bands, plain.alpha) == (None, "mask")


# --- alpha


def rgbn(dtype: str) -> np.ndarray:
    pixels = make_pixels(4, 8, 8, dtype)
    pixels[3, :2] = 0
    return pixels


@pytest.mark.parametrize("ending", [".tif", ".png", ".jp2"])
def test_an_alpha_band_that_is_a_band(tmp_path: Path, ending: str) -> None:
    pixels, uri = rgbn("uint8"), str(tmp_path / f"a{ending}")
    if ending == ".tif":
        write_raster(Path(uri), pixels, alpha=True)
    else:
        lossless = {"irreversible": False} if ending == ".jp2" else {}
        Image.fromarray(pixels.transpose(1, 2, 0)).save(uri, **lossless)
    assert len(raster_io.describe(uri).bands) == 3 and raster_io.describe(uri).alpha == (3,)
    assert not raster_io.read(uri, ALL)[1][:2].any()
    band = Reading(alpha="band")
    assert len(raster_io.describe(uri, reading=band).bands) == 4
    found, valid = raster_io.read(uri, ALL, reading=band)
    np.testing.assert_array_equal(found, pixels)
    assert valid.all()


def test_grey_with_alpha(tmp_path: Path) -> None:
    Image.fromarray(rgbn("uint8")[2:].transpose(1, 2, 0)).save(tmp_path / "a.png")
    found, valid = raster_io.read(str(tmp_path / "a.png"), ALL, reading=Reading(alpha="band"))
    assert len(found) == 2 and valid.all()


def test_alpha_as_a_band_in_overviews(tmp_path: Path) -> None:
    pixels = np.full((4, 64, 64), 9, np.uint8)
    pixels[3, :32] = 0
    uri = str(write_raster(tmp_path / "a.tif", pixels, alpha=True, tiled=True, blockxsize=16, blockysize=16))
    with rasterio.open(uri, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    found, valid = raster_io.read(uri, Window(0, 0, 64, 64), reading=Reading(alpha="band"), shape=(16, 16))
    assert valid.all() and (found[3, :8] == 0).all() and (found[3, 8:] == 9).all()
