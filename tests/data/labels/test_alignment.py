import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject

from pipeline.data.labels import masks
from pipeline.data.labels.alignment import positions, read_aligned
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.grids import Grid, project
from pipeline.data.rasters.windows import Window
from tests.data.labels.places import scene, setup, whole
from tests.factory import TRANSFORM, UTM, write_raster

RNG = np.random.default_rng(0)
SIX = [{"name": str(i)} for i in range(6)]


def label_of(height, width):
    """Patches of a few pixels, so that neighbours tell how far off something is."""
    return RNG.integers(0, 6, (-(-height // 3), -(-width // 3))).repeat(3, 0).repeat(3, 1)[:height, :width].astype("u1")


def aligned(path, place, window=None):
    classes, data = setup(classes=SIX, align="image")
    return masks.mask(place, window or whole(place), classes, data)


def at(transform, crs=UTM, size=(64, 80)):
    return {"height": size[0], "width": size[1], "crs": crs, "transform": transform}


@pytest.mark.parametrize(("down", "right"), [(3, 5), (-3, 5), (0, -70), (100, 0)])
def test_a_shift_by_whole_pixels_is_exact(tmp_path, down, right):
    label = label_of(64, 80)
    x, y = TRANSFORM[2] + 10 * right, TRANSFORM[5] - 10 * down
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=(10, 0, x, 0, -10, y))
    expected = np.full((300, 300), IGNORE)
    expected[110 + down : 174 + down, 110 + right : 190 + right] = label
    np.testing.assert_array_equal(aligned(path, scene(path)), expected[110:174, 110:190])


@pytest.mark.parametrize("times", [2, 3, 4])
def test_coarser_labels_are_repeated(tmp_path, times):
    label = label_of(20, 25)
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=(10 * times, 0, 5e5, 0, -10 * times, 5e6))
    mask = aligned(path, scene(path, 20 * times, 25 * times))
    np.testing.assert_array_equal(mask, label.repeat(times, 0).repeat(times, 1))


@pytest.mark.parametrize("times", [2, 3, 4])
def test_of_finer_labels_the_pixel_under_the_centre_counts(tmp_path, times):
    label = label_of(20 * times, 25 * times)
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=(10 / times, 0, 5e5, 0, -10 / times, 5e6))
    np.testing.assert_array_equal(aligned(path, scene(path, 20, 25)), label[times // 2 :: times, times // 2 :: times])


def test_rows_that_begin_in_the_south(tmp_path):
    label = label_of(64, 80)
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=(10, 0, 5e5, 0, 10, 5e6 - 640))
    np.testing.assert_array_equal(aligned(path, scene(path)), label[::-1])


def test_half_a_pixel_is_the_pixel_below_and_right(tmp_path):
    label = label_of(64, 80)
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=(10, 0, 5e5 - 5, 0, -10, 5e6 + 5))
    expected = np.full((64, 80), IGNORE)
    expected[:63, :79] = label[1:, 1:]
    np.testing.assert_array_equal(aligned(path, scene(path)), expected)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, (7.3, 2.1, 499_950.0, 2.2, -7.9, 5_000_020.0)),  # rotated
        ("EPSG:32634", (9.0, 0.0, 27_300.0, 0.0, -9.0, 5_017_500.0)),  # the neighbouring zone
        ("EPSG:3857", (13.0, 0.0, 1_669_600.0, 0.0, -13.0, 5_646_800.0)),
        ("EPSG:4326", (0.0001, 0.0, 14.998, 0.0, -0.0001, 45.1545)),
    ],
)
def test_other_grids_as_gdal_brings_them(tmp_path, crs, transform):
    label = label_of(200, 240)
    path = write_raster(tmp_path / "a.tif", label, crs=crs, transform=transform)
    expected = np.full((64, 80), 77, np.uint8)
    reproject(
        label, expected, src_transform=rasterio.Affine(*transform), src_crs=crs,
        dst_transform=rasterio.Affine(*TRANSFORM), dst_crs=UTM,
        resampling=Resampling.nearest, init_dest_nodata=False, tolerance=0,
    )  # fmt: skip
    expected[expected == 77] = IGNORE
    assert (expected != IGNORE).mean() > 0.5
    found = aligned(path, scene(path))
    assert (found != expected).mean() < 0.001


