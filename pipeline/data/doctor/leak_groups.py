"""groups.csv: scenes that must be in one split, because they share ground or content, as connected components."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pipeline import store
from pipeline.data.doctor.findings import Entry
from pipeline.data.doctor.gather import Gathered
from pipeline.data.doctor.near_duplicates import Pair
from pipeline.data.scenes.splits.assign import SPLITS
from pipeline.recipe.sampling import BlocksSplit, FoldsSplit, HashSplit, TableSplit
from pipeline.uris import absolute

GROUPS_NAME: Final = "groups.csv"


def table(entries: Sequence[Entry], pairs: Iterable[Pair]) -> str:
    """CSV with id, split and group of every scene: connected scenes have one group, and groups that they tie are one.

    The split is that of most scenes of the group; a split that would be left without scenes keeps its largest share.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    # Groups may be reported by (a modality), and be in two splits on purpose: only those within one split are kept.
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for e in entries:
        splits[e.group].add(e.split)
    own = {e.id: f"group {e.group}" if len(splits[e.group]) == 1 else f"scene {e.id}" for e in entries}
    for pair in pairs:
        first, second = sorted((top(own[pair.first]), top(own[pair.second])))
        above[second] = first
    group_of = {e.id: top(own[e.id]) for e in entries}
    split_of = _splits(entries, group_of)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("id", "split", "group"))
    for e in sorted(entries, key=lambda e: e.id):
        group = group_of[e.id]
        writer.writerow((e.id, split_of[group], group.partition(" ")[2]))
    return out.getvalue()


def _splits(entries: Sequence[Entry], group_of: Mapping[str, str]) -> dict[str, str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for e in entries:
        counts[group_of[e.id]][e.split] += 1
    split_of = {g: max(SPLITS, key=lambda split: (of[split], split == "train")) for g, of in counts.items()}
    for split in sorted({e.split for e in entries}):
        if split not in split_of.values():
            candidates = [g for g in counts if list(split_of.values()).count(split_of[g]) > 1]
            if candidates:
                split_of[max(candidates, key=lambda g: (counts[g][split], -counts[g].total(), g))] = split
    return split_of


def command(seen: Gathered, uri: str) -> str:
    """The lines of the recipe that use the table; empty where scenes are parts that blocks of ground cut."""
    section, path = seen.recipe.data.split, json.dumps(absolute(uri))
    if isinstance(section, TableSplit):
        return f"data:\n  split: {{kind: table, path: {path}}}"
    if isinstance(section, (HashSplit, FoldsSplit)):
        given = section.model_dump(exclude_defaults=True, exclude={"kind", "groups"})
        others = "".join(f", {key}: {json.dumps(value)}" for key, value in given.items())
        return f"data:\n  split: {{kind: {section.kind}{others}, groups: {path}}}"
    return ""


def write(seen: Gathered, pairs: Sequence[Pair], out: str) -> str:
    """Write the table into a folder, if it can be used; returns its URI, "" if not.

    Raises:
        StorageError: it cannot be written.
    """
    if not pairs or isinstance(seen.recipe.data.split, BlocksSplit):
        return ""
    uri = store.join(out, GROUPS_NAME)
    store.write_bytes(uri, table([e for e in seen.entries if e.split], pairs).encode())
    return uri
