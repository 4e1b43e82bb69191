import math
import os

import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from pipeline import store
from pipeline.data.labels import masks, vectors
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.grids import project
from pipeline.data.rasters.windows import Window
from pipeline.errors import LabelError
from tests.data.labels.places import geojson, in_utm, scene, setup, vector, whole
from tests.factory import UTM

SQUARE = shapely.box(10, 5, 30, 25)
SPECKS = [shapely.Point(x, y).buffer(6.3, quad_segs=3) for x, y in ((8.1, 9.7), (41.3, 30.9), (77.2, 60.1), (40, 63))]


def burned(shapes, height=64, width=80, transform=None, **options):
    """What GDAL makes of a whole scene at once."""
    transform = rasterio.Affine(*transform) if transform is not None else rasterio.Affine.identity()
    return rasterize([(s, 1) for s in shapes], (height, width), transform=transform, dtype="uint8", **options)


def mask_of(path, **options):
    classes, data = setup(**options)
    place = scene(path)
    return masks.mask(place, whole(place), classes, data)


# ------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".fgb", ".shp"])
def test_every_format_gives_the_same_mask(tmp_path, ending):
    path = vector(tmp_path / f"a{ending}", in_utm(SPECKS), UTM)
    np.testing.assert_array_equal(mask_of(path), burned(SPECKS))


@pytest.mark.filterwarnings("ignore:.*non conformant file extension")
@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".fgb"])
def test_the_format_is_known_by_content(tmp_path, ending):
    path = vector(tmp_path / f"a{ending}", in_utm(SPECKS), UTM).rename(tmp_path / "label.dat")
    np.testing.assert_array_equal(mask_of(path), burned(SPECKS))


def test_a_program_for_gdal_is_not_run(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read /etc/passwd"}')
    with pytest.raises(LabelError, match="neither vector nor raster"):
        mask_of(path)


@pytest.mark.parametrize("content", [b'{"type": "FeatureCollection", "fea', b"{}", b"SQLite format 3\0" + b"x" * 500])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(LabelError, match=r"a\.geojson") as caught:
        mask_of(tmp_path / "a.geojson")
    assert "damaged" in caught.value.hint or "layers" in caught.value.message


def test_missing_files_and_several_layers_are_named(tmp_path):
    with pytest.raises(LabelError, match="no such file"):
        mask_of(tmp_path / "a.geojson")
    path = vector(tmp_path / "a.gpkg", in_utm(SPECKS), UTM)
    wkb = shapely.to_wkb(np.array(in_utm(SPECKS), object))
    vectors.pyogrio.raw.write(path, wkb, [], [], geometry_type="Polygon", crs=UTM, layer="roads", append=False)
    with pytest.raises(LabelError, match=r"2 layers with shapes \(a, roads\)"):
        mask_of(path)


@pytest.mark.parametrize("ending", [".gpkg", ".fgb"])
@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_of_a_large_file_only_what_is_near_is_read(tmp_path, monkeypatch, ending, crs):
    monkeypatch.setattr(vectors, "_LARGE_BYTES", 0)
    far = [shapely.box(x, 10, x + 500, 20) for x in range(1000, 3000, 10)]
    shapes = in_utm([*far[:100], *SPECKS, *far[100:], shapely.box(-50, 30, 10, 34)])
    shapes = shapes if crs == UTM else to_degrees(shapes)
    kinds = ["far"] * 100 + ["b", "a", "a", "b"] + ["far"] * 100 + ["a"]
    path = vector(tmp_path / f"a{ending}", shapes, crs, kind=kinds)
    classes, data = setup(label={"attribute": "kind"}, classes=[{"name": n} for n in ("ground", "a", "b")])
    found = masks.shapes_of(scene(path), classes, data)
    assert found.num_shapes == 5
    values = zip([*SPECKS, shapely.box(-50, 30, 10, 34)], (2, 1, 1, 2, 1), strict=True)
    expected = rasterize(list(values), (64, 80), dtype="uint8")
    assert (masks.mask(scene(path), whole(scene(path)), classes, data) != expected).sum() <= 1


def test_a_file_that_is_replaced_is_read_again(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([SQUARE]), UTM)
    assert mask_of(path)[10, 15] == 1
    geojson(path, in_utm([shapely.box(60, 40, 70, 50)]), UTM)
    os.utime(path, (1, 1))
    assert mask_of(path)[10, 15] == 0 and mask_of(path)[45, 65] == 1


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".fgb", ".shp"])
def test_files_in_a_bucket(tmp_path, s3_server, ending):
    path = vector(tmp_path / f"a{ending}", in_utm(SPECKS), UTM)
    folder = s3_server.uri("labels")
    for file in tmp_path.iterdir():
        store.upload_file(file, store.join(folder, file.name))
    np.testing.assert_array_equal(mask_of(store.join(folder, path.name)), burned(SPECKS))
    with pytest.raises(LabelError, match="no such file"):
        mask_of(store.join(folder, f"b{ending}"))


