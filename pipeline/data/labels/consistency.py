"""Checks over the labels of all scenes: classes that are never valid, differing palettes, declared nodata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.data.labels.classes import UNKNOWN, Classes
from pipeline.data.labels.summary import LabelSummary
from pipeline.errors import DataError, LabelError
from pipeline.text import some


def contradictions(
    summaries: Mapping[str, LabelSummary], class_counts: Mapping[str, Sequence[int]], classes: Classes
) -> list[DataError]:
    """Errors that make the labels unusable as a whole.

    Args:
        summaries: by scene, of the labels that were read now.
        class_counts: by scene, labelled and valid pixels of each class, of all scenes.
        classes: what the values mean.
    """
    found = [*_never_valid(summaries, class_counts, classes), *_different_palettes(summaries)]
    return found or _all_missed(summaries, len(class_counts))


def declared_nodata(summaries: Mapping[str, LabelSummary], classes: Classes, *, planes: bool = False) -> str:
    """A warning about values that files declare nodata, or transparent, and a class claims; empty if there are none.

    Args:
        summaries: by scene.
        classes: what the values mean.
        planes: labels have one band per class, of 0 and 1.
    """
    pixels: defaultdict[int | str, int] = defaultdict(int)
    scenes: defaultdict[int | str, list[str]] = defaultdict(list)
    for scene, seen in sorted(summaries.items()):
        for value, number in seen.claimed:
            pixels[value] += number
            scenes[value].append(scene)
    if not pixels:
        return ""
    found = []
    for value, number in pixels.items():
        position = UNKNOWN if planes else classes.id_of(value)
        owner = f"class {classes.names[position]}" if position < len(classes) else "yes" if value else "no"
        where = f"{number} pixels in {len(scenes[value])} label{'s' if len(scenes[value]) > 1 else ''}"
        found.append(f"{value} counts as {owner} ({where}: {some(scenes[value])})")
    listed = ", ".join(str(value) if isinstance(value, int) else f'"{value}"' for value in pixels)
    return (
        "labels declare values as nodata, or their pixels as transparent, that classes claim: "
        f"{'; '.join(found)}. If they mean that nothing was annotated, take them out of the class's values and set "
        f"data.ignore_values: [{listed}], or set data.label.nodata: ignore"
    )


def _never_valid(
    summaries: Mapping[str, LabelSummary], class_counts: Mapping[str, Sequence[int]], classes: Classes
) -> list[DataError]:
    problems: list[DataError] = []
    for position, name in enumerate(classes.names):
        if any(counts[position] for counts in class_counts.values() if counts):
            continue
        hidden = {i: seen.hidden_counts[position] for i, seen in summaries.items() if any(seen.hidden_counts)}
        hidden = {i: pixels for i, pixels in sorted(hidden.items()) if pixels}
        if hidden:
            problems.append(
                LabelError(
                    f"class {name}: all of its {sum(hidden.values())} labelled pixels, in {len(hidden)} scenes "
                    f"({some(hidden)}), lie where the image is not valid, so that nothing can be learned of it",
                    "look at what makes the images invalid: their nodata value and data.nodata "
                    "(data.reading.nodata_rule), mask, alpha, data.footprint; if the class only marks what was not "
                    "measured, list its values in data.ignore_values",
                )
            )
    return problems


def _all_missed(summaries: Mapping[str, LabelSummary], num_scenes: int) -> list[DataError]:
    """The error if no shape of any vector file touches its scene, though the files have shapes."""
    missed = {i: seen.missed for i, seen in sorted(summaries.items()) if seen.missed}
    if not missed or len(missed) < num_scenes:
        return []
    scene, where = next(iter(missed.items()))
    return [
        LabelError(
            f"no shape of any label touches its scene: of scene {scene} the file has {where}",
            "check the CRS of images and labels, and that x (longitude) comes first; data.label.crs replaces a wrong "
            "CRS of labels",
        )
    ]


def _different_palettes(summaries: Mapping[str, LabelSummary]) -> list[DataError]:
    first: dict[int, tuple[str, str]] = {}
    for scene, seen in sorted(summaries.items()):
        for index, color in seen.palette:
            known, other = first.setdefault(index, (color, scene))
            if known != color:
                return [
                    LabelError(
                        f"the palettes of labels differ: index {index} is {known} in scene {other}, {color} in scene "
                        f"{scene}; data.classes names indices, which then mean different things",
                        'list colours in data.classes, such as values: ["#rrggbb"]; if the indices are right whatever '
                        "their colours, set data.label.palette: index",
                    )
                ]
    return []
