"""Dividing names into splits by a hash: each name's place is its own, so that it stays when others are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from pipeline.errors import ManifestError
from pipeline.recipe.sampling import FoldsSplit, Shares


def unit(name: str) -> float:
    """A number in [0, 1) that is a function of the name alone."""
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
    hint = "add scenes, set data.split.test and data.split.val to 0, or give a finer data.split.group"
    return _divide(names, ends, f"into {', '.join(ends)}", hint)


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


def _by_share(section: Shares) -> dict[str, float]:
    """Where each split ends in the unit interval; those without a share are left out."""
    ends = {"test": section.test, "val": section.test + section.val, "train": 1.0}
    return {split: end for split, end in ends.items() if split == "train" or getattr(section, split) > 0}


def _part(place: float, ends: Mapping[str, float]) -> str:
    return next(part for part, end in ends.items() if place < end)


def _divide(names: Sequence[str], ends: Mapping[str, float], into: str, hint: str) -> dict[str, str]:
    places = {name: unit(name) for name in names}
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
