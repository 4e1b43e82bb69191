"""The index of what masks hold, against looking at the masks themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.chips.sampling import class_index_build
from pipeline.data.chips.sampling.class_index import Presence, Runs, cell_for
from pipeline.data.chips.sampling.class_index_file import to_bytes
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import Foreground, Uniform
from tests.data.scenes.masks_world import World, blobs

WORLD = World([blobs(70, 90, 1), blobs(33, 200, 2), blobs(20, 20, 3, slices=3), blobs(1, 1, 4)])


def cells_of(runs: Runs) -> list[int]:
    return [runs.cell(rank) for rank in range(runs.total)]


def by_looking(world: World, presence: Presence, holds) -> list[int]:
    """Numbers of the cells whose pixels pass, by looking at each."""
    found = []
    for number in range(int(presence.offsets[-1])):
        scene, cell = presence.rectangle(number)
        if holds(world.read(world.scenes[scene], cell)):
            found.append(number)
    return found


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 100))
@settings(deadline=None)
def test_runs_know_their_cells(held: list[bool], first: int) -> None:
    runs = Runs.of(np.array(held, bool), first)
    cells = [first + i for i, h in enumerate(held) if h]
    assert cells_of(runs) == cells
    asked = np.arange(max(0, first - 3), first + len(held) + 3)
    assert runs.ranks(asked).tolist() == [sum(c < a for c in cells) for a in asked]


def test_rectangles_divide_the_scenes() -> None:
    presence = WORLD.presence(16)
    seen = [np.zeros((s.slices, s.height, s.width), int) for s in WORLD.scenes]
    for number in range(int(presence.offsets[-1])):
        scene, cell = presence.rectangle(number)
        seen[scene][cell.slice, cell.row : cell.row + cell.height, cell.col : cell.col + cell.width] += 1
    assert all((pixels == 1).all() for pixels in seen)


@pytest.mark.parametrize("cell", [1, 8, 64, 128])
def test_cells_hold_what_masks_hold(cell: int) -> None:
    presence = WORLD.presence(cell)
    for k in range(3):
        assert cells_of(presence.classes[k]) == by_looking(WORLD, presence, lambda mask, k=k: (mask == k).any())
    assert cells_of(presence.foreground) == by_looking(WORLD, presence, lambda mask: np.isin(mask, (1, 2)).any())
    assert cells_of(presence.valid) == by_looking(WORLD, presence, lambda mask: (mask != IGNORE).any())
    assert presence.valid_pixels.tolist() == [(m != IGNORE).sum() for m in WORLD.masks.values()]


def test_of_multilabel_data_any_class_is_foreground() -> None:
    planes = np.zeros((1, 2, 40, 40), np.uint8)
    planes[0, 0, 3, 3] = planes[0, 1, 30, 30] = 1
    planes[0, 0, 8:16, 8:16] = planes[0, :, 24:, :8] = IGNORE
    world = World([planes])
    presence = world.presence(8, num_classes=2)
    assert [cells_of(runs) for runs in presence.classes] == [[0], [18]]
    assert cells_of(presence.foreground) == [0, 18]
    assert presence.valid_pixels.tolist() == [1600 - 16 * 8]


def test_pieces_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = WORLD.presence(8)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(class_index_build, "_PIECE_PIXELS", 16)
    assert WORLD.presence(8, progress=lambda done, total: calls.append((done, total))).valid_pixels.tolist() == (
        whole.valid_pixels.tolist()
    )
    pieces = WORLD.presence(8)
    for ours, theirs in zip((*pieces.classes, pieces.foreground), (*whole.classes, whole.foreground), strict=True):
        assert cells_of(ours) == cells_of(theirs)
    assert calls == [(i, len(calls)) for i in range(1, len(calls) + 1)]
    for scene, shape in enumerate(WORLD.shapes):
        window = Window(0, 0, *shape[:2])
        assert pieces.valid_share(scene, window) == whole.valid_share(scene, window)


@given(
    st.integers(0, 2), st.integers(-50, 100), st.integers(-50, 210), st.integers(1, 90), st.integers(1, 90), st.data()
)
@settings(max_examples=200, deadline=None)
def test_cells_of_one_pixel_know_the_valid_share(
    scene: int, row: int, col: int, height: int, width: int, data: st.DataObject
) -> None:
    rows, cols, slices = WORLD.shapes[scene]
    window = Window(row, col, height, width, data.draw(st.integers(0, slices - 1)))
    mask = WORLD.masks[f"s{scene}"][window.slice]
    part = mask[max(0, row) : max(0, min(rows, row + height)), max(0, col) : max(0, min(cols, col + width))]
    expected = (part != IGNORE).mean() if part.size else 0.0
    assert PIXELS.valid_share(scene, window) == pytest.approx(expected)


PIXELS = WORLD.presence(1)


@given(st.integers(1, 64), st.integers(0, 69), st.integers(0, 89))
@settings(max_examples=100, deadline=None)
def test_coarse_cells_know_it_about(size: int, row: int, col: int) -> None:
    """No more wrong than by the cells on the edge of the window."""
    window = Window(row, col, size, size)
    edge = (2 * (size + 16) * 16) / (min(size, 70 - row) * min(size, 90 - col))
    assert abs(COARSE.valid_share(0, window) - PIXELS.valid_share(0, window)) <= edge + 1 / 255


COARSE = WORLD.presence(8)


def test_shares_of_many_windows_are_those_of_each() -> None:
    rows, cols = np.array([0, 5, 6]), np.array([0, 3, 150])
    for scene, (_, _, slices) in enumerate(WORLD.shapes[:3]):
        rows, cols = np.minimum(rows, 3), np.minimum(cols, 9)
        shares = COARSE.valid_shares_of(np.array([scene]), rows, cols, 17)
        assert shares.shape == (1, slices, 3, 3)
        for (_, level, i, j), share in np.ndenumerate(shares):
            window = Window(int(rows[i]), int(cols[j]), 17, 17, level)
            assert share == pytest.approx(COARSE.valid_share(scene, window))


def test_a_part_of_a_cell_is_never_rounded_away_nor_up() -> None:
    mask = np.full((1, 64, 128), IGNORE, np.uint8)
    mask[0, 0, 0] = 0
    mask[0, :, 64:] = 0
    mask[0, 5, 100] = IGNORE
    presence = World([mask]).presence(64)
    assert presence.valid_shares.tolist() == [1, 254]


def test_merged_is_what_is_built_at_once() -> None:
    first, second = World(list(WORLD.masks.values())[:2]), World(list(WORLD.masks.values())[2:])
    merged = Presence.merged([first.presence(), second.presence()])
    whole = WORLD.presence()
    assert to_bytes(merged) == to_bytes(replace(whole, ids=("s0", "s1", "s0", "s1")))


def test_it_is_made_once(tmp_path: Path) -> None:
    reads = []

    def read(scene, window):
        reads.append(scene.id)
        return WORLD.read(scene, window)

    def current(scenes=WORLD.scenes, size=32):
        return class_index_build.current(str(tmp_path), "d" * 64, scenes, Foreground(size=size), read, num_classes=3)

    made = current()
    assert len(reads) == 6
    again = current()
    assert len(reads) == 6
    assert to_bytes(again) == to_bytes(made) and again.ids == made.ids
    assert current(size=512).cell == 128 and len(reads) == 12
    with pytest.raises(ManifestError, match=r"presence-16\.npz is of other scenes or classes"):
        current(WORLD.scenes[:2])
    path = next(tmp_path.glob("*-16.npz"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ManifestError, match=r"presence-16\.npz is damaged"):
        current()


@given(st.integers(1, 3000), st.floats(0.1, 1))
def test_cells_fit_into_windows(size: int, low: float) -> None:
    if round(size * low) < 1:
        return
    sampling = Uniform(size=size, scale=(low, 2.0))
    cell = cell_for(sampling)
    assert cell & (cell - 1) == 0
    assert 1 <= cell <= sampling.smallest
    assert cell >= min(128, sampling.smallest // 8)
