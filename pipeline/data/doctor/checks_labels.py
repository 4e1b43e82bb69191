"""Findings about labels: unknown codes, nothing annotated, classes that are missing or rare, misaligned labels."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from pipeline.data.doctor import label_shift
from pipeline.data.doctor.findings import Finding, Severity, counted
from pipeline.data.doctor.gather import Gathered
from pipeline.data.doctor.label_shift import Shift
from pipeline.data.labels import consistency
from pipeline.data.scenes.splits.assign import SPLITS
from pipeline.recipe.losses import CrossEntropy

_SHOWN_CODES: Final = 8
_SOFT: Final = 50
_SHOWN_WARNINGS: Final = 4
_RARE: Final = 0.05
_VERY_RARE: Final = 0.01
_MAX_WEIGHT: Final = 20.0
_CERTAIN_GAIN: Final = 1.3
_OTHER_SHARE: Final = 2.0
_COUNTS: Final = 0.01
_LABELLED: Final = 20
_HARDLY_VALID: Final = 0.2


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about labels."""
    if all(entry.label is None for entry in seen.entries):
        if seen.entries:
            yield Finding(
                "no_labels",
                "error",
                "No scene has a label.",
                "Without them nothing can be learnt; only prediction works.",
                "set data.labels, or name labels in the list of scenes",
                'data:\n  labels: "labels/{id}.tif"',
                rank=2,
            )
        return
    yield from _unknown(seen)
    counts = class_counts(seen)
    never = list(_never_valid(seen))
    yield from never
    if not any(finding.kind == "never_valid" for finding in never):
        yield from _contradictions(seen)
    yield from _declared_nodata(seen)
    yield from _unannotated(seen)
    yield from _missing(seen, counts)
    if any(sum(c) for c in counts.values()):
        yield from _rare(seen, counts)
        yield from _differing(seen)
    yield from _shifted(seen)
    warnings = {i: t.warnings for i, t in seen.tallies.items() if t.warnings}
    if warnings:
        said = list(dict.fromkeys(w for of in warnings.values() for w in of))
        more = f"; and {len(said) - _SHOWN_WARNINGS} more" if len(said) > _SHOWN_WARNINGS else ""
        yield Finding(
            "label_warnings",
            "warning",
            "; ".join(said[:_SHOWN_WARNINGS]) + more + ".",
            "Labels that are empty or had to be repaired may not say what their makers meant.",
            "look at these scenes",
            scenes=tuple(warnings),
            rank=30,
        )


def class_counts(seen: Gathered) -> dict[str, list[int]]:
    """Labelled pixels per class in each split that has scenes."""
    out: dict[str, list[int]] = {}
    for split in SPLITS:
        tallies = [seen.tallies[e.id].counts for e in seen.split(split) if e.id in seen.tallies]
        if tallies:
            out[split] = [sum(column) for column in zip(*tallies, strict=True)]
    return out


def _unknown(seen: Gathered) -> Iterator[Finding]:
    total: Counter[str] = Counter()
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for i, tally in seen.tallies.items():
        total += tally.unknown_values
        for code in tally.unknown_values:
            holders[code].append(i)
    if not total:
        return
    shown = ", ".join(
        f"{code} ({pixels:,} pixels in {counted(len(holders[code]), 'scene')})"
        for code, pixels in total.most_common(_SHOWN_CODES)
    )
    more = f", and {len(total) - _SHOWN_CODES} other codes" if len(total) > _SHOWN_CODES else ""
    fix, command = _meaning(seen, [code for code, _ in total.most_common(_SHOWN_CODES)], len(total))
    yield Finding(
        "unknown_codes",
        "error",
        f"Labels hold {counted(len(total), 'code')} that no class claims: {shown}{more}.",
        "What they mean is not known, so indexing refuses them.",
        fix,
        command,
        tuple(sorted({i for ids in holders.values() for i in ids})),
        rank=3,
    )


