"""Choose the windows that the doctor reads: bounded, spread evenly, deterministic. Pure arithmetic."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.data.doctor.findings import Entry
from pipeline.data.rasters.windows import Window, divide

MAX_SCENES: Final = 1000
"""Pixels are read from at most so many scenes."""
PIXELS: Final = 150_000_000
"""About so many pixels of images are read in all."""
LABEL_PIXELS: Final = 1_000_000_000
"""Labels are read whole up to so many pixels in all."""
SIDE: Final = 256
"""Height and width of a window that is looked at."""
WHOLE: Final = 512 * 512
"""Scenes of up to so many pixels are read whole in any case."""

_MAX_WINDOWS: Final = 24
_LARGEST_WHOLE: Final = 4 << 20
_LABEL_SIDE: Final = 1024


@dataclass(frozen=True)
class ReadPlan:
    """Which scenes are sampled, and the largest number of windows of each."""

    chosen: tuple[Entry, ...]
    windows: int
    whole_pixels: int
    """Scenes of up to so many pixels are read whole."""
    labels_whole: bool


def plan(entries: Sequence[Entry]) -> ReadPlan:
    """Choose among the scenes that can be opened: all, or evenly from every split."""
    usable = [e for e in entries if e.info is not None]
    chosen = list(usable)
    if len(usable) > MAX_SCENES:
        step = len(usable) / MAX_SCENES
        ordered = sorted(usable, key=lambda e: (e.split, e.group, e.id))
        chosen = [ordered[int(k * step)] for k in range(MAX_SCENES)]
    share = PIXELS // (max(len(chosen), 1) * SIDE * SIDE)
    everything = sum(e.num_pixels for e in chosen)
    labelled = sum(e.num_pixels for e in entries if e.label is not None)
    return ReadPlan(
        chosen=tuple(sorted(chosen, key=lambda e: e.id)),
        windows=min(_MAX_WINDOWS, max(1, share)),
        whole_pixels=_LARGEST_WHOLE if everything <= PIXELS else WHOLE,
        labels_whole=labelled <= LABEL_PIXELS,
    )


def windows(entry: Entry, most: int, *, everything: bool = False) -> list[Window]:
    """The windows of a scene to look at: `most` of them at random, none twice; or all, which cover it."""
    if entry.info is None:
        return []
    height, width = entry.grid.height, entry.grid.width
    places = list(itertools.product(_pieces(height), _pieces(width), _some_slices(entry.info.slices)))
    if len(places) > most and not everything:
        rng = np.random.default_rng(zlib.crc32(entry.id.encode()))
        picked = rng.choice(len(places), most, replace=False)
        places = [places[int(k)] for k in np.sort(picked)]
    return [Window(r, c, min(SIDE, height - r), min(SIDE, width - c), s) for r, c, s in places]


def whole(entry: Entry, plan: ReadPlan) -> Window | None:
    """A window that is all of a scene, where that is small enough to be read so; None otherwise."""
    if entry.info is None or entry.num_pixels > plan.whole_pixels or entry.info.slices > 1:
        return None
    return Window(0, 0, entry.grid.height, entry.grid.width)


def label_windows(entry: Entry, labels_whole: bool, num_scenes: int) -> list[Window]:
    """The windows of a label to count: all, or evenly spread ones."""
    if entry.info is None:
        return []
    height, width = entry.grid.height, entry.grid.width
    every = list(divide(height, width, _LABEL_SIDE, _LABEL_SIDE, entry.info.slices))
    if labels_whole:
        return every
    most = max(1, LABEL_PIXELS // (_LABEL_SIDE**2 * num_scenes))
    return every[:: math.ceil(len(every) / most)]


def timed_windows(entry: Entry, size: int, count: int) -> list[Window]:
    """Windows of the size of a chip at random places inside a scene, for timing."""
    if entry.info is None:
        return []
    rng = np.random.default_rng(zlib.crc32(entry.id.encode()) + 1)
    height, width = entry.grid.height, entry.grid.width
    h, w = min(size, height), min(size, width)
    return [
        Window(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w) for _ in range(count)
    ]


def _pieces(length: int) -> range:
    return range(0, length, SIDE)


def _some_slices(slices: int) -> list[int]:
    """At most three, away from the ends, which often show nothing."""
    return sorted({slices // 4, slices // 2, 3 * slices // 4})
