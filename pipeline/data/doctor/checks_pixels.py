"""Findings about pixel values: constant bands, bands that predict the label, outlying scenes, saturation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from pipeline.data.doctor import distributions, recipe_lines, sentinels
from pipeline.data.doctor.distributions import BandRule
from pipeline.data.doctor.findings import Finding, counted
from pipeline.data.doctor.gather import Gathered
from pipeline.data.doctor.sentinels import Sentinel

_MAP_GAIN: Final = 0.4
_TELLING_IOU: Final = 0.9
_ALONE_IOU: Final = 0.95
_ALONE_ERRORS: Final = 5.0
_APART: Final = 6.0
_MIN_SCENES: Final = 5
_POPULATION: Final = 0.1
_OTHER_UNITS: Final = 5.0
_SATURATED: Final = 0.05
_SHOWN: Final = 5


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about pixel values."""
    if not any(s.num_valid for _, s in seen.usable):
        return
    yield from _alpha(seen)
    yield from _undeclared(seen)
    yield from _rims(seen)
    yield from _dead(seen)
    yield from _leaking(seen)
    yield from _apart(seen)
    yield from _saturated(seen)


def _dead(seen: Gathered) -> Iterator[Finding]:
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
                "It costs memory and time and holds no information; dividing by its deviation of zero is avoided.",
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


def _alpha(seen: Gathered) -> Iterator[Finding]:
    """Bands that files tag as alpha though they hold measurements; their zeros are taken for holes."""
    found = {e.id: s.alpha.count for e, s in seen.usable if s.alpha is not None and s.alpha.is_no_mask}
    if not found:
        return
    most = max(found, key=lambda i: found[i])
    yield Finding(
        "alpha_of_many_values",
        "warning",
        f"{counted(len(found), 'scene')} of {len(seen.usable)} with a band tagged alpha that holds many values, "
        f"such as {found[most]:,} in {most}.",
        "An alpha band holds few values: seen or not. This one looks like a measurement, such as near infrared, that a "
        "library tagged as alpha. It is not read as a band, and where it is 0 the image counts as not valid.",
        "if it is a measurement, read it as a band",
        "data:\n  reading: {alpha: band}",
        tuple(sorted(found)),
        rank=7,
    )


def _undeclared(seen: Gathered) -> Iterator[Finding]:
    """Values that stand for not measured and count as valid."""
    for found in _sentinels(seen):
        value, ids = sentinels.as_written(found.value), tuple(sorted(found.shares))
        positions = sorted({band for of in found.shares.values() for band in of})
        pixels = max((max(of.values()), scene) for scene, of in found.shares.items())
        only = 0 < len(positions) < len(seen.bands)
        where = "all bands" if not only else f"band{'s' if len(positions) > 1 else ''} {_numbered(positions, seen)}"
        yield Finding(
            "undeclared_nodata",
            "warning" if found.known else "note",
            f"The value {value} is in {where} of {counted(len(ids), 'scene')} of {len(seen.usable)} "
            f"({', '.join(ids[:_SHOWN])}{' ...' if len(ids) > _SHOWN else ''}), counts as valid and lies far from all "
            f"other values: up to {pixels[0]:.1%} of what was read, in {pixels[1]}.",
            "Values that stand for not measured spoil the statistics that bands are normalised by, and the network "
            "learns from places that were not measured.",
            "if it means not measured, say so" + (_or_left_out(positions, seen) if only else ""),
            f"data:\n  nodata: {value}" + ("\n  reading: {nodata_rule: any}" if only else ""),
            ids,
            rank=12,
        )


def _sentinels(seen: Gathered) -> list[Sentinel]:
    held = [s.values for _, s in seen.usable if s.values.shape[1]]
    if not held:
        return []
    ranges = [tuple(np.median([np.percentile(v[k], (1, 99)) for v in held], axis=0)) for k in range(len(seen.bands))]
    return sentinels.sentinels({e.id: s.extremes for e, s in seen.usable}, ranges)


def _or_left_out(positions: Sequence[int], seen: Gathered) -> str:
    line = recipe_lines.without_bands(seen, positions).replace("data:\n  ", "data.")
    return f", or leave {'it' if len(positions) == 1 else 'them'} out ({line})" if line else ""


def _numbered(positions: Sequence[int], seen: Gathered) -> str:
    """Names of bands with their numbers from 1."""
    names = [seen.bands[k] if seen.bands[k] == f"band_{k + 1}" else f"{seen.bands[k]} ({k + 1})" for k in positions]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _rims(seen: Gathered) -> Iterator[Finding]:
    """Frames and corners of one colour around images, which count as valid."""
    known = {i for found in _sentinels(seen) for i in found.shares}  # a strip of such a value is named as that
    found = {e.id: s.rim for e, s in seen.usable if s.rim is not None and e.id not in known}
    if not found:
        return
    worst = max(found, key=lambda i: found[i].share)
    rim = found[worst]
    values = {v for r in found.values() for v in r.values}
    one = values.pop() if len(values) == 1 and all(r.exact for r in found.values()) else None
    colour = ", ".join(f"{v:g}" for v in dict.fromkeys(rim.values))
    yield Finding(
        "image_rim",
        "warning",
        f"{counted(len(found), 'scene')} of {len(seen.usable)} with a border of one colour (value {colour}) that "
        f"counts as valid, up to {rim.share:.0%} of the pixels, in {worst}.",
        "The network learns the border, statistics are wrong, and scores count pixels that show nothing.",
        "say that the value means not measured" if one is not None else "give footprints: where images are valid",
        f"data:\n  nodata: {one:g}" if one is not None else "",
        tuple(sorted(found)),
        rank=16,
    )


