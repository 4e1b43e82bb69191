"""CRS are compared by what their two horizontal coordinates mean."""

import re

import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely

from pipeline.data.labels import masks
from pipeline.data.rasters import gdal_env, raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import index
from tests.data.labels.places import geojson, in_utm, scene, setup, vector, whole
from tests.factory import TRANSFORM, UTM, make_pixels, make_scene, recipe_for, write_raster

HEIGHT = "EPSG:32633+5773"
GEOID = "+proj=utm +zone=33 +datum=WGS84 +geoidgrids=nowhere.gtx +vunits=m +no_defs"


def wkt(crs, version="WKT1_GDAL"):
    return rasterio.CRS.from_user_input(crs).to_wkt(version=version)


WITHOUT_CODES = re.sub(r',\s*AUTHORITY\["[^"]*","[^"]*"\]', "", wkt(UTM))


@pytest.mark.parametrize(
    "other",
    [
        HEIGHT,
        wkt(HEIGHT),
        wkt(HEIGHT, "WKT2_2019"),
        wkt(HEIGHT, "WKT2_2015"),
        GEOID,
        wkt(GEOID),
        wkt(UTM, "WKT2_2019"),
        wkt(UTM, "WKT1_ESRI"),
        WITHOUT_CODES,
        WITHOUT_CODES.replace("WGS 84 / UTM zone 33N", "mine"),
        "+proj=utm +zone=33 +datum=WGS84 +units=m",
    ],
)
def test_the_same_place(other):
    assert gdal_env.same_crs(UTM, other) and gdal_env.same_crs(other, UTM)


@pytest.mark.parametrize("other", ["EPSG:32634+5773", "EPSG:25833", "EPSG:32733", "EPSG:4326", "EPSG:4979"])
def test_another_place(other):
    assert not gdal_env.same_crs(UTM, other)
    assert not gdal_env.same_crs(HEIGHT, other)


@pytest.mark.parametrize("other", ["OGC:CRS84", "EPSG:4979", "EPSG:4326+5773", wkt("EPSG:4979", "WKT2_2019")])
def test_degrees_with_heights_or_longitude_first(other):
    assert gdal_env.same_crs("EPSG:4326", other)
    assert not gdal_env.same_crs("EPSG:4258", other)


def test_another_datum_is_another_crs():
    bessel = "+proj=utm +zone=33 +ellps=bessel"
    assert gdal_env.same_crs(f"{bessel} +units=m", f"{bessel} +units=m +no_defs")
    assert not gdal_env.same_crs(f"{bessel} +units=m", UTM)
    assert not gdal_env.same_crs(f"{bessel} +towgs84=1,2,3", f"{bessel} +towgs84=400,2,3")


@pytest.mark.parametrize("crs", [HEIGHT, GEOID])
def test_image_and_label_are_on_one_grid(tmp_path, crs):
    label = (np.random.default_rng(0).random((64, 64)) < 0.3).astype(np.uint8)
    for number in range(2):
        where = (*TRANSFORM[:2], TRANSFORM[2] + 10_000 * number, *TRANSFORM[3:])
        make_scene(tmp_path, f"s{number}", crs=crs, transform=where, label_ending=None, seed=number)
        write_raster(tmp_path / "masks" / f"s{number}.tif", label, crs=UTM, transform=where)
    manifest = index.index(recipe_for(tmp_path))
    assert [s.class_counts[1] for s in manifest.scenes] == [int(label.sum())] * 2


def test_bands_in_several_files(tmp_path):
    pixels = make_pixels(2, 16, 16, "uint8")
    uris = [
        str(write_raster(tmp_path / f"{n}.tif", band, crs=crs, transform=TRANSFORM))
        for n, (band, crs) in enumerate(zip(pixels, (UTM, HEIGHT), strict=True))
    ]
    found, valid = raster_io.read("\n".join(uris), Window(0, 0, 16, 16))
    np.testing.assert_array_equal(found, pixels)
    assert valid.all()


@pytest.mark.parametrize("image_crs", [UTM, HEIGHT])
@pytest.mark.parametrize("label_crs", [UTM, HEIGHT, "EPSG:4326"])
def test_shapes(tmp_path, image_crs, label_crs):
    box = shapely.box(10, 20, 40, 50)
    if label_crs == "EPSG:4326":
        x, y = np.array(in_utm([box])[0].exterior.coords).T
        ring = np.column_stack(rasterio.warp.transform(UTM, label_crs, x, y))
        path = geojson(tmp_path / "a.geojson", [shapely.Polygon(ring)])
    else:
        path = vector(tmp_path / "a.gpkg", in_utm([box]), label_crs)
    classes, data = setup()
    place = scene(path, crs=image_crs)
    mask = masks.mask(place, whole(place), classes, data)
    assert mask[20:50, 10:40].all() and mask.sum() == 900
