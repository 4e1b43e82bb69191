"""Records of an audit: findings, samples of scenes, and totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.doctor.near_duplicates import Marks
from pipeline.data.doctor.sentinels import Extreme, Rim
from pipeline.data.labels.summary import LabelSummary
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.file_notices import AlphaValues
from pipeline.data.scenes.scene import SceneFiles

AUDIT_VERSION: Final = 1
JSON_NAME: Final = "report.json"
HTML_NAME: Final = "report.html"

Severity = Literal["error", "warning", "note"]
"""error: training would fail or be wrong. warning: the score would suffer or mislead. note: worth knowing."""
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: stable name, such as `unknown_codes`.
        severity: how bad it is.
        what: what was seen, with numbers.
        why: why it matters.
        fix: what to do.
        command: the exact command, or the lines of the recipe; empty where there is none.
        scenes: ids of the scenes concerned; () means all, or the recipe.
        rank: findings of one severity are listed by it, the smallest first.
    """

    kind: str
    severity: Severity
    what: str
    why: str
    fix: str
    command: str = ""
    scenes: tuple[str, ...] = ()
    rank: int = 50


@dataclass(frozen=True)
class Entry(SceneFiles):
    """One scene as the headers of its files describe it.

    Attributes:
        split, group: as of a Scene; the split is empty where it is not known.
        info: header of the image's file; None where it could not be opened.
        num_bytes: size of the image's files.
        problems: what is wrong with its files, as (message, hint).
        misses: its footprint, if no shape of it touches the scene, else empty.
        origin, size: first pixel, height and width in the file, where a scene is a part of it.
        bands: as of a Scene; the names in `info` are those of these bands.
    """

    split: str
    group: str
    info: RasterInfo | None
    num_bytes: int = 0
    problems: tuple[tuple[str, str], ...] = ()
    misses: str = ""
    origin: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    bands: tuple[int, ...] = ()

    @property
    def grid(self) -> Grid:
        """Grid of the scene; without pixels where it could not be opened."""
        if self.info is None:
            return Grid(0, 0)
        return self.info.grid if self.size is None else self.info.grid.part(*self.origin, *self.size)

    @property
    def num_pixels(self) -> int:
        """Number of pixels of all slices; 0 where it could not be opened."""
        return self.grid.height * self.grid.width * (self.info.slices if self.info else 1)