def _meaning(seen: Gathered, codes: Sequence[str], num_codes: int) -> tuple[str, str]:
    """Fix for codes that no class claims, and the lines of the recipe, the likeliest first."""
    if num_codes > _SOFT:
        return "so many codes look like soft edges or JPEG: give a threshold", "data:\n  label: {threshold: 128}"
    counts = class_counts(seen)
    absent = [name for k, name in enumerate(seen.classes.names) if not any(of[k] for of in counts.values())]
    if len(absent) != 1 or len(codes) != 1:
        return (
            "give them to a class (values), or say that they are not annotated",
            f"data:\n  ignore_values: [{', '.join(codes)}]",
        )
    (name,), (code,) = absent, codes
    given = [
        f"    - {{name: {json.dumps(c.name)}, values: {json.dumps([_plain(code)] if c.name == name else c.values)}}}"
        if c.name == name or c.values is not None
        else f"    - {{name: {json.dumps(c.name)}}}"
        for c in seen.recipe.data.classes
    ]
    fix = f"no label holds a pixel of {name}, so {code} is probably that; else give it to another class"
    return fix, "\n".join(["data:", "  classes:", *given])


def _plain(code: str) -> int | str:
    """As a recipe writes it: numbers without quotes."""
    return int(code) if code.lstrip("-").isdigit() else code


def _never_valid(seen: Gathered) -> Iterator[Finding]:
    """Classes whose labelled pixels are not valid in the image: never, or far less often than those of the others."""
    read = [(e.id, s.labelled) for e, s in seen.usable if len(s.labelled)]
    if not read:
        return
    total = np.sum([of for _, of in read], axis=0)
    for position, name in enumerate(seen.classes.names):
        labelled, valid = (int(n) for n in total[position])
        others, valid_others = (int(n) for n in total.sum(axis=0) - total[position])
        usual = valid_others / others if others else 1.0
        if labelled < _LABELLED or valid >= _HARDLY_VALID * usual * labelled:
            continue
        rows = [i for i, of in read if of[position, 0]]
        yield Finding(
            "never_valid" if valid == 0 else "hardly_valid",
            "error" if valid == 0 else "warning",
            f"Class {name}: of {labelled:,} labelled pixels that were read, {valid:,} are valid in the image"
            + (f"; of the other classes {usual:.0%} are." if others else "."),
            "Pixels that are not valid are neither learnt from nor scored. Scores of this class are empty, or those of "
            "an unusual part of it."
            if valid
            else "It is never learnt and never scored, and mean scores are too high.",
            "look at what makes pixels invalid: the nodata value that the files declare (gdalinfo), a mask or alpha "
            "band, data.nodata, data.footprint; a value that occurs in images must not be nodata",
            scenes=tuple(rows) if len(rows) < len(seen.entries) else (),
            rank=3,
        )


def _contradictions(seen: Gathered) -> Iterator[Finding]:
    """Problems of the labels as a whole that `index` would refuse."""
    looks = {i: t.label for i, t in seen.tallies.items()}
    for error in consistency.contradictions(looks, {i: t.counts for i, t in seen.tallies.items()}, seen.classes):
        yield Finding("label_contradictions", "error", f"{error.message}.", "`index` refuses this.", error.hint, rank=3)


def _declared_nodata(seen: Gathered) -> Iterator[Finding]:
    """Values that labels declare as nodata and a class claims."""
    looks = {i: t.label for i, t in seen.tallies.items()}
    said = consistency.declared_nodata(looks, seen.classes, planes=seen.recipe.data.task == "multilabel")
    if said:
        what, _, fix = said.partition(". ")
        yield Finding(
            "declared_nodata",
            "note",
            f"{what[0].upper()}{what[1:]}.",
            "Tools write a nodata value into labels whose background has it; the class counts.",
            fix[0].lower() + fix[1:],
            rank=30,
        )


def _unannotated(seen: Gathered) -> Iterator[Finding]:
    """Scenes with a label that annotates nothing."""
    whole = {i: t for i, t in seen.tallies.items() if t.whole and not t.unknown_values}
    empty = sorted(i for i, t in whole.items() if not sum(t.counts))
    if not empty or (seen.recipe.data.task == "multilabel"):
        return
    every = len(empty) == len(seen.tallies)
    yield Finding(
        "unannotated_scenes",
        "error" if every else "warning",
        f"{'All' if every else 'Of'} {counted(len(seen.tallies), 'label')} "
        + ("annotate" if every else f"{len(empty)} {'annotates' if len(empty) == 1 else 'annotate'}")
        + f" nothing: {', '.join(empty[:_SHOWN_CODES])}{' ...' if len(empty) > _SHOWN_CODES else ''}.",
        "Every pixel of them is ignored, invalid or nodata: nothing is learnt there and nothing is scored.",
        "check data.ignore_values, the nodata value of the labels and data.classes; take such scenes away",
        scenes=tuple(empty),
        rank=4 if every else 18,
    )