def _others(bands: tuple[str, ...], name: str) -> str:
    return " ".join(f"-b {n}" for n, b in enumerate(bands, 1) if b != name)


def _leaking(seen: Gathered) -> Iterator[Finding]:
    """Bands that hold a map of the classes, and measured bands that predict them: the latter is the task itself."""
    usable = [s for _, s in seen.usable if s.values.shape[1]]
    rules = distributions.predicted_by_one_band([s.values for s in usable], [s.ids for s in usable])
    leaking = [r for r in rules if _is_class_map(r) or _tells_alone(r, rules)]
    if leaking:
        number = "Bands" if len(leaking) > 1 else "Band"
        yield Finding(
            "leaking_band",
            "warning",
            f"{number} that alone {'predict' if len(leaking) > 1 else 'predicts'} the classes, by a rule from value to "
            f"class tried on scenes it was not made from: {'; '.join(_rule(r, seen) for r in leaking)}.",
            "It looks like a map of the classes, not like a measurement. Where it comes from the label, scores are not "
            "those of the task, and a model fails where the band is missing or was not made from the label.",
            "find out where the band comes from; if from the label, leave it out",
            recipe_lines.without_bands(seen, [r.band for r in leaking]),
            rank=8,
        )
    telling = sorted((r for r in rules if r not in leaking and r.iou >= _TELLING_IOU), key=lambda r: -r.iou)
    if telling:
        yield Finding(
            "telling_band",
            "note",
            f"The intensity of one band alone separates the classes, best that of {_rule(telling[0], seen)}"
            + (f"; also of {_numbered([r.band for r in telling[1:]], seen)}." if telling[1:] else "."),
            "Where things are brighter or darker than what surrounds them, this is the task itself, and it is easy.",
            "nothing, if the bands are measurements; a threshold is the score to compare the network with",
            rank=48,
        )


def _is_class_map(rule: BandRule) -> bool:
    """Few values that give classes much better than the most frequent class does."""
    return rule.num_values <= distributions.FEW and rule.stepped and rule.gain >= _MAP_GAIN


def _tells_alone(rule: BandRule, rules: Sequence[BandRule]) -> bool:
    """Whether one band of many values predicts three classes or more, and no other band comes near it."""
    others = [r.accuracy for r in rules if r.band != rule.band]
    far = bool(others) and 1 - max(others) >= _ALONE_ERRORS * max(1 - rule.accuracy, 0.001)
    return rule.num_classes > 2 and rule.iou >= _ALONE_IOU and far


def _rule(rule: BandRule, seen: Gathered) -> str:
    name = seen.bands[rule.band]
    number = "" if name == f"band_{rule.band + 1}" else f" (number {rule.band + 1})"
    values = f"{counted(rule.num_values, 'value')}, " if rule.num_values <= distributions.FEW else ""
    return (
        f"{name}{number}: {values}accuracy {rule.accuracy:.1%} (the most frequent class alone: "
        f"{rule.majority:.1%}), mean IoU {rule.iou:.2f}"
    )


def _apart(seen: Gathered) -> Iterator[Finding]:
    scenes = [(e, s) for e, s in seen.usable if s.values.shape[1]]
    if len(scenes) < _MIN_SCENES:
        return
    medians = np.stack([s.medians for _, s in scenes])
    deviations = np.stack([s.values.std(axis=1, dtype=np.float64) for _, s in scenes])
    scores = distributions.apart(medians, deviations)
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


def _populations(seen: Gathered, ids: tuple[str, ...], groups: list[str], far: list[str]) -> Finding:
    everyone, some = Counter(groups), Counter(far)
    whole = [g for g in some if some[g] >= 0.8 * everyone[g] and everyone[g] > 1]
    details = (
        f" Nearly all of {', '.join(f'{g} ({some[g]} of {everyone[g]})' for g in sorted(whole))} are among them."
        if whole
        else ""
    )
    return Finding(
        "populations",
        "note",
        f"{len(ids)} of {len(groups)} scenes are far from the others in the median of some band: the set is made of "
        f"several kinds of images.{details}",
        "One mean and deviation per band fits none of them well, and a score over all hides the kind that fails.",
        "read the report per group; normalise each scene by itself if kinds differ in brightness only",
        "data:\n  normalise: {kind: per_scene}",
        ids,
        rank=25,
    )


def _saturated(seen: Gathered) -> Iterator[Finding]:
    found: list[tuple[float, str, str]] = []
    for entry, sample in seen.usable:
        shares = [(distributions.piled_up(band), name) for name, band in zip(seen.bands, sample.values, strict=True)]
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
