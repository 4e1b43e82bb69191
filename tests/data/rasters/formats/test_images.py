"""What GDAL reads besides GeoTIFF, against Pillow; grids of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster

ALL = Window(0, 0, 40, 60)


def rgb(seed: int = 0) -> np.ndarray:
    """Smooth colours [40,60,3]."""
    row, col = np.mgrid[:40, :60]
    return np.stack([row * 5, col * 4, (row + col) * 2 + seed], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "jpg", "webp", "tif", "ppm", "jp2"])
def test_pixels_are_those_that_pillow_reads(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    # Without subsampled colours, which decoders enlarge in different ways.
    options = {"webp": {"lossless": True}, "jp2": {"irreversible": False}, "jpg": {"subsampling": 0}}.get(ending, {})
    Image.fromarray(rgb()).save(path, **options)
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    info = raster_io.describe(str(path))
    assert (info.grid.height, info.grid.width, info.dtype, info.slices) == (40, 60, "uint8", 1)
    assert info.bands == ("band_1", "band_2", "band_3") and info.levels[0] == (40, 60) and info.format
    pixels, valid = raster_io.read(str(path), ALL)
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=1 if ending == "jpg" else 0)
    assert valid.all() and raster_io.probe(str(path))


def test_the_name_says_nothing(tmp_path):
    for name, kind in (("a.tif", "png"), ("b.png", "tiff"), ("c", "jpeg"), ("d.nii", "bmp"), ("e.npy", "gif")):
        Image.fromarray(rgb()).save(tmp_path / name, format=kind)
        pixels, _ = raster_io.read(str(tmp_path / name), ALL)
        np.testing.assert_allclose(pixels[0], rgb()[..., 0], atol=40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGBA", "P"])
def test_png_of_any_kind(tmp_path, mode):
    path = str(tmp_path / "a.png")
    grey = rgb()[..., 0]
    image = {
        "1": lambda: Image.fromarray(grey > 90),
        "L": lambda: Image.fromarray(grey),
        "LA": lambda: Image.merge("LA", [Image.fromarray(grey), Image.fromarray((grey > 90).astype(np.uint8) * 255)]),
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 200),
        "RGBA": lambda: Image.fromarray(np.dstack([rgb(), (grey > 90).astype(np.uint8) * 255])),
        "P": lambda: Image.fromarray(rgb()).quantize(16),
    }[mode]()
    image.save(path)
    pixels, valid = raster_io.read(path, ALL)
    if mode == "1":
        assert pixels.shape[0] == 1
        np.testing.assert_array_equal(pixels[0] > 0, grey > 90)
    elif mode == "I;16":
        np.testing.assert_array_equal(pixels[0], grey.astype(np.uint16) * 200)
        assert pixels.dtype == np.uint16
    elif mode in ("L", "LA"):
        np.testing.assert_array_equal(pixels[0], grey)
    else:
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1))
    np.testing.assert_array_equal(valid, grey > 90 if mode in ("LA", "RGBA") else np.ones((40, 60), bool))


def test_a_palette_is_colours_in_an_image_and_numbers_in_a_label(tmp_path):
    path = str(tmp_path / "a.png")
    image = Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60) % 3, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 0, 5, 6, 7])
    image.save(path)
    info = raster_io.describe(path)
    assert len(info.bands) == 3 and "palette" in info.format
    pixels, valid = raster_io.read(path, ALL)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    label, _ = raster_io.read_label(path, ALL)
    np.testing.assert_array_equal(label, np.asarray(image))
    assert valid.all() and raster_io.describe(path, label=True).bands == ("band_1",)


def test_transparent_colours_of_a_palette_are_invalid(tmp_path):
    path = str(tmp_path / "a.png")
    image = Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60) % 3, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 0, 5, 6, 7])
    image.save(path, transparency=bytes([255, 0, 255]))
    np.testing.assert_array_equal(raster_io.read(path, ALL)[1], np.asarray(image) != 1)


def test_bands_are_read_by_position_with_their_own_validity(tmp_path):
    from pipeline.data.rasters.formats.open import open_reader

    pixels = make_pixels(3, 8, 8, "int16")
    pixels[1, 2, 3] = -9999
    path = str(write_raster(tmp_path / "a.tif", pixels, nodata=-9999))
    reader = open_reader(path, label=False, reading=Reading())
    values, valid = reader.read(Window(0, 0, 8, 8), [2, 0])
    np.testing.assert_array_equal(values, pixels[[2, 0]])
    assert valid.all() and not reader.read(Window(0, 0, 8, 8), [1])[1][2, 3]
    reader.close()


# ------------------------------------------------------------------------------------------------ grids


def test_turned_and_south_up_grids_are_described_as_they_are(tmp_path):
    for name, transform in {
        "turned": (8.0, 2.0, 500_000.0, 2.0, -8.0, 5e6),
        "south-up": (10.0, 0.0, 500_000.0, 0.0, 10.0, 4e6),
    }.items():
        path = write_raster(tmp_path / f"{name}.tif", np.zeros((5, 6), np.uint8), crs=UTM, transform=transform)
        grid = raster_io.describe(str(path)).grid
        assert grid.transform == pytest.approx(transform) and grid.crs is not None


def gcp_file(path, bend: float):
    """A raster placed by five control points; `bend` pixels off an affine transform."""
    corners = [(0, 0), (0, 60), (40, 0), (40, 60), (20, 30)]
    points = [GroundControlPoint(r, c, 500_000 + 10 * (c + bend * (r == 20)), 5e6 - 10 * r, 0) for r, c in corners]
    with rasterio.open(path, "w", driver="GTiff", width=60, height=40, count=1, dtype="uint8") as dataset:
        dataset.gcps = (points, rasterio.CRS.from_string(UTM))
        dataset.write(np.zeros((1, 40, 60), np.uint8))


def test_control_points_give_a_transform_if_they_fit_one(tmp_path):
    gcp_file(tmp_path / "a.tif", 0)
    info = raster_io.describe(str(tmp_path / "a.tif"))
    assert info.grid.transform == pytest.approx(TRANSFORM) and "placed by 5 control points" in info.format
    assert "32633" in info.grid.crs
    gcp_file(tmp_path / "b.tif", 4)
    other = raster_io.describe(str(tmp_path / "b.tif"))
    assert not other.georeferenced and "fit no affine transform" in other.format
    assert raster_io.read(str(tmp_path / "b.tif"), ALL)[1].all()


# ------------------------------------------------------------------------------------------------ limits


def test_the_recipe_may_lower_the_limit_of_pixels(tmp_path):
    path = str(write_raster(tmp_path / "a.tif", np.zeros((40, 60), np.uint8)))
    assert raster_io.describe(path, reading=Reading(max_pixels=2400)).grid.width == 60
    with pytest.raises(SceneError, match="header claims 60 × 40 pixels") as caught:
        raster_io.read(path, ALL, reading=Reading(max_pixels=2399))
    assert "data.reading.max_pixels" in caught.value.hint


def test_pages_that_are_not_read_are_said(tmp_path):
    images = [Image.fromarray(rgb(i)) for i in range(3)]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    assert "page 1 of 3" in raster_io.describe(str(tmp_path / "a.tif")).format


@pytest.mark.parametrize("ending", [".ovr", ".msk"])
def test_a_vrt_beside_a_file_is_not_followed(tmp_path, ending):
    path = write_raster(tmp_path / "a.tif", np.zeros((40, 60), np.uint8))
    (tmp_path / f"a.tif{ending}").write_text('<VRTDataset rasterXSize="30" rasterYSize="20"></VRTDataset>')
    with pytest.raises(SceneError, match=rf"its sidecar a\.tif{ending} is no TIFF"):
        raster_io.describe(str(path))


def test_overviews_that_a_header_names_elsewhere_are_not_followed(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((40, 60), np.uint8))
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/http://127.0.0.1:9/x.tif</MDI>'
        "</Metadata></PAMDataset>"
    )
    with pytest.raises(SceneError, match="names another file as its overviews"):
        raster_io.describe(str(path))
