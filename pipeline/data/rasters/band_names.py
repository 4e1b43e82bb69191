"""Select bands of a file by name or number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.errors import SceneError

# What readers and other programs call bands that have no name.
_NUMBERED: Final = re.compile(r"(?:band|channel|layer)[ _-]?0*([1-9]\d*)", re.IGNORECASE)
_SHOWN: Final = 30


class Named(NamedTuple):
    """Positions from 0 of the bands that were asked for, and those names that no band or several bands have."""

    positions: tuple[int, ...]
    missing: tuple[str, ...]
    ambiguous: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every name is that of one band."""
        return not self.missing and not self.ambiguous


def is_unnamed(names: Sequence[str], chosen: Sequence[str | int] | None = None) -> bool:
    """Whether these are no names but the bands' own numbers, such as band_1, Band 2 or Layer_3.

    Args:
        names: of the bands.
        chosen: what the recipe's `reading.bands` lists, if these bands are those; by default all bands of a file.
    """
    return all(
        not name or ((found := _NUMBERED.fullmatch(name)) is not None and int(found[1]) == number)
        for number, name in zip(chosen or range(1, len(names) + 1), names, strict=False)
    )


def by_name(wanted: Sequence[str], names: Sequence[str]) -> Named:
    """Find bands by name: exactly first, then without regard to case."""
    if tuple(wanted) == tuple(names):
        return Named(tuple(range(len(names))), (), ())
    folded = [name.casefold() for name in names]
    positions: list[int] = []
    missing: list[str] = []
    ambiguous: list[str] = []
    for name in wanted:
        found = [i for i, other in enumerate(names) if other == name]
        found = found or [i for i, other in enumerate(folded) if other == name.casefold()]
        if len(found) == 1:
            positions.append(found[0])
        else:
            (ambiguous if found else missing).append(name)
    return Named(tuple(positions), tuple(missing), tuple(ambiguous))


def chosen(uri: str, wanted: Sequence[str | int], names: Sequence[str]) -> tuple[int, ...]:
    """Positions from 0 of bands given by name or by number from 1.

    Raises:
        SceneError: a band is not there, a name is that of several bands, or two entries are the same band.
    """
    numbers = [entry for entry in wanted if isinstance(entry, int)]
    found = by_name([entry for entry in wanted if isinstance(entry, str)], names)
    absent = [str(number) for number in numbers if not 1 <= number <= len(names)] + list(found.missing)
    if absent:
        raise SceneError(
            f"{uri}: it has no band {', '.join(absent)}; it has {len(names)}: {listed(names)}",
            "list bands that the file has in data.reading.bands, by name or by number from 1",
        )
    if found.ambiguous:
        raise SceneError(
            f"{uri}: several of its bands are called {', '.join(found.ambiguous)}: {listed(names)}",
            "choose them by number in data.reading.bands",
        )
    named = iter(found.positions)
    positions = tuple(entry - 1 if isinstance(entry, int) else next(named) for entry in wanted)
    if len(set(positions)) < len(positions):
        twice = next(p for p in positions if positions.count(p) > 1)
        raise SceneError(
            f"{uri}: data.reading.bands lists its band {twice + 1} ({names[twice]}) twice", "list every band once"
        )
    return positions


def listed(names: Sequence[str]) -> str:
    """Numbers and names for messages: `1 B02, 2 B03`."""
    shown = [str(n) if is_unnamed([*[""] * (n - 1), name]) else f"{n} {name}" for n, name in enumerate(names, 1)]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if shown[_SHOWN:] else "")
