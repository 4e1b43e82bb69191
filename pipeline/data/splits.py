"""Splits: which scenes train, which validate, which test. By a delivered table, or by a hash of the group."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from pipeline import store
from pipeline.data.scenes import some
from pipeline.errors import ManifestError
from pipeline.recipe import Data
from pipeline.recipe.sampling import HashSplit, TableSplit

logger = logging.getLogger(__name__)

SPLITS: Final = ("train", "val", "test")


def assign(ids: Sequence[str], data: Data) -> dict[str, tuple[str, str]]:
    """Split and group of every scene.

    Raises:
        ManifestError: the table is missing, incomplete or has unknown splits; a scene has no group; there are fewer
            groups than splits.
    """
    if isinstance(data.split, TableSplit):
        return _by_table(ids, data.root, data.split)
    return _by_hash(ids, data.split)


def _by_table(ids: Sequence[str], root: str, section: TableSplit) -> dict[str, tuple[str, str]]:
    uri = store.join(root, section.path)
    rows, problems = _read_table(uri), []
    missing = [i for i in ids if i not in rows]
    if missing:
        problems.append(f"{len(missing)} of {len(ids)} scenes are not in it: {some(missing)}")
    unknown = sorted({split for split, _ in rows.values()} - set(SPLITS))
    if unknown:
        problems.append(f"splits are {', '.join(SPLITS)}, not {', '.join(map(repr, unknown))}")
    if problems:
        raise ManifestError(f"{uri}: " + "; ".join(problems), "it needs a row id,split,group for every scene")
    spare = sorted(set(rows) - set(ids))
    if spare:
        logger.warning("%s: %d rows belong to no scene: %s", uri, len(spare), some(spare))
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for i in ids:
        splits_of[rows[i][1]].add(rows[i][0])
    shared = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if shared:
        # The table is the truth: its groups may be what scores are reported by, such as a modality.
        logger.warning("%s: %d groups are in several splits: %s", uri, len(shared), some(shared))
    return {i: rows[i] for i in ids}


def _read_table(uri: str) -> dict[str, tuple[str, str]]:
    try:
        text = store.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            f"the split table {uri} does not exist", "correct data.split.path, or split by hash"
        ) from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{uri} is not a CSV file in UTF-8 ({error.reason})", "save it as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not {"id", "split"} <= set(columns):
        found = ", ".join(columns) or "nothing"
        raise ManifestError(
            f"{uri}: the columns id and split are needed; it has {found}", "add a header line id,split,group"
        )
    reader.fieldnames = columns
    rows: dict[str, tuple[str, str]] = {}
    for row in reader:
        i = (row["id"] or "").strip()
        entry = ((row["split"] or "").strip(), (row.get("group") or "").strip() or i)
        if rows.setdefault(i, entry) != entry:
            raise ManifestError(
                f"{uri}, line {reader.line_num}: {i} is there twice, differently", "keep one of the rows"
            )
    return rows


def _by_hash(ids: Sequence[str], section: HashSplit) -> dict[str, tuple[str, str]]:
    groups = {i: i for i in ids} if section.group is None else _groups(ids, section.group)
    split_of = _divide({group: _unit(group) for group in groups.values()}, section)
    return {i: (split_of[group], group) for i, group in groups.items()}


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


def _unit(group: str) -> float:
    """A number in [0, 1) that is a function of the group's name alone."""
    return int.from_bytes(blake2b(group.encode(), digest_size=7).digest(), "big") / 2**56


def _divide(positions: Mapping[str, float], section: HashSplit) -> dict[str, str]:
    """Cut the unit interval into test, val, train. A group's split depends on no other group, so that it stays when
    scenes are added; except that of few groups, one is moved to where there would be none.
    """
    ends = {"test": section.test, "val": section.test + section.val, "train": 1.0}
    wanted = [s for s in ("test", "val", "train") if s == "train" or getattr(section, s) > 0]
    if len(positions) < len(wanted):
        raise ManifestError(
            f"{len(positions)} group{'s' if len(positions) > 1 else ''} cannot be divided into {', '.join(wanted)}",
            "add scenes, set data.split.test and data.split.val to 0, or give a finer data.split.group",
        )
    split_of = {group: next(s for s in wanted if at < ends[s]) for group, at in positions.items()}
    for empty in wanted:
        sizes = [list(split_of.values()).count(s) for s in wanted]
        if sizes[wanted.index(empty)] == 0:
            rich = wanted[sizes.index(max(sizes))]
            nearest = min((abs(positions[g] - ends[empty]), g) for g, s in split_of.items() if s == rich)
            split_of[nearest[1]] = empty
    return split_of
