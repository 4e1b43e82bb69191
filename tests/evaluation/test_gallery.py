"""Which windows a report pictures."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.labels.classes import IGNORE
from pipeline.data.scenes.scene import Scene
from pipeline.evaluation.gallery import Gallery, confusion_of, window_score


def scene(height, width):
    return Scene("a", "a.tif", None, "test", "a", height, width, None, (1, 0, 0, 0, 1, 0), "")


def test_planes_are_counted_class_by_class():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 2, (2, 3, 20, 10)).astype(np.uint8)
    truth[1, :5] = IGNORE
    counts = confusion_of(prediction, truth, 3)
    for k in range(3):
        known = truth[k] != IGNORE
        pairs = np.bincount((2 * truth[k] + prediction[k])[known], minlength=4)
        assert counts[k].tolist() == pairs.reshape(2, 2).tolist()
    miou, wrong, mixed = window_score(counts)
    ious = [c[1, 1] / (c.sum() - c[0, 0]) for c in counts]
    assert miou == pytest.approx(np.mean(ious))
    assert wrong == pytest.approx(((truth != prediction) & (truth != IGNORE)).sum() / (truth != IGNORE).sum())
    assert mixed


def test_a_window_without_any_class_is_right_if_none_was_predicted():
    nothing = np.zeros((2, 8, 8), np.uint8)
    assert window_score(confusion_of(nothing, nothing, 2))[0] == 1
    assert window_score(confusion_of(1 - nothing, nothing, 2))[0] == 0


@pytest.mark.parametrize("planes", [0, 2])
def test_windows_are_whole_wherever_strips_end(planes):
    rng = np.random.default_rng(1)
    shape = (planes, 50, 30) if planes else (50, 30)
    truth, prediction = rng.integers(0, 2, (2, *shape)).astype(np.uint8)
    gallery = Gallery(100, 16, 2)
    gallery.begin(scene(50, 30))
    for first, last in [(0, 7), (7, 8), (8, 40), (40, 50)]:
        gallery.add(truth[..., first:last, :], prediction[..., first:last, :])
    best, worst = gallery.chosen()
    found = {c.window: c for c in (*best, *worst)}
    assert len(found) == 4 * 2
    for window, candidate in found.items():
        here = (..., slice(window.row, window.row + window.height), slice(window.col, window.col + window.width))
        assert np.array_equal(candidate.truth, truth[here])
        assert np.array_equal(candidate.prediction, prediction[here])
