"""Findings about pixel values: dead bands, bands that tell the label, scenes that stand apart, saturation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from pipeline.data.doctor import spread
from pipeline.data.doctor.evidence import Evidence
from pipeline.data.doctor.records import Finding, counted

_LEAKING: Final = 0.98
_MAP_OF_CLASSES: Final = 0.8
_APART: Final = 6.0
_MIN_SCENES: Final = 5
_POPULATION: Final = 0.1
_OTHER_UNITS: Final = 5.0
_SATURATED: Final = 0.05


def findings(seen: Evidence) -> Iterator[Finding]:
    """Everything about pixel values."""
    if not any(s.num_valid for _, s in seen.usable):
        return
    yield from _dead(seen)
    yield from _leaking(seen)
    yield from _apart(seen)
    yield from _saturated(seen)


def _dead(seen: Evidence) -> Iterator[Finding]:
    """Bands with one value only, everywhere or in some scenes; bands that went lost together are named together."""
    scenes = [s for _, s in seen.usable if s.values.shape[1]]
    constant = {
        name: {s.id: float(s.values[k][0]) for s in scenes if s.values[k].min() == s.values[k].max()}
        for k, name in enumerate(seen.bands)
    }
    lost: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, value_in in constant.items():
        if len(value_in) == len(scenes) and len(set(value_in.values())) == 1:
            yield Finding(
                "dead_band",
                "warning",
                f"Band {name} is {next(iter(value_in.values())):g} in every pixel that was read.",
                "It costs memory and time and tells nothing; dividing by its deviation of zero is avoided, not useful.",
                "leave the band out of the files, or find out why it is empty",
                f"gdal_translate {_others(seen.bands, name)} IN.tif OUT.tif",
                rank=20,
            )
        elif value_in and len(scenes) > 1:
            lost[tuple(value_in)].append(name)
    for ids, names in lost.items():
        yield Finding(
            "dead_band_in_scenes",
            "warning",
            f"In {len(ids)} of {len(scenes)} scenes there is one value only in {', '.join(names)}.",
            "There nothing was measured or it went lost, and the network sees a constant instead.",
            "make these scenes again, declare the value as nodata, or take them away",
            scenes=ids,
            rank=21,
        )


def _others(bands: tuple[str, ...], name: str) -> str:
    return " ".join(f"-b {n}" for n, b in enumerate(bands, 1) if b != name)


def _leaking(seen: Evidence) -> Iterator[Finding]:
    usable = [s for _, s in seen.usable if s.values.shape[1]]
    for told in spread.told_by_one_band([s.values for s in usable], [s.ids for s in usable]):
        name = seen.bands[told.band]
        few = told.num_values <= spread.FEW
        if told.recall >= _LEAKING:
            yield Finding(
                "leaking_band",
                "warning",
                f"Band {name} alone tells the classes: a plain rule from its value to a class is right in "
                f"{told.recall:.1%} of the pixels (mean over classes) of scenes it was not made from.",
                "Where the band was derived from the label, or the label from it, scores are not those of the task, "
                "and a model fails where the band is missing or honest.",
                "find out where the band comes from; if from the label, leave it out of the files",
                f"gdal_translate {_others(seen.bands, name)} IN.tif OUT.tif",
                rank=8,
            )
        elif few and told.recall >= _MAP_OF_CLASSES:
            yield Finding(
                "map_among_bands",
                "note",
                f"Band {name} holds only {told.num_values} values, and these tell the classes in {told.recall:.0%} of "
                "the pixels (mean over classes).",
                "It looks like a map, not like a measurement. A network leans on it and repeats its errors.",
                "make sure that it does not come from the label, and will be there when the model is used",
                rank=30,
            )


def _apart(seen: Evidence) -> Iterator[Finding]:
    scenes = [(e, s) for e, s in seen.usable if s.values.shape[1]]
    if len(scenes) < _MIN_SCENES:
        return
    medians = np.stack([s.medians for _, s in scenes])
    deviations = np.stack([s.values.std(axis=1, dtype=np.float64) for _, s in scenes])
    scores = spread.apart(medians, deviations)
    worst = np.abs(scores).max(axis=1)
    far = np.flatnonzero(worst > _APART)
    if len(far) == 0:
        return
    ids = tuple(scenes[int(k)][0].id for k in far[np.argsort(-worst[far])])
    if len(far) > max(1, _POPULATION * len(scenes)):
        yield _populations(seen, ids, [e.group for e, _ in scenes], [scenes[int(k)][0].group for k in far])
        return
    centre = np.median(medians, axis=0)
    said = []
    factors = []
    for k in far[np.argsort(-worst[far])][:3]:
        band = int(np.abs(scores[k]).argmax())
        value, usual = float(medians[k, band]), float(centre[band])
        said.append(
            f"{scenes[int(k)][0].id}: median of band {seen.bands[band]} {value:.4g} against {usual:.4g} "
            f"({scores[k, band]:+.0f} deviations)"
        )
        factors.append(value / usual if usual > 0 and value > 0 else 1.0)
    units = any(f > _OTHER_UNITS or f < 1 / _OTHER_UNITS for f in factors)
    yield Finding(
        "scenes_apart",
        "warning",
        f"Of {len(scenes)} scenes {len(far)} {'stands' if len(far) == 1 else 'stand'} apart: " + "; ".join(said) + ".",
        ("A factor of this size looks like other units or another product. " if units else "")
        + "The statistics of the bands fit such a scene badly, and what is learnt from it may not help the others.",
        "look at these scenes; bring them to the units of the others, or take them away",
        scenes=ids,
        rank=15,
    )


def _populations(seen: Evidence, ids: tuple[str, ...], groups: list[str], far: list[str]) -> Finding:
    everyone, some = Counter(groups), Counter(far)
    whole = [g for g in some if some[g] >= 0.8 * everyone[g] and everyone[g] > 1]
    told = (
        f" Nearly all of {', '.join(f'{g} ({some[g]} of {everyone[g]})' for g in sorted(whole))} are among them."
        if whole
        else ""
    )
    return Finding(
        "populations",
        "note",
        f"{len(ids)} of {len(groups)} scenes are far from the others in the median of some band: the set is made of "
        f"several kinds of images.{told}",
        "One mean and deviation per band fits none of them well, and a score over all hides the kind that fails.",
        "read the report per group; normalise each scene by itself if kinds differ in brightness only",
        "data:\n  normalise: {kind: per_scene}",
        ids,
        rank=25,
    )


def _saturated(seen: Evidence) -> Iterator[Finding]:
    found: list[tuple[float, str, str]] = []
    for entry, sample in seen.usable:
        shares = [(spread.piled_up(band), name) for name, band in zip(seen.bands, sample.values, strict=True)]
        worst = max(shares, default=(0.0, ""))
        if worst[0] > _SATURATED:
            found.append((worst[0], worst[1], entry.id))
    if found:
        share, name, first = max(found)
        yield Finding(
            "saturated",
            "warning" if len(found) > _POPULATION * len(seen.usable) else "note",
            f"{counted(len(found), 'scene')} with the highest value in more than {_SATURATED:.0%} of the pixels of a "
            f"band, most of all {first}: {share:.0%} of band {name}.",
            "Saturated pixels carry no detail, and clipped clouds, glare or paper white look like each other.",
            "if the highest value means clouds or not measured, mask it; else nothing",
            scenes=tuple(i for _, _, i in sorted(found, reverse=True)),
            rank=45,
        )
