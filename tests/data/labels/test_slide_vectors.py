"""Shapes on slides are drawn in pixels of the finest level, whatever level `data.reading.mpp` takes."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile

from pipeline.data.labels import masks, slide_levels, summary
from pipeline.data.rasters import raster_io
from pipeline.data.scenes import index
from pipeline.data.scenes.scene import SceneFiles
from tests.data.labels.places import geojson, scene, setup, whole
from tests.factory import recipe_for, write_raster

BOX = shapely.box(20, 32, 120, 104)
"""In pixels of the finest level: 100 × 72."""


def slide(path, size=(480, 640), factors=(4,), mpp=0.25):
    """An OME-TIFF whose levels are every so manieth pixel of the finest, rounded down."""
    pixels = np.random.default_rng(0).integers(50, 200, (*size, 3)).astype(np.uint8)
    meta = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp}
    tiles = {"tile": (64, 64), "photometric": "rgb"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=len(factors), metadata={**meta, "PhysicalSizeYUnit": "µm"}, **tiles)
        for f in factors:
            part = pixels[f // 2 :: f, f // 2 :: f][: size[0] // f, : size[1] // f]
            file.write(np.ascontiguousarray(part), subfiletype=1, **tiles)
    return path


def mask_at(image, label, mpp, settings=None, **fields):
    classes, data = setup(reading={"mpp": mpp}, **settings or {})
    grid = raster_io.describe(str(image), reading=data.reading).grid
    size = fields.pop("size", (grid.height, grid.width))
    place = replace(scene(label, *size, crs=None, transform=grid.transform, **fields), image=str(image))
    return masks.mask(place, whole(place), classes, data)


def box_mask(height, width, left, top, right, bottom):
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_a_label_follows_the_level(tmp_path):
    image, label = slide(tmp_path / "s.ome.tif"), geojson(tmp_path / "s.geojson", [BOX])
    for mpp in (None, 0.25):
        np.testing.assert_array_equal(mask_at(image, label, mpp), box_mask(480, 640, 20, 32, 120, 104))
    np.testing.assert_array_equal(mask_at(image, label, 1.0), box_mask(120, 160, 5, 8, 30, 26))


def test_a_part_of_a_slide(tmp_path):
    image, label = slide(tmp_path / "s.ome.tif"), geojson(tmp_path / "s.geojson", [BOX])
    part = mask_at(image, label, 1.0, size=(50, 60), origin=(4, 3))
    np.testing.assert_array_equal(part, box_mask(120, 160, 5, 8, 30, 26)[4:54, 3:63])


def test_a_buffer_is_in_pixels_of_the_finest_level_too(tmp_path):
    image = slide(tmp_path / "s.ome.tif")
    label = geojson(tmp_path / "s.geojson", [shapely.LineString([(0, 200), (640, 200)])])
    settings = {"label": {"buffer": 16}}
    assert mask_at(image, label, None, settings=settings)[:, 320].sum() == 32
    assert mask_at(image, label, 1.0, settings=settings)[:, 80].sum() == 8


@pytest.mark.parametrize("what", ["aoi", "footprint"])
def test_areas_follow_the_level(tmp_path, what):
    image = slide(tmp_path / "s.ome.tif")
    label = geojson(tmp_path / "s.geojson", [shapely.box(0, 0, 640, 480)])
    area = geojson(tmp_path / "area.geojson", [BOX])
    for mpp, pixels in ((0.25, 100 * 72), (1.0, 25 * 18)):
        classes, data = setup(reading={"mpp": mpp})
        info = raster_io.describe(str(image), reading=data.reading)
        seen = summary.summarise(SceneFiles("a", str(image), str(label), **{what: str(area)}), info, classes, data)
        assert seen.class_counts == (0, pixels) and seen.problems == ()


def test_sizes_that_were_rounded_down_do_not_stretch_shapes(tmp_path):
    image = slide(tmp_path / "s.ome.tif", (483, 643))
    label = geojson(tmp_path / "s.geojson", [shapely.box(600, 440, 640, 480)])
    np.testing.assert_array_equal(mask_at(image, label, 1.0), box_mask(120, 160, 150, 110, 160, 120))


def test_scales():
    for fine, coarse, factor in ((640, 160, 4), (643, 160, 4), (641, 161, 4), (1001, 125, 8), (1000, 300, 1000 / 300)):
        assert slide_levels._ratio(fine, coarse) == pytest.approx(factor)


def test_index_counts_at_the_level_that_is_read(tmp_path):
    for name in ("a", "b", "c"):
        slide(tmp_path / "images" / f"{name}.tif")
        (tmp_path / "masks").mkdir(exist_ok=True)
        geojson(tmp_path / "masks" / f"{name}.geojson", [BOX])
    for mpp, pixels in ((None, 7200), (0.25, 7200), (1.0, 450)):
        manifest = index.index(recipe_for(tmp_path, **{"data.reading.mpp": mpp}))
        assert {s.class_counts[1] for s in manifest.scenes} == {pixels}


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("what", ["label", "aoi", "footprint"])
def test_masks_of_the_finest_level(tmp_path, ending, what):
    image = slide(tmp_path / "s.ome.tif", (483, 643))
    drawn = write_raster(tmp_path / f"mask{ending}", box_mask(483, 643, *map(int, BOX.bounds)))
    files = {"label": str(geojson(tmp_path / "s.geojson", [shapely.box(0, 0, 643, 483)])), what: str(drawn)}
    classes, data = setup(reading={"mpp": 1.0})
    info = raster_io.describe(str(image), reading=data.reading)
    seen = summary.summarise(SceneFiles("a", str(image), **{"label": None, **files}), info, classes, data)
    assert seen.problems == () and seen.class_counts[1] == 25 * 18
    footprint = summary.summarise_footprint(SceneFiles("a", str(image), **{"label": None, **files}), info, data)
    assert footprint.problems == ()


def test_a_mask_of_the_finest_level_takes_the_pixel_under_the_centre(tmp_path):
    image = slide(tmp_path / "s.ome.tif")
    values = np.random.default_rng(1).integers(0, 2, (480, 640)).astype(np.uint8)
    label = write_raster(tmp_path / "mask.png", values)
    np.testing.assert_array_equal(mask_at(image, label, 1.0), values[2::4, 2::4])
    part = mask_at(image, label, 1.0, size=(50, 60), origin=(4, 3))
    np.testing.assert_array_equal(part, values[2::4, 2::4][4:54, 3:63])
    np.testing.assert_array_equal(mask_at(image, label, 0.25), values)