def _missing(seen: Gathered, counts: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    if seen.tallies and not sum(counts.get("train", ())) and seen.split("train"):
        yield Finding(
            "nothing_annotated",
            "error",
            "No pixel of the train split is annotated.",
            "There is nothing to learn from.",
            "check data.labels, data.classes and data.ignore_values",
            rank=4,
        )
        return
    for position, name in enumerate(seen.classes.names):
        there = [split for split, of in counts.items() if of[position]]
        absent = [split for split in counts if split not in there]
        if not absent:
            continue
        if not there and any(sum(t.label.hidden_counts[position : position + 1]) for t in seen.tallies.values()):
            continue  # it is never valid, which was said
        if not there:
            what, severity = f"No label holds a pixel of class {name}.", "warning"
            why, fix = "It cannot be learnt, and its scores are empty.", "check its values in data.classes"
        elif "train" in absent:
            what, severity = f"Class {name} is in {' and '.join(there)}, but never in train.", "error"
            why, fix = "It cannot be learnt, and every pixel of it will be wrong.", "divide the scenes otherwise"
        else:
            what, severity = f"Class {name} is not in {' and '.join(absent)}.", "warning"
            why = "Its score there is empty, and a model that forgets it looks as good as one that knows it."
            fix = "divide the scenes otherwise"
        yield Finding("missing_class", severity, what, why, fix, rank=6)  # type: ignore[arg-type]


def _rare(seen: Gathered, counts: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    train = counts.get("train", ())
    total = sum(train)
    shares = {n: c / total for n, c in zip(seen.classes.names, train, strict=False) if total and c}
    rare = {name: share for name, share in shares.items() if share < _RARE}
    if not rare:
        return
    weighted = any(getattr(term, "class_weights", None) for term in seen.recipe.loss)
    drawn = seen.recipe.data.sampling.kind in ("balanced", "foreground")
    region = any(not isinstance(term, CrossEntropy) for term in seen.recipe.loss)
    listed = ", ".join(f"{name} {share:.2%}" for name, share in rare.items())
    already = [
        words
        for words, done in (
            ("class weights", weighted),
            ("balanced sampling", drawn),
            ("a loss that counts regions", region),
        )
        if done
    ]
    largest = max(shares.values())
    weights = [
        round(min(_MAX_WEIGHT, (largest / shares[n]) ** 0.5), 1) if n in shares else 1.0 for n in seen.classes.names
    ]
    yield Finding(
        "rare_classes",
        "warning" if min(rare.values()) < _VERY_RARE and not (weighted or drawn) else "note",
        f"Of the annotated pixels of the train split only {listed}.",
        "The loss can become small without them. The recipe answers with "
        + (" and ".join(already) if already else "nothing so far")
        + ".",
        "draw more windows that hold them, and weigh them in the loss (roots of the inverse shares)",
        "data:\n  sampling: {kind: balanced, classes: ["
        + ", ".join(rare)
        + "], share: 0.5}\nloss:\n  - {kind: cross_entropy, class_weights: "
        + str(weights)
        + "}\n  - {kind: dice}",
        rank=40,
    )


def _differing(seen: Gathered) -> Iterator[Finding]:
    """Groups, or the whole set, in which a class is much more frequent in one split than in another."""
    judged = seen.recipe.evaluate.split
    groups = sorted({e.group for e in seen.entries})
    several = 1 < len(groups) < len(seen.entries)
    said = []
    for group in [None, *(groups if several else ())]:
        of = {split: _pooled(seen, split, group) for split in ("train", judged)}
        if any(sum(counts) == 0 for counts in of.values()):
            continue
        for position, name in enumerate(seen.classes.names):
            train, test = (of[split][position] / sum(of[split]) for split in ("train", judged))
            low, high = sorted((train, test))
            if low > 0 and high >= _COUNTS and high > _OTHER_SHARE * low:
                where = "" if group is None else f" of group {group}"
                said.append((high / low, f"{name} is {train:.1%} of train and {test:.1%} of {judged}{where}"))
    if said:
        said.sort(reverse=True)
        yield Finding(
            "shares_differ",
            "note",
            "Classes are not equally frequent in the splits: " + "; ".join(text for _, text in said[:4]) + ".",
            "A model learns how frequent a class is. Precision and recall move with it, and scores of train and "
            f"{judged} cannot be compared.",
            "nothing, if the splits are what they must be; else divide so that each holds every kind of place",
            rank=42,
        )


def _pooled(seen: Gathered, split: str, group: str | None) -> list[int]:
    """Labelled pixels per class of a split, of one group of it or of all."""
    of = [
        seen.tallies[e.id].counts
        for e in seen.split(split)
        if e.id in seen.tallies and (group is None or e.group == group)
    ]
    return [sum(column) for column in zip(*of, strict=True)] if of else [0]


def _shifted(seen: Gathered) -> Iterator[Finding]:
    """A shift that most scenes of the set, or of a group, show is reported with what to do; others are worth a look."""
    evidence = {e.id: (s.shifts, s.explained) for e, s in seen.usable if len(s.shifts) == 2 and s.explained is not None}
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for entry, _ in seen.usable:
        if entry.id in evidence:
            groups[entry.group].append(entry.id)
    if common := label_shift.agreed(list(evidence.values())):
        yield _shift("the set", *common, list(evidence))
        return
    moved: set[str] = set()
    for group, members in sorted(groups.items()):
        if common := label_shift.agreed([evidence[i] for i in members]):
            yield _shift(f"group {group}", *common, members)
            moved.update(members)
    alone = {
        i: shift for i, (halves, _) in evidence.items() if i not in moved and (shift := label_shift.suspect(halves))
    }
    clear = {i: shift for i, shift in alone.items() if label_shift.explains(evidence[i][1], shift)}
    if clear:
        yield _look_at(clear, len(evidence), "warning")
    if vague := {i: shift for i, shift in alone.items() if i not in clear}:
        yield _look_at(vague, len(evidence), "note")


def _shift(where: str, shift: Shift, alike: int, scenes: Sequence[str]) -> Finding:
    down = f"{abs(shift.rows)} pixels {'down' if shift.rows > 0 else 'up'}"
    right = f"{abs(shift.cols)} pixels {'right' if shift.cols > 0 else 'left'}"
    move = " and ".join(text for text, pixels in ((down, shift.rows), (right, shift.cols)) if pixels)
    return Finding(
        "shifted_labels",
        "error" if shift.gain >= _CERTAIN_GAIN else "warning",
        f"In {where}, labels lie about {shift.pixels:.1f} pixels away from what they describe: {alike} of "
        f"{len(scenes)} scenes show the same shift by themselves. Moved {move}, label edges meet {shift.gain:.2f} "
        "times as much change in the image, and the classes differ more.",
        "The network learns the offset, or learns blurred edges, and scores are too low or too high by as much.",
        f"look at some chips with their masks; if it is so, move the labels {move} (change the label's transform) or "
        "get better ones",
        "",
        tuple(scenes),
        rank=10,
    )


def _look_at(found: Mapping[str, Shift], num_scenes: int, severity: Severity) -> Finding:
    far = sorted(found, key=lambda i: -found[i].gain)
    listed = ", ".join(f"{i} ({found[i].pixels:.1f} pixels)" for i in far[:_SHOWN_CODES])
    more = f" and {len(far) - _SHOWN_CODES} more" if len(far) > _SHOWN_CODES else ""
    return Finding(
        "shifted_labels",
        severity,
        f"In {len(found)} of {num_scenes} scenes, label edges meet more change in the image a little away from where "
        f"they are: {listed}{more}. The other scenes do not show such a shift.",
        "A misaligned label teaches blurred edges. Shadows, verges, and labels that are drawn too wide look the "
        "same to this measure, so it is no reason to move anything.",
        "look at these scenes with their masks",
        "",
        tuple(far),
        rank=28,
    )