@dataclass(frozen=True)
class Patch:
    """A window as read: pixels [C,h,w] in the file's dtype, valid [h,w], mask [h,w] uint8 (IGNORE: not annotated)."""

    window: Window
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Thumbnail:
    """A small view of a whole scene, or of a part: pixels [C,h,w], valid [h,w], mask [h,w]."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    mask: NDArray[np.uint8]
    whole: bool


@dataclass(frozen=True)
class Sample:
    """Result of reading some windows of one scene.

    Attributes:
        id: of the scene.
        num_pixels, num_valid: read, and valid among them.
        num_annotated: valid and labelled.
        values: [C, n] some of the valid pixels, in the file's dtype.
        ids: [n] their classes, and IGNORE.
        saturated: share of the valid pixels at the end of the dtype's range, per band.
        blank: share of the valid pixels that are 0 in all bands, in flat areas.
        labelled: [K, 2] labelled pixels of each class that were read, and those of them whose image is valid.
        extremes: values at the ends of each band's range that may stand for not measured.
        alpha: what the band that is tagged alpha holds in some blocks; None without one.
        rim: the flat border of a scene that was read whole.
        shifts: per half of the windows, the correlation surface of label edges with image edges, and its weight.
        explained: variance of the image that classes explain, for each shift of the label, and its weight.
        marks: content that can be recognised, of scenes that were read whole.
        thumbnail: None where there is none.
        problem: why reading stopped; empty if nothing was wrong.
    """

    id: str
    num_pixels: int = 0
    num_valid: int = 0
    num_annotated: int = 0
    values: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    ids: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)
    saturated: tuple[float, ...] = ()
    blank: float = 0.0
    labelled: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64), repr=False)
    extremes: tuple[Extreme, ...] = field(default=(), repr=False)
    rim: Rim | None = None
    alpha: AlphaValues | None = None
    shifts: tuple[tuple[NDArray[np.float64], float], ...] = field(default=(), repr=False)
    explained: tuple[NDArray[np.float64], float] | None = field(default=None, repr=False)
    marks: Marks = field(default_factory=Marks.none, repr=False)
    thumbnail: Thumbnail | None = field(default=None, repr=False)
    problem: tuple[str, str] | None = None

    @property
    def medians(self) -> NDArray[np.float64]:
        """Median per band of the sampled pixels [C]; NaN without any."""
        if self.values.shape[1] == 0:
            return np.full(self.values.shape[0], np.nan)
        return np.asarray(np.median(self.values, axis=1), np.float64)


@dataclass(frozen=True)
class LabelTally:
    """Labelled pixels of one scene: per class, and per value that no class claims.

    `whole` is False where only some windows of the label were read. `label` is all that the label says, where it could
    be read whole; `warnings` are sentences worth a look.
    """

    counts: tuple[int, ...]
    unknown_values: Counter[str] = field(default_factory=Counter)
    whole: bool = True
    warnings: tuple[str, ...] = ()
    label: LabelSummary = field(default_factory=LabelSummary)


@dataclass(frozen=True)
class Timing:
    """Timed reads of windows of `size` × `size` pixels: seconds each, by scene id."""

    size: int
    seconds: dict[str, tuple[float, ...]]

    @property
    def mean(self) -> float:
        """Seconds per window over all scenes; NaN without reads."""
        all_of_them = [s for values in self.seconds.values() for s in values]
        return sum(all_of_them) / len(all_of_them) if all_of_them else float("nan")


@dataclass(frozen=True)
class BandRow:
    """One band over all sampled pixels; `histogram` holds shares of equal steps from `low` to `high`."""

    name: str
    low: float
    high: float
    percentiles: dict[str, float]
    mean: float
    std: float
    histogram: dict[str, tuple[float, ...]] = field(repr=False)
    """By split."""


@dataclass(frozen=True)
class ClassRow:
    """One class: labelled pixels and share of its split, and in how many scenes it is, each by split."""

    name: str
    color: str
    pixels: dict[str, int]
    share: dict[str, float]
    scenes: dict[str, int]


@dataclass(frozen=True)
class SceneRow:
    """One scene as the page lists it; None or "" where it is not known."""

    id: str
    split: str
    group: str
    size: str
    crs: str
    pixel: str
    bands: str
    storage: str
    num_bytes: int
    valid: float | None
    annotated: float | None
    medians: tuple[float, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """All that was found. `report.json` is this record; NaN becomes null there."""

    uri: str
    """Directory of report.json and report.html."""
    name: str
    created: str
    """UTC, ISO 8601."""
    seconds: float
    root: str
    findings: tuple[Finding, ...]
    first: tuple[str, ...]
    """What to change first: kinds of findings, in order."""
    splits: dict[str, dict[str, int]]
    """Scenes, groups and pixels of each split."""
    scenes: tuple[SceneRow, ...]
    bands: tuple[BandRow, ...]
    classes: tuple[ClassRow, ...]
    estimates: dict[str, float | str]
    looked: tuple[str, ...]
    """What was read and what was only sampled, as sentences."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that would make training fail or be wrong."""
        return self.of("error")

    @property
    def exit_code(self) -> int:
        """3 if training would be wrong, else 0."""
        return 3 if self.errors else 0

    @property
    def wrong(self) -> bool:
        """True if training would fail or be wrong."""
        return bool(self.errors)

    def text(self) -> str:
        """Text for a terminal: the findings, and the path of the page."""
        lines = [_as_text(finding) for finding in self.findings]
        verdict = "training would be wrong" if self.wrong else "nothing stands against training"
        return "\n".join([*lines, f"{verdict}: {store.join(self.uri, HTML_NAME)}"])

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    def to_json(self) -> dict[str, Any]:
        """As plain values; where the report lies is left out."""
        tree = asdict(self) | {"audit_version": AUDIT_VERSION, "exit_code": self.exit_code}
        del tree["uri"]
        cleaned: dict[str, Any] = store.nan_to_null(tree)
        return cleaned


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; by rank within."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.rank, f.kind, f.what)))


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 scene, 2 scenes, 1,000 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def _as_text(finding: Finding) -> str:
    """Text of a finding: description, fix, and the command or the lines of the recipe."""
    below = [f"-> {finding.fix}", *(f"   {line}" for line in finding.command.splitlines())]
    return "\n".join([f"{finding.severity:<7}  {finding.what}", *(f"{'':<9}{line}" for line in below)])
