"""Windows at another scale, against slow and plain ways of computing the same."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from scipy.ndimage import map_coordinates

from pipeline.data.rasters import raster_io, resampling
from pipeline.data.rasters.resampling import Axis
from pipeline.data.rasters.windows import Window
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster


def area_weights(line: Axis, length: int) -> np.ndarray:
    """Share [result, source] of each source pixel in each pixel of the result, by the definition of an average."""
    weights = np.zeros((line.num, length))
    for i in range(line.num):
        for j in range(length):
            low = max(line.start + i * line.step, j)
            weights[i, j] = max(0.0, min(line.start + (i + 1) * line.step, j + 1) - low)
    return weights / line.step


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 3), st.floats(1, 4), st.integers(1, 5), st.floats(0, 3), st.floats(1, 4), st.integers(1, 5))
def test_averages_are_the_mean_over_the_area(top, down, height, left, across, width):
    rows, cols = Axis(top, down, height), Axis(left, across, width)
    values = np.random.default_rng(0).uniform(-5, 5, (2, 24, 24))
    pixels, valid = resampling.resampled(values, np.ones((24, 24), bool), rows, cols)
    expected = area_weights(rows, 24) @ values @ area_weights(cols, 24).T
    np.testing.assert_allclose(pixels, expected, atol=1e-5)
    assert valid.all()


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 8), st.floats(0.1, 0.99), st.floats(1, 8), st.floats(0.1, 0.99))
def test_enlarging_is_linear_between_centres(top, down, left, across):
    rows, cols = Axis(top, down, 9), Axis(left, across, 7)
    values = np.random.default_rng(1).uniform(-5, 5, (1, 24, 24))
    pixels, _ = resampling.resampled(values, np.ones((24, 24), bool), rows, cols)
    at = np.meshgrid(top + (np.arange(9) + 0.5) * down - 0.5, left + (np.arange(7) + 0.5) * across - 0.5, indexing="ij")
    np.testing.assert_allclose(pixels[0], map_coordinates(values[0], at, order=1, mode="nearest"), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 15),
    st.integers(0, 15),
    # Whole 64ths: a share of 1e-10 in a pixel is hidden, too, but no float32 could show it below.
    st.integers(20, 192).map(lambda n: n / 64),
    st.integers(0, 128).map(lambda n: n / 64),
    st.sampled_from([np.nan, 1e30, -9999.0]),
)
def test_what_is_hidden_hides_all_that_it_was_mixed_into_and_changes_nothing_else(row, col, step, start, poison):
    line = Axis(start, step, 4)
    values = np.random.default_rng(2).uniform(0, 1, (1, 16, 16)).astype(np.float32)
    valid = np.ones((16, 16), bool)
    valid[row, col] = False
    poisoned = np.where(valid, values, np.float32(poison))
    clean, _ = resampling.resampled(values, np.ones_like(valid), line, line)
    pixels, seen = resampling.resampled(poisoned, valid, line, line)
    np.testing.assert_array_equal(pixels[:, seen], clean[:, seen])
    # A pixel that does not see the hidden one is valid: changing it changes nothing there.
    other, _ = resampling.resampled(np.where(valid, values, 5.0).astype(np.float32), np.ones_like(valid), line, line)
    np.testing.assert_array_equal(seen, (other == clean)[0])


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (17, 50), (100, 20), (8, 90)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_the_fast_way_agrees_with_the_exact_one(shape, dtype):
    pixels = make_pixels(3, 64, 64, dtype)
    valid = np.ones((64, 64), bool)
    fast, seen = resampling.resized(pixels, valid, shape)
    exact, _ = resampling.resampled(pixels, valid, *resampling.axes(Window(0, 0, 64, 64), shape))
    assert fast.dtype == dtype and fast.shape == (3, *shape) and seen.all()
    span = float(pixels.max()) - float(pixels.min())
    np.testing.assert_allclose(fast.astype(float), exact.astype(float), atol=0.005 * span + (dtype != "float32"))


def test_the_fast_way_hides_what_was_mixed_with_invalid_pixels():
    pixels = np.full((1, 8, 8), np.nan, np.float32)
    pixels[:, :, :4] = 1
    for shape in ((4, 4), (16, 16), (5, 5)):
        seen, valid = resampling.resized(pixels, np.isfinite(pixels[0]), shape)
        assert valid.any() and not valid.all() and (seen[:, valid] == 1).all()


# ------------------------------------------------------------------------------------------------ levels of files


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """A raster of 300 × 500 with overviews whose values tell the level: 0, 50, 100."""
    path = tmp_path_factory.mktemp("levels") / "a.tif"
    pixels = np.zeros((1, 300, 500), np.uint8)
    write_raster(path, pixels, crs=UTM, transform=TRANSFORM, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.nearest)
    for level, value in ((0, 50), (1, 100)):
        with rasterio.open(path, "r+", overview_level=level) as dataset:
            dataset.write(np.full((1, *dataset.shape), value, np.uint8))
    return str(path)


def test_levels_are_listed_finest_first(pyramid):
    assert raster_io.describe(pyramid).levels == ((300, 500), (150, 250), (75, 125))


@pytest.mark.parametrize(
    ("shape", "level"), [((64, 64), 0), ((33, 33), 0), ((32, 32), 50), ((20, 20), 50), ((16, 16), 100), ((9, 9), 100)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(pyramid, shape, level):
    pixels, valid = raster_io.read(pyramid, Window(33, 65, 64, 64), shape=shape)
    assert pixels.shape == (1, *shape) and valid.all() and (pixels == level).all()
    label, _ = raster_io.read_label(pyramid, Window(33, 65, 64, 64), shape=shape)
    assert (label == 0).all()  # never from an overview


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """Values that grow by 1 a column and 2 a row, with averaged overviews, so that positions can be checked."""
    path = tmp_path_factory.mktemp("ramp") / "a.tif"
    row, col = np.mgrid[:256, :256].astype(np.float32)
    write_raster(path, (2 * row + col)[None], tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    return str(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(30, 120), st.integers(30, 120), st.floats(0.12, 1.7))
def test_nothing_moves_at_any_scale(ramp, row, col, height, width, scale):
    shape = max(2, round(height * scale)), max(2, round(width * scale))
    pixels, valid = raster_io.read(ramp, Window(row, col, height, width), shape=shape)
    y = row + (np.arange(shape[0]) + 0.5) * height / shape[0] - 0.5
    x = col + (np.arange(shape[1]) + 0.5) * width / shape[1] - 0.5
    assert valid.all()
    off = (pixels[0] - (2 * y[:, None] + x))[1:-1, 1:-1]  # at the window's edge enlarging has no neighbour
    # Parts of steps are averaged as steps, which puts single pixels off by an eighth of a step, but not many of them.
    assert off.size == 0 or np.abs(off).max() < 1.6
    assert off.size < 36 or abs(off.mean()) < 0.3


def test_a_whole_scene_is_made_small_in_parts(ramp, monkeypatch):
    whole = raster_io.read(ramp, Window(0, 0, 256, 256), shape=(100, 90))[0]
    monkeypatch.setattr(resampling, "CHUNK_PIXELS", 5_000)
    parts = raster_io.read(ramp, Window(0, 0, 256, 256), shape=(100, 90))[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    label = raster_io.read_label_bands(ramp, Window(0, 0, 256, 256), shape=(100, 90))[0]
    np.testing.assert_array_equal(label[0, 0, :3], [3, 6, 9])


def test_outside_is_invalid_at_any_scale(ramp):
    for shape in ((32, 32), (64, 64), (16, 16), (100, 100), (4, 4)):
        _, valid = raster_io.read(ramp, Window(-32, -32, 64, 64), shape=shape)
        half = shape[0] // 2
        assert not valid[:half].any() and not valid[:, :half].any() and valid[half + 1 :, half + 1 :].all()
        nothing = raster_io.read(ramp, Window(5000, 5000, 64, 64), shape=shape)
        assert nothing[0].shape == (1, *shape) and not nothing[1].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 280), st.integers(-40, 280), st.integers(1, 90), st.floats(0.2, 3))
def test_labels_keep_the_nearest_value(ramp, row, col, size, scale):
    shape = (max(1, round(size * scale)),) * 2
    values, valid = raster_io.read_label_bands(ramp, Window(row, col, size, size), shape=shape)
    whole = (2 * np.arange(256)[:, None] + np.arange(256)).astype(int)
    for i in range(0, shape[0], 3):
        for j in range(0, shape[1], 3):
            y, x = (int(np.floor(at + (k + 0.5) * size / shape[0] + 1e-6)) for at, k in ((row, i), (col, j)))
            inside = 0 <= y < 256 and 0 <= x < 256
            assert valid[i, j] == inside
            assert values[0, i, j] == (whole[y, x] if inside else 0)


@pytest.mark.parametrize("internal", [False, True])
def test_a_mask_that_overviews_lack_is_not_lost(tmp_path, internal):
    path = tmp_path / "a.tif"
    hidden = np.ones((256, 256), bool)
    hidden[:128] = False
    write_raster(path, make_pixels(1, 256, 256, "uint8"), tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(hidden)
    valid = raster_io.read(str(path), Window(0, 0, 256, 256), shape=(64, 64))[1]
    assert not valid[:32].any() and valid[32:].all()


@pytest.mark.parametrize("internal", [False, True])
def test_overviews_with_their_mask_are_used(tmp_path, internal):
    path = tmp_path / "a.tif"
    hidden = np.ones((256, 256), bool)
    hidden[:128] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        write_raster(path, make_pixels(1, 256, 256, "uint8"), tiled=True, blockxsize=64, blockysize=64)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(hidden)
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4], Resampling.average)
    assert len(raster_io.describe(str(path)).levels) == 3
    valid = raster_io.read(str(path), Window(0, 0, 256, 256), shape=(64, 64))[1]
    assert not valid[:32].any() and valid[32:].all()
