"""Windows at another scale: from shards equal to those from the files, to the bit, and from the files where these know
better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.feed.chip_reader import ChipReader
from pipeline.data.feed.plan import Plan
from pipeline.data.rasters.windows import Window
from tests.data.feed.feed_world import FILL, plan, scene
from tests.data.feed.shards.test_shards import prepared
from tests.factory import write_raster

SIDE = 40


def reads_of(source: Plan) -> ChipReader:
    return ChipReader(source.scenes, source.classes, source.data, source.digest, SIDE, source.shards)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Invalid pixels of several kinds, a file with overviews, and a scene that is a part of a file."""
    folder = tmp_path_factory.mktemp("scenes")
    kinds = [("nodata", 300, 261), ("mask", 128, 256), ("nodata", 64, 64), ("alpha", 200, 300)]
    made = [scene(folder, f"s{n}", height=h, width=w, invalid=kind, seed=n) for n, (kind, h, w) in enumerate(kinds)]
    with rasterio.open(made[0].image, "r+") as image:
        image.build_overviews([2, 4])
    part = replace(made[3], origin=(30, 41), height=140, width=170)
    (folder / "world").mkdir()
    return prepared(folder, replace(plan(folder / "world"), scenes=(*made[:3], part)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 3), row=st.integers(-90, 300), col=st.integers(-90, 300), side=st.integers(1, 4 * SIDE))
def test_any_window_of_any_scale_is_that_of_the_files(world: Plan, number: int, row: int, col: int, side: int) -> None:
    window = Window(row, col, side, side)
    found, wanted = (reads_of(each).one(number, window) for each in (world, replace(world, shards="")))
    assert np.array_equal(found.valid, wanted.valid)
    for got, expected in zip(found.finished(FILL), wanted.finished(FILL), strict=True):
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)


@pytest.mark.parametrize(("side", "from_shards"), [(20, True), (70, True), (100, False)])
def test_where_pixels_come_from(tmp_path: Path, side: int, from_shards: bool) -> None:
    """A file that was written anew shows it: of overviews only the file knows, and all else is in the shards."""
    pixels = np.random.default_rng(0).integers(1, 60000, (4, 256, 256)).astype(np.uint16)
    one = scene(tmp_path, "a", height=256, width=256, pixels=pixels)
    (tmp_path / "world").mkdir()
    source = replace(plan(tmp_path / "world"), scenes=(one,))
    overview(one.image)
    fast = prepared(tmp_path, source)
    before = reads_of(fast).one(0, Window(10, 20, side, side)).image.copy()
    write_raster(Path(one.image), np.full_like(pixels, 7))
    overview(one.image)
    after = reads_of(fast).one(0, Window(10, 20, side, side)).image
    assert np.array_equal(before, after) == from_shards
    assert (after == 7).all() != from_shards


def overview(path: str) -> None:
    with rasterio.open(path, "r+") as image:
        image.build_overviews([2], rasterio.enums.Resampling.average)
