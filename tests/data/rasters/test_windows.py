import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.rasters import windows
from pipeline.data.rasters.windows import Window, cover, nearest, num_starts, start, starts

lengths = st.integers(1, 120)
sizes = st.integers(1, 70)
overlaps = st.floats(0, 0.95)


@given(lengths, lengths, sizes, overlaps)
def test_every_pixel_is_covered(height, width, size, overlap):
    seen = np.zeros((height, width), int)
    for w in cover(height, width, size, overlap):
        assert (w.height, w.width) == (size, size)
        assert w.row >= 0 and w.col >= 0
        assert height < size or w.row + size <= height
        assert width < size or w.col + size <= width
        seen[w.row : w.row + size, w.col : w.col + size] += 1
    assert seen.all()


@given(lengths, sizes, overlaps)
def test_windows_share_at_least_the_overlap_and_end_flush(length, size, overlap):
    first = starts(length, size, overlap)
    assert first == sorted(set(first)) and first[0] == 0
    assert first[-1] == max(0, length - size)
    stride = max(1, round(size * (1 - overlap)))
    assert all(b - a <= stride for a, b in itertools.pairwise(first))


def test_rows_come_in_order_and_none_twice():
    windows = list(cover(1000, 700, 256, 0.25))
    assert windows == sorted(set(windows))
    assert windows[1] == Window(0, 192, 256, 256)
    assert windows[-1] == Window(744, 444, 256, 256)


def test_without_overlap_an_exact_multiple_is_cut_into_disjoint_windows():
    assert starts(512, 128, 0) == [0, 128, 256, 384]


def test_a_scene_smaller_than_the_window_gives_one_that_reaches_outside():
    assert list(cover(10, 300, 256, 0)) == [Window(0, 0, 256, 256), Window(0, 44, 256, 256)]
    assert list(cover(10, 20, 256, 0.5)) == [Window(0, 0, 256, 256)]


@given(lengths, sizes, overlaps)
def test_starts_can_be_computed_one_by_one(length, size, overlap):
    count = num_starts(length, size, overlap)
    assert [start(position, length, size, overlap) for position in range(count)] == starts(length, size, overlap)


@given(st.integers(-300, 300), sizes, lengths)
def test_the_nearest_interval_inside(first, size, length):
    inside = [0] if length <= size else range(length - size + 1)
    assert nearest(first, size, length) == min(inside, key=lambda start: abs(start - first))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 30), st.integers(1, 30), st.integers(1, 3))
def test_divide_makes_up_the_scene(height: int, width: int, rows: int, cols: int, slices: int) -> None:
    times = np.zeros((slices, height, width), int)
    found = list(windows.divide(height, width, rows, cols, slices))
    for row, col, tall, wide, level in found:
        assert 0 < tall <= rows and 0 < wide <= cols
        assert times[level, row : row + tall, col : col + wide].shape == (tall, wide)
        times[level, row : row + tall, col : col + wide] += 1
    assert (times == 1).all()
    assert len(found) == windows.num_windows(height, width, rows, cols, slices)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_spread_takes_one_of_each_run(total: int, count: int) -> None:
    found = windows.spread(total, count)
    assert len(found) == min(total, count)
    assert found == sorted(found) and found[0] >= 0 and found[-1] < total
    assert total % len(found) or len(set(found)) == len(found)
    run = total / len(found)
    assert all(int(k * run) <= number <= (k + 1) * run for k, number in enumerate(found))
