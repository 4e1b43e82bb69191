"""Shifted labels over whole sets: a shift that most scenes show is told, what looks like one is only worth a look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import doctor_worlds as made
from pipeline.data import doctor
from pipeline.data.doctor import checks_labels, gather
from tests.factory import recipe_for


def shifts(folder: Path, scene: Callable, label: Callable) -> list[doctor.Finding]:
    made.make(folder, scene, label=label)
    seen = gather.gather(recipe_for(folder, **{"data.labels": "labels/{id}.tif"}), None)
    return [f for f in checks_labels.findings(seen) if f.kind == "shifted_labels"]


def wide(mask: np.ndarray, _: int = 0) -> np.ndarray:
    return cv2.dilate(mask, np.ones((5, 5), np.uint8))


def wide_and_off(mask: np.ndarray, number: int) -> np.ndarray:
    return np.roll(wide(mask), tuple(np.random.default_rng(number).integers(-2, 3, 2)), (0, 1))


@pytest.mark.parametrize("label", [lambda m, _: m, wide, wide_and_off], ids=["exact", "wide", "wide and off"])
@pytest.mark.parametrize("scene", [made.roads, made.buildings])
def test_no_move_is_advised_where_labels_are_only_wide(tmp_path: Path, scene: Callable, label: Callable) -> None:
    found = shifts(tmp_path, scene, label)
    assert all("move the labels" not in f.fix and f.severity != "error" for f in found)
    if label not in (wide, wide_and_off):
        assert found == []


@pytest.mark.parametrize("scene", [made.roads, made.buildings])
@pytest.mark.parametrize(("rows", "cols"), [(4, -3), (-6, 6), (0, 5)])
def test_a_shift_of_all_scenes_is_told_with_the_move(tmp_path: Path, scene: Callable, rows: int, cols: int) -> None:
    (finding,) = shifts(tmp_path, scene, lambda m, _: np.roll(m, (rows, cols), (0, 1)))
    assert f"{abs(cols)} pixels {'left' if cols > 0 else 'right'}" in finding.fix
    assert (f"{abs(rows)} pixels {'up' if rows > 0 else 'down'}" in finding.fix) == bool(rows)
    assert finding.severity == "error" and len(finding.scenes) >= 7


def test_one_shifted_scene_among_many_is_only_worth_a_look(tmp_path: Path) -> None:
    (finding,) = shifts(tmp_path, made.buildings, lambda m, n: np.roll(m, 5, 1) if n == 4 else m)
    assert finding.scenes == ("s04",) and finding.severity == "warning"
    assert "move the labels" not in finding.fix and finding.fix.startswith("look at")