@given(st.tuples(st.integers(-20, 60), st.integers(-20, 60), st.integers(1, 60), st.integers(1, 60)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_window_is_a_cut_of_the_whole(tmp_path, corners):
    path = tmp_path / "a.tif"
    if not path.exists():
        write_raster(path, label_of(200, 240), crs="EPSG:4326", transform=(0.0001, 0.0, 14.998, 0.0, -0.0001, 45.1545))
    place, window = scene(path), Window(*corners)
    padded = np.full((300, 300), IGNORE)
    padded[100:164, 100:180] = aligned(path, place)
    cut = padded[window.row + 100 :, window.col + 100 :][: window.height, : window.width]
    np.testing.assert_array_equal(aligned(path, place, window), cut)


@pytest.mark.parametrize(("ours", "theirs"), [(170.0, -190.0), (190.0, -180.0), (-180.0, 0.0), (0.0, -180.0)])
def test_longitudes_of_both_kinds_meet(tmp_path, ours, theirs):
    world = label_of(90, 360)  # a degree per pixel, from `theirs` on
    path = write_raster(tmp_path / "a.tif", world, crs="EPSG:4326", transform=(1.0, 0, theirs, 0, -1.0, 45.0))
    place = scene(path, 90, 120, crs="EPSG:4326", transform=(1.0, 0, ours, 0, -1.0, 45.0))
    columns = (np.arange(120) + int(ours - theirs)) % 360
    np.testing.assert_array_equal(aligned(path, place), world[:, columns])


def test_a_projected_scene_across_the_date_line(tmp_path):
    world = np.tile(np.repeat([0, 1], 180).astype("u1"), (180, 1))  # west 0, east 1
    path = write_raster(tmp_path / "a.tif", world, crs="EPSG:4326", transform=(1.0, 0, -180.0, 0, -1.0, 90.0))
    place = scene(path, 64, 80, crs="EPSG:32601", transform=(10_000.0, 0, -200_000.0, 0, -10_000.0, 1_100_000.0))
    mask = aligned(path, place)
    # 180 degrees is 330 km west of the zone's middle at 10 degrees north: column 37.
    assert (mask[10, :34] == 1).all() and (mask[10, 40:] == 0).all()


def test_a_scene_that_shows_the_sky_beside_the_earth(tmp_path):
    world = label_of(180, 360)
    path = write_raster(tmp_path / "a.tif", world, crs="EPSG:4326", transform=(1.0, 0, -180.0, 0, -1.0, 90.0))
    crs = "+proj=geos +h=35785831 +lon_0=0 +sweep=y +datum=WGS84"
    place = scene(path, 112, 112, crs=crs, transform=(1e5, 0, -5.6e6, 0, -1e5, 5.6e6))
    row, col = np.mgrid[:112, :112]
    lon, lat = project((-5.6e6 + 1e5 * (col + 0.5)).ravel(), (5.6e6 - 1e5 * (row + 0.5)).ravel(), crs, "EPSG:4326")
    earth = np.isfinite(lon)
    expected = np.full(112 * 112, IGNORE)
    expected[earth] = world[np.floor(90 - lat[earth]).astype(int), np.floor(lon[earth] + 180).astype(int)]
    assert 0.5 < earth.mean() < 0.8
    assert (aligned(path, place).ravel() != expected).mean() < 0.001


def test_a_label_elsewhere_annotates_nothing(tmp_path):
    path = write_raster(tmp_path / "a.tif", label_of(64, 80), crs=UTM, transform=(10, 0, 9e5, 0, -10, 6e6))
    assert (aligned(path, scene(path)) == IGNORE).all()
    path = write_raster(tmp_path / "b.tif", label_of(64, 80), crs="EPSG:4326", transform=(0.001, 0, -60, 0, -0.001, 9))
    assert (aligned(path, scene(path)) == IGNORE).all()


def test_nodata_stays_where_it_is(tmp_path):
    label = label_of(20, 25)
    label[label == 5] = 250
    transform = (20, 0, 5e5, 0, -20, 5e6)
    path = write_raster(tmp_path / "a.tif", label, crs=UTM, transform=transform, nodata=250)
    expected = np.where(label == 250, IGNORE, label).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(aligned(path, scene(path, 40, 50)), expected)


def test_much_finer_labels_are_read_in_pieces():
    height, width = 60, 70
    ours, theirs = Grid(height, width, UTM, TRANSFORM), Grid(6000, 7000, UTM, (0.1, 0, 5e5, 0, -0.1, 5e6))
    label = (np.arange(6000)[:, None] // 100 * 7 + np.arange(7000) // 100).astype(np.int32)
    largest = 0

    def read(window):
        nonlocal largest
        largest = max(largest, window.height * window.width)
        cut = label[window.row : window.row + window.height, window.col : window.col + window.width]
        return cut, np.ones(cut.shape, bool)

    values, valid = read_aligned(read, ours, theirs, Window(0, 0, height, width))
    np.testing.assert_array_equal(values, np.arange(height)[:, None] * 7 + np.arange(width))
    assert valid.all() and largest <= 1 << 22


def test_interpolated_positions_are_those_of_the_projection():
    ours = Grid(3000, 3000, UTM, (10.0, 0.0, 300_000.0, 0.0, -10.0, 7_000_000.0))
    theirs = Grid(30_000, 60_000, "EPSG:4326", (0.0001, 0.0, 10.0, 0.0, -0.0001, 64.0))
    window = Window(1234, 777, 100, 120)
    rows, cols = positions(ours, theirs, window)
    x = 300_000 + 10 * (np.arange(777, 897) + 0.5)
    y = 7_000_000 - 10 * (np.arange(1234, 1334) + 0.5)
    lon, lat = rasterio.warp.transform(UTM, "EPSG:4326", np.tile(x, 100), np.repeat(y, 120))
    np.testing.assert_allclose(cols.ravel(), (np.array(lon) - 10.0) / 0.0001, atol=0.03)
    np.testing.assert_allclose(rows.ravel(), (64.0 - np.array(lat)) / 0.0001, atol=0.03)