# ------------------------------------------------------------------------------------------------ windows

coordinates = st.one_of(
    st.integers(-30, 400).map(float), st.integers(-60, 800).map(lambda v: v / 2), st.floats(-30, 400)
)
points = st.tuples(coordinates, coordinates)
polygons = st.lists(points, min_size=3, max_size=7, unique=True).map(shapely.Polygon)
lines = st.lists(points, min_size=2, max_size=5, unique=True).map(shapely.LineString)
windows = st.tuples(st.integers(-40, 330), st.integers(-40, 330), st.integers(1, 120), st.integers(1, 120))


@given(
    shapes=st.lists(st.one_of(polygons, lines, points.map(shapely.Point)), min_size=1, max_size=6),
    window=windows.map(lambda w: Window(*w)),
    label=st.fixed_dictionaries({"all_touched": st.booleans(), "buffer": st.sampled_from([0.0, 3.3])}),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_window_is_a_cut_of_the_whole(tmp_path, shapes, window, label):
    path = geojson(tmp_path / "a.geojson", shapes, kind=list(range(len(shapes))))
    os.utime(path, ns=(0, hash((str(shapes), str(label))) % 2**50))
    classes, data = setup(label=label)
    place = scene(path, 300, 320, crs=None, transform=(1, 0, 0, 0, 1, 0))
    mask = masks.mask(place, Window(0, 0, 300, 320), classes, data)
    padded = np.full((1000, 1000), IGNORE, np.uint8)
    padded[100:400, 100:420] = mask
    row, col, height, width = window[:4]
    np.testing.assert_array_equal(
        masks.mask(place, window, classes, data), padded[row + 100 :, col + 100 :][:height, :width]
    )


@pytest.mark.parametrize("all_touched", [False, True])
def test_the_whole_is_what_gdal_makes_of_it(tmp_path, all_touched):
    rng = np.random.default_rng(0)
    shapes = [shapely.Point(*rng.uniform(0, 700, 2)).buffer(rng.uniform(3, 60)) for _ in range(60)]
    place = scene(geojson(tmp_path / "a.geojson", shapes), 600, 700, crs=None, transform=(1, 0, 0, 0, 1, 0))
    classes, data = setup(label={"all_touched": all_touched})
    found = masks.mask(place, whole(place), classes, data)
    assert (found != burned(shapes, 600, 700, all_touched=all_touched)).sum() <= 3


def test_a_large_coast_is_cut_into_pieces_and_stays_the_same(tmp_path):
    angle = np.linspace(0, 2 * math.pi, 20_000, endpoint=False)
    radius = 900 + 60 * np.sin(37 * angle) + 20 * np.sin(911 * angle)
    coast = shapely.Polygon(
        np.column_stack((500 + radius * np.cos(angle), 480 + radius * np.sin(angle))),
        holes=[shapely.box(300, 310, 700, 650).exterior.coords],
    )
    path = geojson(tmp_path / "a.geojson", [coast])
    place = scene(path, 1000, 1100, crs=None, transform=(1, 0, 0, 0, 1, 0))
    classes, data = setup()
    shapes = masks.shapes_of(place, classes, data)
    assert shapes.num_shapes == 1 and max(map(shapely.get_num_coordinates, shapes.geometry)) < 3000
    found = masks.mask(place, whole(place), classes, data)
    assert (found != burned([coast], 1000, 1100)).sum() <= 3


# ------------------------------------------------------------------------------------------------ what shapes mean


def test_attributes_name_classes_and_later_shapes_cover_earlier_ones(tmp_path):
    shapes = in_utm([shapely.box(0, 0, 40, 40), shapely.box(20, 20, 60, 60), shapely.box(30, 30, 35, 35)])
    path = geojson(tmp_path / "a.geojson", shapes, UTM, kind=["b", "a", "unclear"], height=[3, 2, 1])
    names = [{"name": "ground"}, {"name": "a"}, {"name": "b"}]
    common = {"classes": names, "ignore_values": ["unclear"]}
    by_file = mask_of(path, **common, label={"attribute": "kind"})
    by_class = mask_of(path, **common, label={"attribute": "kind", "order": "class"})
    by_height = mask_of(path, **common, label={"attribute": "kind", "order": "height"})
    where = [(10, 10), (25, 25), (50, 50), (32, 32), (62, 70)]
    assert [int(by_file[p]) for p in where] == [2, 1, 1, IGNORE, 0]
    assert [int(by_class[p]) for p in where] == [2, 2, 1, IGNORE, 0]
    assert [int(by_height[p]) for p in where] == [2, 2, 1, 2, 0]


def test_numbers_as_attributes_also_with_gaps(tmp_path):
    shapes = in_utm([shapely.box(0, 0, 10, 10), shapely.box(20, 20, 30, 30)])
    path = geojson(tmp_path / "a.geojson", shapes, UTM, code=[5, None])
    classes = [{"name": "ground"}, {"name": "house", "values": ["5..9"]}]
    with pytest.raises(LabelError, match=r"scene a: label values without a class: null \(1 shapes\)"):
        mask_of(path, classes=classes, label={"attribute": "code"})
    geojson(path, shapes, UTM, code=[5, "9"])
    assert (mask_of(path, classes=classes, label={"attribute": "code"}) == 1).sum() == 200


def test_unknown_values_are_counted_but_only_those_in_the_scene(tmp_path):
    inside, outside = shapely.box(1, 1, 5, 5), shapely.box(900, 900, 950, 950)
    path = geojson(
        tmp_path / "a.geojson", in_utm([inside, inside, inside, outside]), UTM, kind=["tree", "tree", "pole", "lake"]
    )
    with pytest.raises(LabelError) as caught:
        mask_of(path, label={"attribute": "kind"})
    assert "tree (2 shapes), pole (1 shapes)" in caught.value.message and "lake" not in caught.value.message


def test_a_missing_attribute_names_those_that_are_there(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([SQUARE]), UTM, kind=["a"], use=["b"])
    with pytest.raises(LabelError, match="no attribute knid; they have kind, use"):
        mask_of(path, label={"attribute": "knid"})
    with pytest.raises(LabelError, match="cannot be ordered by kind"):
        mask_of(geojson(path, in_utm([SQUARE] * 2), UTM, kind=["a", None]), label={"order": "kind"})


def test_one_mask_per_class(tmp_path):
    shapes = in_utm([shapely.box(0, 0, 40, 40), shapely.box(20, 20, 60, 60), shapely.box(30, 30, 35, 35)])
    path = geojson(tmp_path / "a.geojson", shapes, UTM, kind=["house", "solar", "unclear"])
    names = [{"name": "house"}, {"name": "solar"}]
    options = {"classes": names, "ignore_values": ["unclear"], "task": "multilabel"}
    mask = mask_of(path, **options, label={"attribute": "kind"})
    assert mask.shape == (2, 64, 80)
    assert [mask[:, r, c].tolist() for r, c in ((10, 10), (25, 25), (50, 50), (32, 32), (62, 70))] == [
        [1, 0], [1, 1], [0, 1], [IGNORE, IGNORE], [0, 0],
    ]  # fmt: skip
    with pytest.raises(LabelError, match="nothing says which class"):
        mask_of(path, **options)
    assert mask_of(path, classes=names[:1], task="multilabel").max() == 1


def test_lines_and_points_have_a_width(tmp_path):
    line, point = shapely.LineString([(10, 32), (70, 32)]), shapely.Point(20, 10)
    path = geojson(tmp_path / "a.geojson", in_utm([line, point, shapely.box(60, 50, 64, 54)]), UTM)
    thin = mask_of(path)
    assert thin[32, 10:70].all() and thin[10, 20] == 1 and thin.sum() == 60 + 1 + 1 + 16
    wide = mask_of(path, label={"buffer": 30.0})  # metres: three pixels
    np.testing.assert_array_equal(wide, burned([line.buffer(3), point.buffer(3), shapely.box(60, 50, 64, 54)]))


def test_collections_and_multiples_are_taken_apart(tmp_path):
    parts = [shapely.box(0, 0, 9, 9), shapely.box(5, 5, 20, 20)]
    nested = shapely.GeometryCollection([shapely.MultiPolygon([shapely.box(40, 40, 50, 50)]), *parts])
    mask = mask_of(geojson(tmp_path / "a.geojson", in_utm([nested]), UTM))
    np.testing.assert_array_equal(mask, burned([*parts, shapely.box(40, 40, 50, 50)]))


def test_invalid_shapes_are_repaired_and_empty_ones_counted(tmp_path):
    bow = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    double = shapely.MultiPolygon([shapely.box(40, 10, 60, 30), shapely.box(50, 20, 70, 40)])  # parts overlap
    flat = shapely.Polygon([(1, 1), (5, 5), (9, 9)])
    path = geojson(tmp_path / "a.geojson", [*in_utm([bow, double, flat]), None, shapely.Polygon()], UTM)
    classes, data = setup()
    shapes = masks.shapes_of(scene(path), classes, data)
    assert (shapes.num_shapes, shapes.num_repaired, shapes.num_empty) == (2, 2, 3)
    mask = mask_of(path)
    assert mask[20, 13] == mask[20, 27] == 1 and mask[12, 20] == 0
    assert mask[25, 55] == 1, "where two parts overlap there is a house, no hole"


def test_a_hole_stays_a_hole(tmp_path):
    ring = shapely.box(10, 10, 40, 40).difference(shapely.box(20, 20, 30, 30))
    mask = mask_of(geojson(tmp_path / "a.geojson", in_utm([ring]), UTM))
    assert mask[25, 25] == 0 and mask[15, 15] == 1 and mask.sum() == 800


def test_no_shapes_at_all_is_a_label_too(tmp_path):
    mask = mask_of(geojson(tmp_path / "a.geojson", [], UTM))
    assert mask.shape == (64, 80) and not mask.any()


# ------------------------------------------------------------------------------------------------ where shapes lie


def to_degrees(shapes):
    def there(points):
        return np.column_stack(rasterio.warp.transform(UTM, "EPSG:4326", *points.T))

    return [shapely.transform(s, there) for s in shapes]


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".shp"])
def test_degrees_are_brought_to_the_scene(tmp_path, ending):
    path = vector(tmp_path / f"a{ending}", to_degrees(in_utm(SPECKS)), "EPSG:4326")
    assert (mask_of(path) != burned(SPECKS)).sum() <= 1


