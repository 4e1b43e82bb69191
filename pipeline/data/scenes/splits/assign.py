"""Assign scenes to splits: by a table, a hash of the group, folds, or blocks of ground."""

from __future__ import annotations

import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline import store
from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes import csv_tables
from pipeline.data.scenes.scene import Scene
from pipeline.data.scenes.splits import hash_split, overlap, spatial_blocks
from pipeline.data.scenes.splits.overlap import Overlap, Place
from pipeline.data.scenes.splits.spatial_blocks import ScenePart
from pipeline.errors import ManifestError
from pipeline.recipe import Data
from pipeline.recipe.sampling import BlocksSplit, FoldsSplit, HashSplit, TableSplit
from pipeline.text import some

__all__ = ["SPLITS", "Overlap", "ScenePart", "assign", "divide", "overlaps"]

logger = logging.getLogger(__name__)

SPLITS: Final = ("train", "val", "test")
_FAR: Final = 0.05


def assign(ids: Sequence[str], data: Data, kept: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Split and group of every scene.

    Args:
        ids: of the scenes.
        data: says how they are divided.
        kept: of a split by hash, the splits that groups had in the manifest before.

    Raises:
        ManifestError: the table is missing, incomplete or has unknown splits; a scene has no group; there are fewer
            groups than splits.
    """
    section = data.split
    if isinstance(section, TableSplit):
        return _by_table(ids, data.root, section)
    if isinstance(section, BlocksSplit):
        raise TypeError("blocks divide scenes by their grids; use divide()")
    groups = {i: i for i in ids} if section.group is None else _groups(ids, section.group)
    if section.groups is not None:
        groups |= _listed_groups(ids, data.root, section.groups)
    names = sorted(set(groups.values()))
    if isinstance(section, FoldsSplit):
        split_of = hash_split.by_fold(names, section)
    else:
        split_of = hash_split.met(names, section, kept or {})
    return {i: (split_of[group], group) for i, group in groups.items()}


def divide(grids: Mapping[str, Grid], data: Data) -> list[ScenePart]:
    """Divide scenes into parts that each belong to one split: whole scenes, except for blocks of ground.

    Args:
        grids: of the scenes, by id.
        data: says how they are divided.

    Raises:
        ManifestError: as `assign`; or blocks are too small, scenes lie turned, or several CRS overlap.
    """
    if isinstance(data.split, BlocksSplit):
        return spatial_blocks.cut(grids, data.split)
    assigned = assign(list(grids), data)
    return [ScenePart.whole(i, grids[i], *assigned[i]) for i in sorted(grids)]


def far_off(split_of: Sequence[str], data: Data) -> list[str]:
    """Warnings where splits hold far more or fewer scenes than their shares.

    Args:
        split_of: of every scene.
        data: says what shares are asked for.
    """
    section, total = data.split, len(split_of)
    if not isinstance(section, HashSplit):
        return []
    said = []
    for name in ("val", "test"):
        asked, found = getattr(section, name), split_of.count(name)
        if abs(found - asked * total) > max(1.0, _FAR * total):
            said.append(
                f"{name} has {found} of {total} scenes ({found / total:.0%}), data.split.{name} asks for {asked:.0%}: "
                "groups are few, of unequal size, or keep their split; another data.split.seed divides again"
            )
    return said


def overlaps(scenes: Sequence[Scene]) -> list[Overlap]:
    """Pairs of scenes in different splits that share ground, pixels of one file, or all of their content; sorted."""
    places = [Place.of(s.id, s.split, s.grid, s.image, s.origin) for s in scenes]
    found = overlap.shared(places)
    known = {(o.first, o.second) for o in found}
    by_stamp: defaultdict[str, list[Scene]] = defaultdict(list)
    for scene in sorted(scenes, key=lambda s: s.id):
        if scene.stamp:
            by_stamp[scene.stamp].append(scene)
    for alike in by_stamp.values():
        for a, b in itertools.combinations(alike, 2):
            # Parts of one file have its stamp, and are compared by where they lie.
            if a.split != b.split and a.image != b.image and (a.id, b.id) not in known:
                found.append(Overlap(a.id, b.id, (a.split, b.split), "content", 1.0))
    return sorted(found, key=lambda o: (o.first, o.second))


def _by_table(ids: Sequence[str], root: str, section: TableSplit) -> dict[str, tuple[str, str]]:
    uri = store.join(root, section.path)
    rows, problems = _read_table(uri, section), []
    missing = [i for i in ids if i not in rows]
    if missing:
        problems.append(f"{len(missing)} of {len(ids)} scenes are not in it: {some(missing)}")
    unknown = sorted({split for split, _ in rows.values()} - set(SPLITS))
    if unknown:
        problems.append(f"splits are {', '.join(SPLITS)}, not {', '.join(map(repr, unknown))}")
    if problems:
        raise ManifestError(f"{uri}: " + "; ".join(problems), f"it needs a row {_header(section)} for every scene")
    unmatched = sorted(set(rows) - set(ids))
    if unmatched:
        logger.warning("%s: %d rows belong to no scene: %s", uri, len(unmatched), some(unmatched))
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for i in ids:
        splits_of[rows[i][1]].add(rows[i][0])
    shared = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if shared:
        # The table is the truth: its groups may be what scores are reported by, such as a modality.
        logger.warning("%s: %d groups are in several splits: %s", uri, len(shared), some(shared))
    return {i: rows[i] for i in ids}


def _read_table(uri: str, section: TableSplit) -> dict[str, tuple[str, str]]:
    table = csv_tables.read(uri, "split table", "data.split.path, or split by hash")
    if not {section.id, section.split} <= set(table.columns):
        found = ", ".join(table.columns) or "nothing"
        raise ManifestError(
            f"{uri}: the columns {section.id} and {section.split} are needed; it has {found}",
            f"add a header line {_header(section)}, or name the columns in data.split",
        )
    rows: dict[str, tuple[str, str]] = {}
    for line, row in table.rows:
        i = (row[section.id] or "").strip()
        entry = ((row[section.split] or "").strip(), (row.get(section.group) or "").strip() or i)
        if rows.setdefault(i, entry) != entry:
            raise ManifestError(f"{uri}, line {line}: {i} is there twice, differently", "keep one of the rows")
    return rows


def _listed_groups(ids: Sequence[str], root: str, path: str) -> dict[str, str]:
    """Groups that a table names, of those scenes that are in it."""
    uri = store.join(root, path)
    table = csv_tables.read(uri, "table of groups", "data.split.groups")
    if not {"id", "group"} <= set(table.columns):
        raise ManifestError(
            f"{uri}: the columns id and group are needed; it has {', '.join(table.columns) or 'nothing'}",
            "add a header line id,group",
        )
    wanted, found = set(ids), dict[str, str]()
    for line, row in table.rows:
        i, group = ((row[key] or "").strip() for key in ("id", "group"))
        if i in wanted and (not group or found.setdefault(i, group) != group):
            problem = "has no group" if not group else "is there twice, differently"
            raise ManifestError(f"{uri}, line {line}: {i} {problem}", "give every scene one group")
    return found


def _header(section: TableSplit) -> str:
    return f"{section.id},{section.split},{section.group}"


def _groups(ids: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ManifestError(f"data.split.group {pattern!r} is no regular expression: {error}", "correct it") from error
    matches = {i: search(i) for i in ids}
    groups = {i: (m[1] if m.re.groups else m[0]) for i, m in matches.items() if m is not None}
    missing = [i for i in ids if not groups.get(i)]
    if missing:
        raise ManifestError(
            f"data.split.group {pattern!r} finds no group in {len(missing)} of {len(ids)} ids: {some(missing)}",
            "let the expression match every id",
        )
    return groups
