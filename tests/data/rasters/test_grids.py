import math
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.data.rasters.grids import Grid, project, to_pixels

UTM = "EPSG:32633"
NORTH_UP = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
GRID = Grid(64, 80, UTM, NORTH_UP)

small = st.floats(-50, 50, allow_nan=False)
transforms = st.tuples(small, small, st.floats(-1e6, 1e6), small, small, st.floats(-1e6, 1e6))


def moved(a=10.0, b=0.0, c=500_000.0, d=0.0, e=-10.0, f=5_000_000.0, size=(64, 80)):
    return Grid(*size, UTM, (a, b, c, d, e, f))


@given(transforms, transforms, st.floats(-100, 100), st.floats(-100, 100))
def test_pixels_of_one_grid_in_another_are_where_the_coordinates_are(ours, theirs, row, col):
    a, b, _, d, e, _ = ours
    assume(abs(a * e - b * d) > 1)
    x, y = Grid(1, 1, None, theirs).position(row, col)
    m = to_pixels(ours, theirs)
    found = Grid(1, 1, None, m).position(row, col)
    expected = ~rasterio.Affine(*ours) @ (x, y)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-4)


@given(transforms, st.integers(-50, 50), st.integers(-50, 50))
def test_a_part_has_its_pixels_where_the_whole_has_them(transform, row, col):
    whole = Grid(100, 100, UTM, transform)
    part = whole.part(row, col, 10, 20)
    assert (part.height, part.width, part.crs) == (10, 20, UTM)
    assert part.position(3, 4) == pytest.approx(whole.position(row + 3, col + 4))


# ------------------------------------------------------------------------------------------------ differences


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (moved(c=500_005.0), "shifted by up to 0.5 pixels (half a pixel: one of them counts from the centres"),
        (moved(c=500_005.0, f=4_999_995.0), "(half a pixel"),
        (moved(e=10.0, f=5_000_000.0 - 640), "(one is a mirror image: rows that begin in the south?)"),
        (moved(c=500_003.0), "shifted by up to 0.3 pixels: transform"),
        (moved(a=10.1), "shifted by up to 0.8 pixels: transform"),
        (moved(a=8.0, b=6.0, d=6.0, e=-8.0), "shifted by up to "),  # rotated
        (moved(a=math.nan), "a transform that places no pixel"),
        (moved(c=math.inf), "a transform that places no pixel"),
        (moved(a=0.0), "a transform that places no pixel"),
    ],
)
def test_differences_say_what_they_look_like(other, says):
    assert says in GRID.difference(other)
    assert other.difference(GRID)


def test_another_size_is_told_with_what_explains_it():
    coarse = Grid(32, 40, GRID.crs, (20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0))
    assert GRID.difference(coarse) == "80 × 64 pixels against 40 × 32, of 10 × 10 against 20 × 20"
    degrees = Grid(50, 90, "EPSG:4326", (0.0001, 0.0, 15.0, 0.0, -0.0001, 45.0))
    assert GRID.difference(degrees) == "80 × 64 pixels against 90 × 50, EPSG:32633 against EPSG:4326"
    assert GRID.difference(replace(GRID, height=9)) == "80 × 64 pixels against 80 × 9"
    assert GRID.difference(Grid(9, 80)) == "80 × 64 pixels against 80 × 9"


def test_longitudes_of_two_kinds():
    world = (0.1, 0, -180.0, 0, -0.1, 90.0)
    ours, theirs = (Grid(1800, 3600, "EPSG:4326", (0.1, 0, west, 0, -0.1, 90.0)) for west in (-180.0, 180.0))
    assert "(360 degrees of longitude)" in ours.difference(theirs)
    assert ours.difference(Grid(1800, 3600, "EPSG:4326", world)) == ""


def test_the_same_crs_in_other_words_is_the_same():
    wkt = rasterio.CRS.from_epsg(32633).to_wkt()
    proj = "+proj=utm +zone=33 +datum=WGS84 +units=m +no_defs"
    assert GRID.difference(Grid(64, 80, wkt, NORTH_UP)) == ""
    assert GRID.difference(Grid(64, 80, proj, NORTH_UP)) == ""
    assert GRID.difference(Grid(64, 80, "EPSG:32634", NORTH_UP)) == "EPSG:32633 against EPSG:32634"


@pytest.mark.parametrize(("crs", "expected"), [("EPSG:4326", True), (UTM, False), ("EPSG:3857", False), (None, False)])
def test_which_grids_are_in_degrees(crs, expected):
    assert Grid(1, 1, crs).geographic is expected


def test_points_are_projected_with_longitude_first():
    # Greenwich: 51.48 degrees north, 0 east; British National Grid 538 890, 177 320 or so.
    east, north = project(np.array([0.0]), np.array([51.4779]), "EPSG:4326", "EPSG:27700")
    assert east[0] == pytest.approx(538_890, abs=200) and north[0] == pytest.approx(177_320, abs=200)
    back = project(east, north, "EPSG:27700", "EPSG:4326")
    assert (back[0][0], back[1][0]) == pytest.approx((0, 51.4779), abs=1e-5)