def test_a_geojson_without_a_crs_is_in_degrees(tmp_path):
    path = geojson(tmp_path / "a.geojson", to_degrees(in_utm(SPECKS)))
    assert (mask_of(path) != burned(SPECKS)).sum() <= 1


def test_long_edges_bend_as_they_should(tmp_path):
    # 1.2 degrees along a parallel: a straight line between its ends in UTM would pass 1.3 km further north.
    area = shapely.box(14.0, 45.1, 15.2, 45.9)
    place = scene(geojson(tmp_path / "a.geojson", [area]), 900, 1000, transform=(100, 0, 420_000, 0, -100, 5_090_000))
    classes, data = setup()
    mask = masks.mask(place, whole(place), classes, data)
    row, col = np.mgrid[:900, :1000]
    x, y = 420_000 + 100 * (col + 0.5), 5_090_000 - 100 * (row + 0.5)
    lon, lat = (np.reshape(v, x.shape) for v in rasterio.warp.transform(UTM, "EPSG:4326", x.ravel(), y.ravel()))
    inside = (lon > 14.0) & (lon < 15.2) & (lat > 45.1) & (lat < 45.9)
    assert (mask != inside).mean() < 1e-4


@pytest.mark.parametrize(
    "transform",
    [
        (10.0, 0.0, 500_000.0, 0.0, 10.0, 4_999_000.0),  # south-up
        (8.0, 6.0, 500_000.0, 6.0, -8.0, 5_000_000.0),  # rotated
        (-10.0, 0.0, 500_900.0, 0.0, -10.0, 5_000_000.0),  # mirrored
    ],
)
def test_scenes_in_any_direction(tmp_path, transform):
    place = scene(geojson(tmp_path / "a.geojson", in_utm(SPECKS, transform), UTM), transform=transform)
    classes, data = setup()
    np.testing.assert_array_equal(masks.mask(place, whole(place), classes, data), burned(SPECKS))


