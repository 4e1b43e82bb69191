"""The windows of a grid, against judging each of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.chips.sampling import grid_windows, window_draw
from pipeline.data.chips.sampling.class_index import Presence
from pipeline.data.chips.sampling.grid_windows import WindowGrid
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window, cover
from pipeline.recipe.sampling import GridSampling
from tests.data.scenes.masks_world import World, blobs

SHAPES = [(90, 70, 1), (40, 40, 3), (90, 70, 1), (8, 200, 1), (90, 70, 1), (40, 40, 3), (1, 1, 1)]


def world(seed: int) -> World:
    """Some scenes of the same shape, some wholly valid, one wholly not."""
    random = np.random.default_rng(seed)
    masks = []
    for number, (height, width, slices) in enumerate(SHAPES):
        mask = blobs(height, width, seed + number, slices) % IGNORE
        if number % 3:
            row, col = random.integers(0, height), random.integers(0, width)
            mask[:, row : row + height // 2 + 1, col : col + width // 2 + 1] = IGNORE
        masks.append(mask)
    masks[4][:] = IGNORE
    return World(masks)


def by_judging(presence: Presence, sampling: GridSampling, scene: int) -> list[Window]:
    height, width, slices = SHAPES[scene]
    every = [w._replace(slice=s) for s in range(slices) for w in cover(height, width, sampling.size, sampling.overlap)]
    return [w for w in every if presence.valid_share(scene, w) >= sampling.min_valid]


@given(st.integers(0, 50), st.integers(8, 60), st.floats(0.01, 1), st.floats(0, 0.8), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_windows_that_are_kept_are_those_that_are_valid_enough(
    seed: int, size: int, least: float, overlap: float, cells: int
) -> None:
    scenes = world(seed)
    presence, sampling = scenes.presence(8), GridSampling(size=size, min_valid=least, overlap=overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_windows, "_CELLS_AT_ONCE", cells)
        found = WindowGrid.of(window_draw.table(SHAPES), sampling, presence)
    for scene, (height, width, _) in enumerate(SHAPES):
        kept = [found.window(height, width, found.number(scene, i)) for i in range(found.counts[scene])]
        assert kept == by_judging(presence, sampling, scene)


def test_all_windows_are_kept_where_all_is_valid() -> None:
    presence = World([np.zeros((slices, h, w), np.uint8) for h, w, slices in SHAPES]).presence(8)
    sampling = GridSampling(size=20, min_valid=0.9)
    with_index, without = (WindowGrid.of(window_draw.table(SHAPES), sampling, index) for index in (presence, None))
    assert with_index.kept is None and without.kept is None
    assert with_index.counts.tolist() == without.counts.tolist() == [20, 12, 20, 10, 20, 12, 1]
    assert with_index.number(1, 7) == 7


def test_scenes_that_are_valid_take_no_memory() -> None:
    """Windows of scenes that follow each other are one run."""
    masks = [np.zeros((1, 64, 64), np.uint8) for _ in range(50)]
    masks[20][0, :32] = IGNORE
    found = WindowGrid.of(np.full((50, 3), (64, 64, 1)), GridSampling(size=16, min_valid=0.5), World(masks).presence(8))
    assert found.kept is not None
    assert found.kept.runs.starts.tolist() == [0, 20 * 16 + 8]
    assert found.counts.sum() == found.kept.runs.total == 49 * 16 + 8
