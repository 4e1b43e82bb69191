"""The HTML page of an audit: one self-contained file."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined, Template

from pipeline.data.doctor import charts
from pipeline.data.doctor.findings import SEVERITIES, Audit, Finding
from pipeline.data.doctor.gather import Gathered

_SHOWN_SCENES: Final = 200
_SHOWN_PICTURES: Final = 24
_SHOWN_BANDS: Final = 32
_SHOWN_CLASSES: Final = 60
_SHOWN_FINDINGS: Final = 80
_SHOWN_IDS: Final = 12


def html(audit: Audit, seen: Gathered) -> str:
    """The page of an audit; it stays below a few megabytes however large the set is."""
    pictured = _pictured(audit, seen)
    rows = sorted(audit.scenes, key=lambda s: (not s.flags, s.id))
    return _template().render(
        audit=audit,
        findings=audit.findings[:_SHOWN_FINDINGS],
        severities=[(s, len(audit.of(s))) for s in SEVERITIES],
        first=_first(audit),
        maps=charts.maps(seen.entries),
        scenes=rows[:_SHOWN_SCENES],
        flagged=any(row.flags for row in rows),
        pictures=[
            (seen_of, charts.pictures(thumbnail, seen.bands, seen.classes))
            for seen_of in audit.scenes
            if seen_of.id in pictured and (thumbnail := seen.samples[seen_of.id].thumbnail) is not None
        ],
        bands=[(band, charts.histogram(band)) for band in audit.bands[:_SHOWN_BANDS]],
        classes=audit.classes[:_SHOWN_CLASSES],
        splits=list(audit.splits),
        shown_ids=_SHOWN_IDS,
    )


def _first(audit: Audit) -> list[tuple[Finding, list[str]]]:
    """Actions in order: the gravest finding of each kind, with the scenes of all findings of the kind."""
    out = []
    for kind in audit.first:
        of = [f for f in audit.findings if f.kind == kind]
        named = list(dict.fromkeys(i for f in of for i in f.scenes))
        out.append((of[0], named if len(named) < len(audit.scenes) else []))
    return out


def _pictured(audit: Audit, seen: Gathered) -> set[str]:
    """Scenes to show: those with findings, then some of every split, evenly."""
    there = [s for s in audit.scenes if s.id in seen.samples and seen.samples[s.id].thumbnail is not None]
    telling = [s.id for s in there if s.flags]
    chosen = telling[: _SHOWN_PICTURES // 2]
    rest = sorted((s for s in there if s.id not in chosen), key=lambda s: (s.split, s.group, s.id))
    room = _SHOWN_PICTURES - len(chosen)
    if rest:
        chosen += (
            [rest[int(k * len(rest) / room)].id for k in range(room)] if len(rest) > room else [s.id for s in rest]
        )
    return set(chosen)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "size": _bytes,
        "duration": _duration,
        "thousands": lambda number: f"{number:,}",
        "short": lambda text, length: text if len(text) <= length else f"{text[: length - 1]}…",
    }
    return environment.from_string(files("pipeline.data.doctor").joinpath("page.html.j2").read_text(encoding="utf-8"))


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if 0.9995 <= value < 1:
        return "> 99.9\N{NO-BREAK SPACE}%"
    return f"{100 * value:.{0 if value in (0, 1) else 1 if value >= 0.001 else 3}f}\N{NO-BREAK SPACE}%"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}\N{NO-BREAK SPACE}{unit}"
        value /= 1000
    return f"{value:.3g}\N{NO-BREAK SPACE}TB"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    for limit, unit, text in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{seconds / unit:.3g}\N{NO-BREAK SPACE}{text}"
    return f"{seconds / 3600:.3g}\N{NO-BREAK SPACE}h"