def test_a_scan_takes_shapes_in_pixels(tmp_path):
    place = scene(geojson(tmp_path / "a.geojson", [SQUARE]), crs=None, transform=(1, 0, 0, 0, 1, 0))
    classes, data = setup()
    np.testing.assert_array_equal(masks.mask(place, whole(place), classes, data), burned([SQUARE]))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_a_file_without_a_crs_is_refused_for_a_scene_with_one(tmp_path):
    path = vector(tmp_path / "a.shp", in_utm([SQUARE]), None)
    with pytest.raises(LabelError, match="does not say what its coordinates mean, and the scene is in EPSG:32633"):
        mask_of(path)


@pytest.mark.parametrize(("west", "shift"), [(190.0, -360), (-170.0, 360), (-170.0, 0), (179.5, -360), (-0.3, 360)])
def test_longitudes_of_both_kinds_meet(tmp_path, west, shift):
    transform = (0.01, 0, west, 0, -0.01, 10.0)
    shapes = in_utm(SPECKS, transform)
    moved = [shapely.transform(s, lambda p: p + np.array([shift, 0])) for s in shapes]
    place = scene(geojson(tmp_path / "a.geojson", moved), crs="EPSG:4326", transform=transform)
    classes, data = setup()
    found = masks.mask(place, whole(place), classes, data)
    assert (found != burned(SPECKS)).sum() <= 1 and found.any()


