"""Shifts of labels: a known one is found, none is not, and where nobody can tell, nothing is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.doctor import label_shift
from pipeline.data.doctor.label_shift import REACH, Surface
from pipeline.data.labels.classes import IGNORE


def blobs(seed: int, size: int = 256) -> np.ndarray:
    """Some rectangles of class 1 on class 0."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(14):
        row, col = rng.integers(0, size - 30, 2)
        height, width = rng.integers(10, 30, 2)
        mask[row : row + height, col : col + width] = 1
    return mask


def seen(mask: np.ndarray, seed: int) -> np.ndarray:
    """Three noisy bands that show the mask."""
    noise = np.random.default_rng(seed).normal(0, 12, (3, *mask.shape))
    return (100 + 40 * mask + noise).clip(0, 255).astype(np.uint8)


def halves(rows: int, cols: int, *, log_values: bool = True) -> list[Surface]:
    found = []
    for seed in (1, 2):
        mask = blobs(seed)
        image = seen(mask if log_values else blobs(seed + 100), seed)
        moved = np.roll(mask, (rows, cols), (0, 1))
        found.append(label_shift.surface(image, np.ones(mask.shape, bool), moved))
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


@settings(max_examples=12, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9))
def test_a_shift_is_found_whatever_its_direction(rows: int, cols: int) -> None:
    shift = label_shift.suspect(halves(rows, cols))
    if max(abs(rows), abs(cols)) < 2 and np.hypot(rows, cols) < 2:
        assert shift is None
    elif np.hypot(rows, cols) >= 3:
        assert shift is not None, "the label lies beside"
        assert abs(shift.rows + rows) <= 1 and abs(shift.cols + cols) <= 1, "where the label must be moved to"
        assert shift.gain > 1.1


def test_a_label_of_something_else_is_no_shift() -> None:
    assert label_shift.suspect(halves(5, 0, log_values=False)) is None


def test_halves_that_disagree_are_no_evidence() -> None:
    one, other = halves(6, 0)[0], halves(-6, 0)[1]
    assert label_shift.suspect([one, other]) is None


def test_the_surface_is_the_change_under_the_edges() -> None:
    mask = blobs(3)
    image, valid = seen(mask, 3), np.ones(mask.shape, bool)
    surface = label_shift.surface(image, valid, mask)
    assert surface is not None
    change, edges = label_shift.change(image, valid), label_shift.label_edges(mask)
    rows, cols = np.nonzero(edges)
    inside = (rows >= REACH) & (rows < 256 - REACH) & (cols >= REACH) & (cols < 256 - REACH)
    rows, cols = rows[inside], cols[inside]
    assert surface[1] == len(rows)
    for down, right in ((0, 0), (3, -4), (-REACH, REACH)):
        expected = change[rows + down, cols + right].sum()
        assert surface[0][REACH + down, REACH + right] == pytest.approx(expected, rel=1e-6)


def test_ignored_and_invalid_borders_are_no_edges() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = IGNORE
    assert not label_shift.label_edges(mask).any()
    valid = np.ones((128, 128), bool)
    valid[:, 64:] = False
    image = np.where(valid, 200, 0).astype(np.uint8)[None]
    assert not label_shift.change(image, valid).any(), "the edge of what was measured is no edge of what is seen"
    assert label_shift.surface(image, valid, mask) is None


def test_small_windows_and_empty_ones_say_nothing() -> None:
    mask = blobs(0)[:40, :40]
    assert label_shift.surface(seen(mask, 0), np.ones(mask.shape, bool), mask) is None
    assert label_shift.surface(seen(blobs(0), 0), np.zeros((256, 256), bool), blobs(0)) is None
    assert label_shift.suspect([]) is None
