"""Read everything that the checks need, before anything is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.data.doctor import access
from pipeline.data.doctor import read_plan as planning
from pipeline.data.doctor.access import Problem
from pipeline.data.doctor.findings import Entry, LabelTally, Sample, Timing
from pipeline.data.doctor.read_plan import ReadPlan
from pipeline.data.doctor.scene_sample import sample
from pipeline.data.doctor.threads import in_threads
from pipeline.data.labels.classes import Classes
from pipeline.data.scenes.index import kept_splits
from pipeline.data.scenes.pointer_files import Pointer
from pipeline.errors import PipelineError
from pipeline.log import Advance
from pipeline.recipe import Data, Recipe

_TIMED_SCENES: Final = 12
_TIMED_WINDOWS: Final = 4


@dataclass(frozen=True)
class Gathered:
    """What was read. `pointers` are files whose content was not fetched, `problems` concern the set as a whole,
    `unmatched` says which labels belong to no image ("" if none), `stamps` are hashes of content by scene id."""

    recipe: Recipe
    classes: Classes
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    unmatched: str
    plan: ReadPlan
    samples: dict[str, Sample]
    tallies: dict[str, LabelTally]
    stamps: dict[str, str]
    timing: Timing
    pointers: tuple[Pointer, ...] = ()
    out: str = ""
    """Where the report lies; empty if none is written."""

    def split(self, name: str) -> list[Entry]:
        """The scenes of a split."""
        return [e for e in self.entries if e.split == name]

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands: the recipe's, or those of most scenes."""
        of = [e.info.bands for e in self.entries if e.info is not None]
        usual = max(set(of), key=of.count) if of else ()
        names = self.recipe.data.bands
        return tuple(names) if names and len(names) == len(usual) else usual

    @property
    def usable(self) -> list[tuple[Entry, Sample]]:
        """Scenes that were sampled without trouble and have the usual number of bands."""
        return [
            (e, s)
            for e in self.plan.chosen
            if (s := self.samples[e.id]).problem is None and s.num_pixels and len(s.values) == len(self.bands)
        ]


def gather(recipe: Recipe, progress: Advance | None) -> Gathered:
    """Read headers of all scenes, labels, samples of pixels, and time some reads."""
    data = recipe.data
    classes = Classes.from_section(data)
    entries, problems, unmatched = access.entries(data, kept_splits(recipe), _stage(progress, "headers"))
    plan = planning.plan(entries)
    sampled = in_threads(lambda e: sample(e, plan, classes, data), plan.chosen, _stage(progress, "pixels"))
    labelled = [e for e in entries if e.label is not None and e.info is not None and not e.problems]
    counted = in_threads(lambda e: _tally(e, plan, classes, data, len(labelled)), labelled, _stage(progress, "labels"))
    stamped = in_threads(lambda e: _stamp(e, data), plan.chosen, _stage(progress, "blocks"))
    samples = {s.id: s for s in sampled}
    for entry, outcome in [*zip(labelled, counted, strict=True), *zip(plan.chosen, stamped, strict=True)]:
        if isinstance(outcome, PipelineError) and entry.id in samples and samples[entry.id].problem is None:
            samples[entry.id] = Sample(entry.id, problem=access.problem_of(outcome))
    return Gathered(
        recipe=recipe,
        classes=classes,
        entries=tuple(entries),
        problems=(*problems, *access.disagreements(entries, data)),
        unmatched=unmatched,
        plan=plan,
        samples=samples,
        tallies={e.id: t for e, t in zip(labelled, counted, strict=True) if isinstance(t, LabelTally)},
        stamps={e.id: s for e, s in zip(plan.chosen, stamped, strict=True) if isinstance(s, str)},
        timing=_time(recipe, plan, samples),
        pointers=access.pointers(data),
    )


def _tally(entry: Entry, plan: ReadPlan, classes: Classes, data: Data, num_scenes: int) -> LabelTally | PipelineError:
    windows = planning.label_windows(entry, plan.labels_whole, num_scenes)
    try:
        return access.tally(entry, windows, classes, data, plan.labels_whole)
    except PipelineError as error:
        return error


def _stamp(entry: Entry, data: Data) -> str | PipelineError:
    try:
        return access.stamp(entry, data)
    except PipelineError as error:
        return error


def _time(recipe: Recipe, plan: ReadPlan, samples: dict[str, Sample]) -> Timing:
    """One after the other, in this thread, so that they do not disturb each other."""
    readable = [e for e in plan.chosen if samples[e.id].problem is None]
    step = max(1, len(readable) // _TIMED_SCENES)
    size = recipe.data.sampling.size
    seconds = {}
    for entry in readable[::step][:_TIMED_SCENES]:
        windows = planning.timed_windows(entry, size, _TIMED_WINDOWS)
        seconds[entry.id] = access.seconds(entry, windows, recipe.data)
    return Timing(size, seconds)


def _stage(progress: Advance | None, name: str) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, note=name)

    return advance