def test_a_scene_across_the_date_line(tmp_path):
    # UTM zone 1 reaches to both sides of it; shapes are on each side, as the standard of GeoJSON wants them.
    transform = (1000.0, 0, 130_000.0, 0, -1000.0, 1_100_000.0)
    corner = np.column_stack(rasterio.warp.transform("EPSG:32601", "EPSG:4326", [140_500, 199_500], [1_050_500] * 2))
    assert corner[0, 0] > 179 and corner[1, 0] < -179
    shapes = [shapely.Point(*p).buffer(0.05) for p in corner]
    place = scene(geojson(tmp_path / "a.geojson", shapes), 64, 80, crs="EPSG:32601", transform=transform)
    classes, data = setup()
    mask = masks.mask(place, whole(place), classes, data)
    assert mask[49, 10] == mask[49, 69] == 1 and 150 < mask.sum() < 220


def test_a_scene_that_shows_the_sky_beside_the_earth(tmp_path):
    crs = "+proj=geos +h=35785831 +lon_0=0 +sweep=y +datum=WGS84"
    area, antipode, limb = shapely.box(-10, 40, 20, 55), shapely.box(170, -9, 175, 9), shapely.box(60, -9, 100, 9)
    place = scene(tmp_path / "a.geojson", 112, 112, crs=crs, transform=(1e5, 0, -5.6e6, 0, -1e5, 5.6e6))
    geojson(tmp_path / "a.geojson", [area, antipode])
    classes, data = setup()
    found = masks.mask(place, whole(place), classes, data)
    row, col = np.mgrid[:112, :112]
    x, y = -5.6e6 + 1e5 * (col + 0.5), 5.6e6 - 1e5 * (row + 0.5)
    lon, lat = project(x.ravel(), y.ravel(), crs, "EPSG:4326")
    inside = ((lon > -10) & (lon < 20) & (lat > 40) & (lat < 55)).reshape(112, 112)
    np.testing.assert_array_equal(found, inside)
    geojson(tmp_path / "a.geojson", [area, antipode, limb])
    with pytest.raises(LabelError, match="1 shapes reach to where"):
        masks.mask(place, whole(place), classes, data)


