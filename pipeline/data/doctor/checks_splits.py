"""Findings about splits: empty splits, groups in several splits, ground or content shared by two splits."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pipeline.data.doctor import access, leak_groups, near_duplicates, scene_overlaps
from pipeline.data.doctor.findings import Entry, Finding, Severity, counted
from pipeline.data.doctor.gather import Gathered
from pipeline.data.doctor.near_duplicates import Pair, Similar
from pipeline.data.doctor.scene_sample import detail, picture
from pipeline.recipe.sampling import TableSplit

_SHOWN: Final = 5
_ONE_SPLIT: Final = "put such scenes into one split by giving them one group, or take one of each away"
_LEAKS: Final[dict[str, tuple[Severity, str, str, str]]] = {
    "shared_ground": (
        "error",
        "lie over the same ground",
        "put such scenes into one split by giving them one group, or split by blocks of the ground",
        "data:\n  split: {{kind: blocks, block: {block:g}, buffer: {buffer}, test: 0.2}}",
    ),
    "shared_content": ("error", "hold the same pixels", _ONE_SPLIT, ""),
    "near_duplicates": ("warning", "look nearly the same", "look at both; if they are copies, " + _ONE_SPLIT, ""),
}
"""Severity, what the scenes do, what to do, and the lines of the recipe with the side of a block and the buffer."""


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about splits."""
    if not seen.entries:
        return
    yield from _empty(seen)
    yield from _groups(seen)
    entry_of = {e.id: e for e in seen.entries}

    def divided(pairs: Iterable[Pair]) -> list[Pair]:
        return [p for p in pairs if entry_of[p.first].split != entry_of[p.second].split]

    ground = _ground(seen)
    marked = near_duplicates.sharing({i: s.marks for i, s in seen.samples.items() if len(s.marks)})
    pictures = {i: small for i, s in seen.samples.items() if (small := picture(s.thumbnail)) is not None}
    content = near_duplicates.merged([_equal_stamps(seen), marked])
    known = {frozenset((p.first, p.second)) for p in content}
    details = {i: fine for i in pictures if (fine := detail(seen.samples[i].thumbnail)) is not None}
    thumbnails = near_duplicates.similar(pictures, details)
    similar = [p for p in thumbnails.pairs if frozenset((p.first, p.second)) not in known]
    leaks = {
        "shared_ground": [p for p in ground if _measured(p, seen, entry_of)],
        "shared_content": divided(content),
        "near_duplicates": divided(similar),
    }
    uri = ""
    if any(leaks.values()) and seen.out:
        # Also what lies in one split now: a scene that moves to another one must take these with it.
        tied = [p for p in _ground(seen, within=True) if _measured(p, seen, entry_of)]
        uri = leak_groups.write(seen, near_duplicates.merged([tied, content, similar]), seen.out)
    for kind, pairs in leaks.items():
        yield from _leak(kind, pairs, seen, entry_of, uri)
    if not thumbnails.telling:
        yield _same_view(thumbnails)
    yield from _within([p for p in content + similar if p not in divided([p])])


def _ground(seen: Gathered, *, within: bool = False) -> list[Pair]:
    """Scenes of different splits whose footprints overlap; those of one split, too, if asked for."""
    return [
        Pair(o.first, o.second, f"{o.share:.1%} of the smaller one")
        for o in access.overlaps(seen.entries, seen.stamps, within=within)
        if o.why == "ground"
    ]


def _same_view(thumbnails: Similar) -> Finding:
    said = f"{counted(len(thumbnails.pairs), 'pair')} that look far more alike than that are named all the same."
    return Finding(
        "same_view",
        "note",
        f"The thumbnails of {thumbnails.matching:.0%} of the {thumbnails.num_pairs:,} pairs of scenes match: the "
        "scenes of this set all show the same kind of view.",
        "That two of them look alike says little here: it is no sign of a copy. "
        + (
            said if thumbnails.pairs else "Only what they do not have in common was compared, and there none is a copy."
        ),
        "nothing; where scenes come in series (one patient, one flight), give them groups",
        rank=62,
    )


def _within(pairs: Sequence[Pair]) -> Iterator[Finding]:
    if pairs:
        yield Finding(
            "copies_within",
            "note",
            f"{counted(len(pairs), 'pair')} of scenes within one split with the same or nearly the same content: "
            f"{_listed(pairs)}.",
            "They count twice, in training and in scores.",
            "keep one of each, if they were not meant",
            scenes=_ids(pairs),
            rank=60,
        )


