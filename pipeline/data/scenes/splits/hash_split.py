"""Divide groups into splits by a hash of their names.

A hash gives every name a place in [0, 1) that depends on no other name, and each split is an interval of it. Of few
names the shares come out by chance: with 12 groups, val 0.1 and test 0.2 gave 5/1/6. So some groups are moved until
the shares are met, those first whose place is nearest to the split that lacks groups.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from pipeline.errors import ManifestError
from pipeline.recipe.sampling import FoldsSplit, HashSplit, Shares

_SLACK: Final = 0.02
"""Shares may differ by so much before a group is moved: of many groups next to none is, and a hash alone decides."""


def unit(name: str, seed: int = 0) -> float:
    """A number in [0, 1) that is a function of name and seed alone."""
    name = f"{seed} {name}" if seed else name
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big") / 2**56


def alone(name: str, section: Shares) -> str:
    """The split of a name, whatever others there are."""
    return _part(unit(name), _by_share(section))


def by_share(names: Sequence[str], section: Shares) -> dict[str, str]:
    """Splits of groups in about the shares asked for.

    A group's split depends on no other group; except that of few groups, one is moved to where there would be none.

    Raises:
        ManifestError: there are fewer groups than splits.
    """
    ends = _by_share(section)
    return _divide(names, ends, f"into {', '.join(ends)}", _HINT)


def met(names: Sequence[str], section: HashSplit, kept: Mapping[str, str]) -> dict[str, str]:
    """Splits of groups whose shares are those asked for, to 0.02 or to the nearest whole group.

    Args:
        names: of all groups.
        section: the shares, and the seed of the hash.
        kept: splits that groups had before. They stay there, so that a scene that was tested on never trains; new
            groups go where groups are lacking.

    Raises:
        ManifestError: there are fewer groups than splits.
    """
    ends = _by_share(section)
    split_of = _divide(names, ends, f"into {', '.join(ends)}", _HINT, section.seed)
    split_of |= {name: split for name, split in kept.items() if name in split_of and split in ends}
    wanted, slack = _counts(len(names), section, ends), int(_SLACK * len(names))
    begins = dict(zip(ends, [0.0, *ends.values()], strict=False))
    free = sorted(name for name in names if name not in kept)
    while True:
        sizes = Counter(split_of.values())
        excess = {split: sizes[split] - wanted[split] for split in ends}
        if all(-slack <= more <= slack for more in excess.values()):
            return split_of
        lacking = min(ends, key=lambda split: excess[split])
        movable = [name for name in free if excess[split_of[name]] > 0]
        if not movable:
            return split_of
        place = {name: unit(name, section.seed) for name in movable}
        distance = {n: max(begins[lacking] - place[n], place[n] - ends[lacking]) for n in movable}
        split_of[min(movable, key=lambda name: (distance[name], name))] = lacking


def _counts(total: int, section: Shares, ends: Mapping[str, float]) -> dict[str, int]:
    """Number of `total` groups for each split: the largest remainders round up (Hamilton), at least one each."""
    shares = {split: getattr(section, split, 1 - section.val - section.test) * total for split in ends}
    counts = {split: max(1, math.floor(share + 1e-9)) for split, share in shares.items()}
    for split in sorted(ends, key=lambda split: counts[split] - shares[split]):
        if sum(counts.values()) < total:
            counts[split] += 1
    while sum(counts.values()) > total:
        counts[max(counts, key=lambda split: counts[split])] -= 1
    return counts


def by_fold(names: Sequence[str], section: FoldsSplit) -> dict[str, str]:
    """Splits of groups where each group is of one fold; one fold tests, and the next one validates if asked for.

    Raises:
        ManifestError: there are fewer groups than folds.
    """
    ends = {str(fold): (fold + 1) / section.folds for fold in range(section.folds)}
    hint = "add scenes, ask for fewer data.split.folds, or give a finer data.split.group"
    fold_of = _divide(names, ends, f"into {section.folds} folds", hint)
    roles = {str(section.fold): "test"}
    if section.val:
        roles[str((section.fold + 1) % section.folds)] = "val"
    return {name: roles.get(fold, "train") for name, fold in fold_of.items()}


_HINT: Final = "add scenes, set data.split.test and data.split.val to 0, or give a finer data.split.group"


def _by_share(section: Shares) -> dict[str, float]:
    """Ends of the splits in the unit interval; those without a share are left out."""
    ends = {"test": section.test, "val": section.test + section.val, "train": 1.0}
    return {split: end for split, end in ends.items() if split == "train" or getattr(section, split) > 0}


def _part(place: float, ends: Mapping[str, float]) -> str:
    return next(part for part, end in ends.items() if place < end)


def _divide(names: Sequence[str], ends: Mapping[str, float], into: str, hint: str, seed: int = 0) -> dict[str, str]:
    places = {name: unit(name, seed) for name in names}
    if len(places) < len(ends):
        raise ManifestError(f"{len(places)} group{'s' if len(places) > 1 else ''} cannot be divided {into}", hint)
    part_of = {name: _part(place, ends) for name, place in places.items()}
    for empty in ends:
        sizes = {part: list(part_of.values()).count(part) for part in ends}
        if sizes[empty] == 0:
            rich = max(sizes, key=lambda part: sizes[part])
            nearest = min((abs(places[n] - ends[empty]), n) for n, part in part_of.items() if part == rich)
            part_of[nearest[1]] = empty
    return part_of
