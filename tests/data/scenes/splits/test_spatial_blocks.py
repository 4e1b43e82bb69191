"""Splits by blocks of ground: no pixel in two splits, a buffer between them, and parts that stay."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes.splits.spatial_blocks import ScenePart, cut
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import BlocksSplit
from tests.factory import UTM

SIDE = 200
OTHER_UTM = "EPSG:32733"


def grid(x: float, y: float, height: int, width: int, pixel: float = 1.0, crs: str | None = UTM) -> Grid:
    """Upper left corner and size."""
    return Grid(height, width, crs, (pixel, 0.0, x, 0.0, -pixel, y))


def section(**changes: Any) -> BlocksSplit:
    return BlocksSplit(**{"block": 50.0, "val": 0.2, "test": 0.3, "min_side": 4, **changes})


def ground(parts: list[ScenePart], grids: dict[str, Grid]) -> dict[str, np.ndarray]:
    """Which pixels of a map of SIDE × SIDE units each split has; grids must lie on whole units of 1."""
    seen = {split: np.zeros((SIDE, SIDE), int) for split in ("train", "val", "test")}
    for part in parts:
        x, y = grids[part.scene].position(*part.origin)
        row, col = round(SIDE - y), round(x)
        seen[part.split][row : row + part.height, col : col + part.width] += 1
    return seen


scenes = st.lists(
    st.tuples(st.integers(0, 150), st.integers(50, 200), st.integers(5, 180), st.integers(5, 180)),
    min_size=3,
    max_size=8,
)


def grids_of(places: list[tuple[int, int, int, int]]) -> dict[str, Grid]:
    return {f"s{i}": grid(x, y, min(height, y), min(width, SIDE - x)) for i, (x, y, height, width) in enumerate(places)}


@given(scenes, st.integers(0, 20), st.sampled_from([37.0, 50.0, 64.5]))
@settings(max_examples=150, deadline=None)
def test_no_pixel_is_in_two_splits_nor_nearer_than_the_buffer(
    places: list[tuple[int, int, int, int]], buffer: int, block: float
) -> None:
    grids = grids_of(places)
    try:
        parts = cut(grids, section(buffer=buffer, block=block))
    except ManifestError as error:
        assume("cannot be divided" not in error.message)
        raise
    seen = ground(parts, grids)
    for ours, theirs in itertools.permutations(seen, 2):
        if seen[ours].any():
            # Chessboard distance to the nearest pixel of the other split; 1 is the next pixel.
            away = distance_transform_cdt(seen[ours] == 0, "chessboard")
            assert (away[seen[theirs] > 0] > buffer).all()
    for part in parts:
        whole = grids[part.scene]
        row, col = part.origin
        assert row >= 0 and col >= 0 and row + part.height <= whole.height and col + part.width <= whole.width
        assert min(part.height, part.width) >= min(4, whole.height, whole.width)


@given(scenes)
@settings(max_examples=60, deadline=None)
def test_parts_of_a_scene_do_not_overlap_and_without_a_buffer_are_all_of_it(places: list[Any]) -> None:
    grids = grids_of(places)
    try:
        parts = cut(grids, section(min_side=1))
    except ManifestError:
        assume(False)
    for i, whole in grids.items():
        seen = np.zeros((whole.height, whole.width), int)
        for part in (p for p in parts if p.scene == i):
            row, col = part.origin
            seen[row : row + part.height, col : col + part.width] += 1
        assert (seen == 1).all()


@given(scenes, scenes, st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_parts_stay_when_scenes_are_added(before: list[Any], added: list[Any], buffer: int) -> None:
    every = section(buffer=buffer)
    base = {f"base{i}": grid(1000.0 * i, 5000.0, 900, 900) for i in range(2)}  # so many blocks that no split is empty
    old = cut(base | grids_of(before), every)
    new = cut(base | grids_of([*before, *added]), every)
    known = {f"s{i}" for i in range(len(before))}
    assert [p for p in new if p.scene in known] == [p for p in old if p.scene in known]


def test_groups_are_blocks_and_never_in_two_splits() -> None:
    grids = {f"s{i}": grid(100.0 * i, 3000.0 - 77 * i, 300, 410) for i in range(12)}
    parts = cut(grids, section(buffer=3))
    split_of: dict[str, set[str]] = {}
    for part in parts:
        split_of.setdefault(part.group, set()).add(part.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert {p.split for p in parts} == {"train", "val", "test"}
    assert len({p.id for p in parts}) == len(parts)
    blocks = np.array([len(splits & {"test"}) for splits in split_of.values()])
    assert blocks.mean() == pytest.approx(0.3, abs=0.06)


def test_a_scene_within_blocks_of_one_split_stays_whole() -> None:
    grids = {f"s{i}": grid(10.0 + 50 * (i % 9), 500.0 - 50 * (i // 9), 30, 30) for i in range(81)}
    parts = cut(grids, section())
    assert [p.id for p in parts] == sorted(grids)
    assert {(p.origin, p.height, p.width) for p in parts} == {((0, 0), 30, 30)}


def test_what_lies_between_is_told(caplog: pytest.LogCaptureFixture) -> None:
    grids = {"large": grid(0.0, 1000.0, 1000, 1000), "tiny": grid(99.0, 902.0, 4, 4)}
    with caplog.at_level(logging.INFO):
        parts = cut(grids, section(buffer=10))
    kept = sum(p.height * p.width for p in parts)
    assert f"{100 - 100 * kept / 1_000_016:.1f}% of the pixels lie between splits" in caplog.text
    if not any(p.scene == "tiny" for p in parts):
        assert "1 scenes lie between splits and belong to none: tiny" in caplog.text


def test_south_up_and_mirrored_scenes_are_cut_alike() -> None:
    upright = grid(0.0, 500.0, 500, 500)
    flipped = Grid(500, 500, UTM, (-1.0, 0.0, 500.0, 0.0, 1.0, 0.0))
    ours, theirs = cut({"s": upright}, section(buffer=4)), cut({"s": flipped}, section(buffer=4))
    turned = {
        (500 - p.origin[0] - p.height, 500 - p.origin[1] - p.width, p.height, p.width, p.split, p.group) for p in theirs
    }
    assert {(*p.origin, p.height, p.width, p.split, p.group) for p in ours} == turned


def test_fractions_of_a_pixel_belong_to_no_two_splits() -> None:
    """Two scenes of one place on shifted grids: where one has test, the other has no training pixel."""
    grids = {"a": grid(0.0, 500.0, 500, 500), "b": grid(0.37, 500.21, 620, 620, pixel=0.8)}
    parts = cut(grids, section())
    boxes: dict[str, list[tuple[float, float, float, float]]] = {"train": [], "test": [], "val": []}
    for part in parts:
        x, y = grids[part.scene].position(*part.origin)
        x1, y1 = grids[part.scene].position(part.origin[0] + part.height, part.origin[1] + part.width)
        boxes[part.split].append((x, y1, x1, y))
    for ours, theirs in itertools.combinations(boxes.values(), 2):
        for a, b in itertools.product(ours, theirs):
            assert min(a[2], b[2]) - max(a[0], b[0]) < 1e-6 or min(a[3], b[3]) - max(a[1], b[1]) < 1e-6


def test_without_a_crs_blocks_are_in_pixels_of_each_scene() -> None:
    grids = {i: Grid(300, 300) for i in "abcdefgh"}
    parts = cut(grids, section(block=100.0, buffer=2))
    assert len({p.group for p in parts}) == 72
    layouts = [{(p.origin, p.split) for p in parts if p.scene == i} for i in grids]
    assert any(a != b for a, b in itertools.combinations(layouts, 2))


def test_turned_scenes_stay_whole_or_are_refused() -> None:
    turned = Grid(20, 20, UTM, (0.8, 0.6, 20.0, 0.6, -0.8, 20.0))
    away = {f"s{i}": grid(1000.0 * i, 5000.0, 300, 300) for i in range(3)}
    (part,) = (p for p in cut({"turned": turned, **away}, section()) if p.scene == "turned")
    assert (part.id, part.origin, part.height, part.width) == ("turned", (0, 0), 20, 20)
    large = Grid(400, 400, UTM, (0.8, 0.6, 20.0, 0.6, -0.8, 20.0))
    with pytest.raises(ManifestError, match="1 scenes lie turned in their CRS and over blocks of two splits: turned"):
        cut({"turned": large, **away}, section())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block": 10.0, "buffer": 8},
            r"data\.split\.block: 10 are 10 pixels of scene a, which does not leave min_side 4",
        ),
        ({"block": 10_000.0}, "1 group cannot be divided into test, val, train"),
    ],
)
def test_blocks_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        cut({"a": grid(10.0, 300.0, 200, 200)}, section(**changes))


def test_overlapping_scenes_in_two_crs_are_refused() -> None:
    """Zones 32 and 33 about 12 degrees east: the same ground, other blocks."""
    west = Grid(300, 300, "EPSG:32632", (100.0, 0.0, 690_000.0, 0.0, -100.0, 5_330_000.0))
    east = Grid(300, 300, "EPSG:32633", (100.0, 0.0, 260_000.0, 0.0, -100.0, 5_330_000.0))
    split = section(block=5_000.0)
    with pytest.raises(ManifestError, match="in several CRS, whose blocks overlap"):
        cut({"west": west, "east": east}, split)
    away = Grid(300, 300, "EPSG:32633", (100.0, 0.0, 560_000.0, 0.0, -100.0, 5_330_000.0))
    assert {p.scene for p in cut({"west": west, "away": away}, split)} == {"west", "away"}