def test_a_part_of_a_file_has_its_part_of_the_label(tmp_path):
    path = geojson(tmp_path / "a.geojson", SPECKS)
    classes, data = setup()
    part = scene(path, 30, 40, crs=None, transform=(1, 0, 0, 0, 1, 0), origin=(20, 25))
    np.testing.assert_array_equal(masks.mask(part, whole(part), classes, data), burned(SPECKS)[20:50, 25:65])
    beyond = masks.mask(part, Window(-2, -3, 40, 50), classes, data)
    assert (beyond[:2] == IGNORE).all() and (beyond[32:] == IGNORE).all() and (beyond[:, 43:] == IGNORE).all()


def test_a_scene_without_a_usable_transform_is_refused(tmp_path):
    place = scene(geojson(tmp_path / "a.geojson", in_utm([SQUARE]), UTM), transform=(math.nan, 0, 0, 0, 1, 0))
    classes, data = setup()
    with pytest.raises(LabelError, match="places no pixel"):
        masks.mask(place, whole(place), classes, data)


# ------------------------------------------------------------------------------------------------ areas of interest


def test_outside_the_area_of_interest_nothing_is_annotated(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm([SQUARE]), UTM)
    area = shapely.box(0, 0, 20, 64)
    aoi = geojson(tmp_path / "aoi.geojson", in_utm([area]), UTM)
    place = scene(path, aoi=str(aoi))
    classes, data = setup()
    mask = masks.mask(place, whole(place), classes, data)
    np.testing.assert_array_equal(mask, np.where(burned([area]), burned([SQUARE]), IGNORE))


def test_masks_of_another_size_take_the_nearest_pixel(tmp_path):
    path = geojson(tmp_path / "a.geojson", in_utm(SPECKS), UTM)
    classes, data = setup()
    place = scene(path)
    full = masks.mask(place, whole(place), classes, data)
    half = masks.mask(place, whole(place), classes, data, shape=(32, 40))
    np.testing.assert_array_equal(half, full[1::2, 1::2])
    double = masks.mask(place, Window(5, 6, 20, 30), classes, data, shape=(40, 60))
    np.testing.assert_array_equal(double, full[5:25, 6:36].repeat(2, 0).repeat(2, 1))
