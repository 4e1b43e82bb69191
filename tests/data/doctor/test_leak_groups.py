"""Leaks between splits: groups.csv ties what must be together, and with its lines the leak is gone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from bench import doctor_worlds as made
from pipeline.data.doctor.findings import Audit, Finding
from pipeline.recipe import replace
from tests.data.doctor.worlds import audit, kinds, the
from tests.factory import recipe_for

TWO: dict[str, Any] = {"data.classes": [{"name": "ground"}, {"name": "thing"}], "data.ignore_values": []}
LEAKS = {"shared_ground", "shared_content", "near_duplicates"}


def leaking(folder: Path) -> Path:
    """s03 (test) and s04 (train) are one image, s04 and s05 lie on one ground, s07 (test) is a darker s08 (train)."""
    made.make(folder, lambda n: (lambda s: (made.as_bytes(s[0]), s[1]))(made.buildings({4: 3}.get(n, n))))
    image, mask = made.buildings(8)
    made.write(folder / "images/s07.tif", made.as_bytes(image * 0.8 + 9), 7)
    made.write(folder / "labels/s07.tif", mask, 7)
    image, mask = made.buildings(5)
    made.write(folder / "images/s05.tif", made.as_bytes(image), 4)
    made.write(folder / "labels/s05.tif", mask, 4)
    return folder


def with_lines(found: Audit, finding: Finding) -> dict[str, Any]:
    return {"data.split": YAML(typ="safe").load(finding.command)["data"]["split"]}


def groups(folder: Path) -> dict[str, str]:
    with (folder / "report" / "groups.csv").open() as file:
        return {row["id"]: row["group"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("split", [{"kind": "table"}, {"kind": "hash", "test": 0.5}, {"kind": "folds", "folds": 3}])
def test_with_the_lines_the_leak_is_gone(tmp_path: Path, split: dict[str, Any]) -> None:
    leaking(tmp_path)
    found = audit(tmp_path, **TWO, **{"data.split": split})
    leaks = [f for f in found.findings if f.kind in LEAKS]
    assert leaks and all(str(tmp_path / "report" / "groups.csv") in f.command for f in leaks)
    of = groups(tmp_path)
    assert of["s03"] == of["s04"] == of["s05"] and of["s07"] == of["s08"] and len(set(of.values())) == 9
    again = audit(tmp_path, **TWO, **with_lines(found, leaks[0]))
    assert not kinds(again) & LEAKS
    assert set(again.splits) == {"train", "test"} and sum(s["scenes"] for s in again.splits.values()) == 12


def test_scenes_that_are_added_are_groups_of_their_own(tmp_path: Path) -> None:
    made.make(tmp_path, made.buildings, scenes=4)
    (tmp_path / "groups.csv").write_text("id,group\ns00,a\ns01,a\n")
    split = {"kind": "hash", "test": 0.3, "groups": "groups.csv"}
    found = audit(tmp_path, **TWO, **{"data.split": split})
    assert {s.id: s.group for s in found.scenes} == {"s00": "a", "s01": "a", "s02": "s02", "s03": "s03"}
    (tmp_path / "groups.csv").write_text("name,group\ns00,a\n")
    assert "columns id and group" in the(audit(tmp_path, **TWO, **{"data.split": split}), "scenes").what


def test_the_key_is_part_of_the_recipe(tmp_path: Path) -> None:
    given = replace(recipe_for(tmp_path), {"data.split": {"kind": "hash", "groups": "a.csv"}})
    assert given.data.split.groups == "a.csv" and np.isfinite(given.data.split.test)