def _empty(seen: Gathered) -> Iterator[Finding]:
    if not any(e.split for e in seen.entries):
        return  # another check reports that the split could not be made
    judged = seen.recipe.evaluate.split
    if not seen.split("train"):
        yield Finding(
            "empty_split", "error", "No scene is for training.", "There is nothing to learn from.", "change data.split"
        )
    if judged != "train" and not seen.split(judged):
        yield Finding(
            "empty_split",
            "warning",
            f"No scene is in the split {judged}, which is evaluated.",
            "The quality of the model stays unknown.",
            "change data.split",
        )
    if judged != "val" and not seen.split("val"):
        yield Finding(
            "no_val_split",
            "note",
            "No scene is for validation.",
            "Nothing can be seen of over-fitting during training, and a search has nothing to choose by.",
            "give some scenes of train to val",
            rank=70,
        )


def _groups(seen: Gathered) -> Iterator[Finding]:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for e in seen.entries:
        if e.split:
            splits[e.group].add(e.split)
            members[e.group].append(e.id)
    shared = sorted(g for g, of in splits.items() if len(of) > 1)
    if not shared:
        return
    table = isinstance(seen.recipe.data.split, TableSplit)
    yield Finding(
        "group_in_two_splits",
        "warning" if table else "error",
        f"Of {counted(len(splits), 'group')} {len(shared)} {'has' if len(shared) == 1 else 'have'} scenes in several "
        f"splits: {', '.join(shared[:_SHOWN])}"
        + (f" and {len(shared) - _SHOWN} more." if len(shared) > _SHOWN else "."),
        "If a group is a place, a patient or a slide, what is tested is known from training. If it is only what scores "
        "are reported by, such as a modality, the test measures known groups, and says nothing about new ones.",
        "to learn about new groups, hold whole groups out: correct the table, or split by a hash of the group",
        "data:\n  split: {kind: hash, group: '^([^_-]+)', test: 0.2}"
        if all(re.match(r"([^_-]+)", e.id + "_")[0] == e.group for e in seen.entries)  # type: ignore[index]
        else "",
        tuple(i for g in shared for i in members[g]),
        rank=9,
    )


def _equal_stamps(seen: Gathered) -> list[Pair]:
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for i, stamp in seen.stamps.items():
        owners[stamp].append(i)
    return [Pair(ids[0], other, "equal files") for ids in owners.values() for other in ids[1:]]


def _measured(pair: Pair, seen: Gathered, entry_of: Mapping[str, Entry]) -> bool:
    """Whether both scenes are valid somewhere in what they share: empty borders may lie over each other."""
    first, second = entry_of[pair.first], entry_of[pair.second]
    points = scene_overlaps.points(first, second)
    return not points or any(
        access.valid_at(first, a, seen.recipe.data) and access.valid_at(second, b, seen.recipe.data) for a, b in points
    )


def _leak(
    kind: str, pairs: Sequence[Pair], seen: Gathered, entry_of: Mapping[str, Entry], uri: str
) -> Iterator[Finding]:
    """A finding, if there are pairs; `uri` is the table of groups that holds them together, "" if there is none."""
    if not pairs:
        return
    severity, verb, fix, command = _LEAKS[kind]
    command = command.format(block=_block(entry_of[p.first] for p in pairs), buffer=seen.recipe.data.sampling.size)
    if uri:
        fix += f". {uri} holds such groups; these lines use it"
        fix += " (splits by blocks: " + command.replace("data:\n  ", "data.") + ")" if command else ""
        command = leak_groups.command(seen, uri)
    between = sorted({" and ".join(sorted((entry_of[p.first].split, entry_of[p.second].split))) for p in pairs})
    yield Finding(
        kind,
        severity,
        f"{counted(len(pairs), 'pair')} of scenes in different splits ({'; '.join(between)}) {verb}: {_listed(pairs)}.",
        "A model that remembers the training pixels scores well on them. The score is not that of new places.",
        fix,
        command,
        _ids(pairs),
        rank=7,
    )


def _block(entries: Iterable[Entry]) -> float:
    """A round side of blocks that are some times larger than scenes, in units of their CRS."""
    longest = 0.0
    for e in entries:
        across, shear, _, turn, down, _ = e.grid.transform
        longest = max(longest, e.grid.width * math.hypot(across, turn), e.grid.height * math.hypot(shear, down))
    return float(f"{4 * longest:.0e}")


def _listed(pairs: Sequence[Pair]) -> str:
    more = f"; and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return "; ".join(f"{p.first} and {p.second} ({p.how})" for p in pairs[:_SHOWN]) + more


def _ids(pairs: Iterable[Pair]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(i for p in pairs for i in (p.first, p.second)))
