"""Match the bands of each scene's file to those of the data set, by name where files name their bands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.data.rasters import band_names
from pipeline.data.rasters.band_names import by_name, is_unnamed
from pipeline.data.rasters.grids import RasterInfo
from pipeline.errors import DataError, SceneError
from pipeline.recipe import Data
from pipeline.text import some

_ALPHA: Final = "use images with the same bands; a band that is marked as alpha is a mask and does not count"
_RENAME: Final = (
    "correct the names in the files; if other names mean the same bands in the same order, name them in data.bands"
)
_OTHERWISE: Final = "otherwise"
_CONVERT: Final = "convert them, for instance with `gdal_translate -ot`"


@dataclass(frozen=True)
class Matched:
    """Bands and dtype that the scenes have in common.

    Attributes:
        bands: names of the bands of all scenes.
        file_bands: what files call these bands, before `data.bands` renames them; () where files differ in that.
        numbers: for each scene whose bands are not read as they lie in its file, their numbers from 1 in it.
        problems: scenes whose bands or dtype are not those of the recipe or of most scenes.
        warnings: what was decided without the files saying so.
    """

    bands: tuple[str, ...]
    file_bands: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]
    problems: tuple[DataError, ...] = ()
    warnings: tuple[str, ...] = ()


def matched(infos: Mapping[str, RasterInfo], data: Data) -> Matched:
    """Compare the bands and types of all scenes.

    Files that name their bands are read by name, whatever their order and whatever else they hold. The names are those
    in `data.bands` if files use them, else those of most files; then `data.bands` renames the bands.
    """
    kinds: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for i, info in infos.items():
        kinds[info.bands].append(i)
    if not kinds:
        return Matched((), (), {})
    named = {bands: ids for bands, ids in kinds.items() if not is_unnamed(bands, data.reading.bands)}
    wanted = _wanted(kinds, named, data)
    numbers: dict[str, tuple[int, ...]] = {}
    problems: list[DataError] = []
    warnings: list[str] = []
    otherwise: list[str] = []
    for bands, ids in sorted(kinds.items()):
        outcome = _read_as(bands, wanted, kinds, data)
        if isinstance(outcome, SceneError):
            problems.append(outcome)
            continue
        places, warning = outcome
        if places != tuple(range(len(bands))):
            numbers |= dict.fromkeys(ids, tuple(place + 1 for place in places))
        if warning == _OTHERWISE:
            otherwise += ids
        elif warning:
            warnings.append(warning)
    if otherwise and data.bands:
        text = f"{_who(wanted, kinds.get(wanted, []))}, {len(otherwise)} others ({some(otherwise)}) call them otherwise"
        warnings.append(f"{text}: data.bands takes them in file order as {', '.join(data.bands)}")
    names = tuple(data.bands or _apart(data, wanted))
    if len(names) != len(wanted):
        text = f"{_who(wanted, list(infos))}, but data.bands names {len(names)}: {', '.join(names)}"
        problems = [SceneError(text, _ALPHA)]
    elif _contradict(names, wanted):
        text = f"the files call their bands {', '.join(wanted)}, data.bands calls the same bands {', '.join(names)}"
        hint = "name them in the order of the files; data.reading.bands chooses another order"
        problems.append(SceneError(text, hint))
    return Matched(names, () if otherwise else wanted, numbers, (*problems, *_types(infos)), tuple(warnings))


def _read_as(
    bands: tuple[str, ...], wanted: tuple[str, ...], kinds: Mapping[tuple[str, ...], list[str]], data: Data
) -> tuple[tuple[int, ...], str] | SceneError:
    """Positions of the wanted bands in files of these bands and a warning, or why such files cannot be used."""
    found = by_name(wanted, bands)
    what, usual = _who(bands, kinds[bands]), kinds.get(wanted, [])
    most = f"{len(usual)} have {len(wanted)} ({', '.join(wanted)})" if usual else f"{', '.join(wanted)} are wanted"
    as_they_lie = tuple(range(len(bands)))
    if bands == wanted:
        return as_they_lie, ""
    unnamed = is_unnamed(bands, data.reading.bands)
    by_position = data.bands_apart is not None or data.reading.bands is not None
    if found.complete and not unnamed and not by_position:
        others = [name for n, name in enumerate(bands) if n not in found.positions]
        return found.positions, f"{what}; not read are {', '.join(others)}, which not all scenes have" if others else ""
    lacking = f": {', '.join(found.missing)} missing" if found.missing and found.positions and not unnamed else ""
    if len(bands) != len(wanted):
        return SceneError(f"{what}, but {most}{lacking}", _ALPHA)
    if unnamed:
        return as_they_lie, f"{what} without names: they are taken in file order as {', '.join(wanted)}"
    if data.bands is None or found.complete or _contradict(wanted, bands):
        return SceneError(f"{what}, but {most}{lacking}", _RENAME)
    if wanted == tuple(data.bands):
        return as_they_lie, ""
    return as_they_lie, _OTHERWISE


def _who(bands: Sequence[str], ids: Sequence[str]) -> str:
    who = f"scene {ids[0]} has" if len(ids) == 1 else f"{len(ids)} scenes ({some(list(ids))}) have"
    return f"{who} {len(bands)} bands ({', '.join(bands)})"


def _wanted(
    kinds: Mapping[tuple[str, ...], Sequence[str]], named: Mapping[tuple[str, ...], Sequence[str]], data: Data
) -> tuple[str, ...]:
    """The names that bands are found by: of `data.bands` if a file has all of them, else those of most files."""
    if data.bands is not None and any(by_name(data.bands, bands).complete for bands in named):
        return tuple(data.bands)
    among = named or kinds
    return max(among, key=lambda bands: (len(among[bands]), -len(bands)))


def _contradict(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether a name that both have is that of another position."""
    if is_unnamed(ours) or is_unnamed(theirs):
        return False
    found = by_name(ours, theirs)
    places = tuple(n for n, name in enumerate(ours) if name not in found.missing)
    return bool(found.ambiguous) or places != found.positions


def _apart(data: Data, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Names that the recipe gives to bands in files of their own, unless a file has several bands."""
    names = tuple(data.bands_apart or ())
    return names if len(names) == len(wanted) and band_names.is_unnamed(wanted) else wanted


def _types(infos: Mapping[str, RasterInfo]) -> list[DataError]:
    counts = Counter(info.dtype for info in infos.values())
    usual, most = counts.most_common(1)[0]
    problems: list[DataError] = []
    for dtype in sorted(counts.keys() - {usual}):
        ids = [i for i, info in infos.items() if info.dtype == dtype]
        who = f"scene {ids[0]} has" if len(ids) == 1 else f"{len(ids)} scenes ({some(ids)}) have"
        problems.append(SceneError(f"{who} {dtype} pixels, but {most} have {usual}", _CONVERT))
    return problems
