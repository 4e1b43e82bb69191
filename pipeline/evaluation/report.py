"""The report of an evaluation: confusion counts first, scores second; JSON, and one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline import config, store
from pipeline.data.chips.quarantine import LeftOut
from pipeline.data.feed import batch_diversity
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.windows import Window
from pipeline.errors import DataError
from pipeline.evaluation import figures

REPORT_VERSION = 1
JSON_NAME = "report.json"
HTML_NAME = "report.html"

_SHOWN_SCENES = 200
_LEFT_OUT = ("left_out", "left_out_of_training")
_DECISION_BEGIN, _DECISION_END = "<!-- decision -->", "<!-- /decision -->"

Counts = tuple[tuple[Any, ...], ...]
"""Confusion counts [K][K] in pixels: rows are the label's class, columns the predicted one. Of a multilabel task
[K][2][2]: for each class whether it is there, and whether it was predicted."""
Scores = dict[str, float]
"""Ratios by name (miou, accuracy, iou.CLASS, ...); NaN where a class is neither labelled nor predicted."""
_Row = tuple[str, Scores, tuple[str, ...]]


@dataclass(frozen=True)
class SceneResult:
    """One scene's counts and scores."""

    id: str
    group: str
    confusion: Counts
    scores: Scores

    @property
    def num_pixels(self) -> int:
        """Pixels that were judged."""
        return _total(self.confusion)


@dataclass(frozen=True)
class Example:
    """One pictured window; `miou` is over the classes that hold a percent of it."""

    kind: str
    scene: str
    window: Window
    miou: float
    error_share: float


@dataclass(frozen=True)
class Report:
    """A bundle's scores on one split of one manifest."""

    uri: str
    """Directory of report.json and report.html."""
    name: str
    split: str
    created: str
    """UTC, ISO 8601."""
    seconds: float
    bundle_uri: str
    bundle_digest: str
    manifest_digest: str
    split_digest: str
    """Of the split's scenes alone: equal where a manifest changed only in its other splits."""
    fingerprint: str
    step: int
    run_id: str | None
    classes: Classes
    confusion: Counts
    scores: Scores
    groups: dict[str, Scores]
    scenes: tuple[SceneResult, ...]
    examples: tuple[Example, ...]
    curves: tuple[dict[str, float], ...]
    """Recorded metrics of the run that trained the bundle, where they could be found."""
    predict: dict[str, Any]
    """The predict section that was used."""
    recipe: dict[str, Any] = field(repr=False)
    """What trained the bundle."""
    task: str = "multiclass"
    """Or multilabel."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What could not be read and so was not judged; and scenes, of any split, that are not in the manifest."""
    left_out_of_training: LeftOut = field(default_factory=LeftOut)
    """What the run that trained the bundle could not read, where that could be found."""
    mixing: dict[str, float] = field(default_factory=dict)
    """Batch diversity of the run that trained it; empty where that is not known."""

    @property
    def num_pixels(self) -> int:
        """Pixels that were judged; multilabel: of all classes together."""
        return _total(self.confusion)

    def to_json(self) -> dict[str, Any]:
        """As plain values; NaN becomes null, and where the report lies is left out."""
        tree = asdict(self) | {"classes": self.classes.to_json(), "report_version": REPORT_VERSION}
        tree |= {name: getattr(self, name).to_json() for name in _LEFT_OUT}
        del tree["uri"]
        cleaned: dict[str, Any] = store.nan_to_null(tree)
        return cleaned

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], uri: str) -> Report:
        """The opposite of `to_json`, for the report that lies in the directory `uri`."""
        values = {k: v for k, v in tree.items() if k != "report_version"}
        values |= {
            "classes": Classes.from_json(tree["classes"]),
            "confusion": as_counts(tree["confusion"]),
            "scores": _scores(tree["scores"]),
            "groups": {group: _scores(scores) for group, scores in tree["groups"].items()},
            "scenes": tuple(
                SceneResult(s["id"], s["group"], as_counts(s["confusion"]), _scores(s["scores"]))
                for s in tree["scenes"]
            ),
            "examples": tuple(Example(**{**e, "window": Window(*e["window"])}) for e in tree["examples"]),
            "curves": tuple(dict(row) for row in tree["curves"]),
            **{name: LeftOut.from_json(tree[name]) for name in _LEFT_OUT if name in tree},
        }
        return cls(uri=uri, **values)


def read(uri: str) -> Report:
    """The report in a directory.

    Raises:
        DataError: there is none, it is damaged, or it comes from a newer version.
    """
    path = store.join(uri, JSON_NAME)
    try:
        return store.read_record(path, partial(_parse, uri), "evaluate again with --overwrite")
    except FileNotFoundError:
        raise DataError(f"{path}: no report here", "write one with `segpipe evaluate`") from None


def _parse(uri: str, tree: Any) -> Report:
    version = tree["report_version"]
    if version > REPORT_VERSION:
        path = store.join(uri, JSON_NAME)
        raise DataError(f"{path}: report version {version}, this program knows {REPORT_VERSION}", "update segpipe")
    return Report.from_json(tree, uri)


def write(report: Report, shown: Sequence[Mapping[str, str]] = ()) -> None:
    """Write report.html and then report.json into `report.uri`; the JSON says that the report is complete.

    Args:
        report: what to write.
        shown: for each of `report.examples`, its pictures by name (image, label, prediction, errors) as data URIs.
    """
    store.write_bytes(store.join(report.uri, HTML_NAME), html(report, shown).encode())
    store.write_json(store.join(report.uri, JSON_NAME), report.to_json())


def add_decision(uri: str, heading: str, promoted: bool, reasons: Sequence[str]) -> None:
    """Show a gate's decision in the page of the report at `uri`, in place of an earlier one."""
    path = store.join(uri, HTML_NAME)
    page = store.read_bytes(path).decode(errors="replace")
    before, _, rest = page.partition(_DECISION_BEGIN)
    _, _, after = rest.partition(_DECISION_END)
    items = Markup("").join(Markup("<li>{}</li>").format(reason) for reason in reasons)
    kind = "good" if promoted else "bad"
    block = Markup('<section class="decision {}"><h2>{}</h2><ul>{}</ul></section>').format(kind, heading, items)
    store.write_bytes(path, f"{before}{_DECISION_BEGIN}{block}{_DECISION_END}{after}".encode())


def html(report: Report, shown: Sequence[Mapping[str, str]] = ()) -> str:
    """The page: one file without links to others, so that it can be mailed and opened offline."""
    grouped = 1 < len(report.groups) < len(report.scenes)  # else a table of groups says what that of scenes says
    return _template().render(
        report=report,
        classes=_class_rows(report),
        matrix=_matrix(report),
        majority=majority_miou(report.confusion, report.task),
        groups=_worst_first([(name, scores, ()) for name, scores in report.groups.items()]) if grouped else [],
        scenes=_worst_first([(s.id, s.scores, (s.group, f"{s.num_pixels:,}")) for s in report.scenes])[:_SHOWN_SCENES],
        curves=[Markup(figure) for figure in figures.curves(report.curves)],
        mixed=batch_diversity.summary_text(report.mixing),
        galleries=[
            (kind, [(e, p) for e, p in zip(report.examples, shown, strict=True) if e.kind == kind])
            for kind in ("worst", "best")
        ],
        lost=[("here", report.left_out.rows), ("in training", report.left_out_of_training.rows)],
        settings=list(config.leaves(report.recipe)),
        wrong="#{:02x}{:02x}{:02x}".format(*figures.WRONG),
        decision_marks=(Markup(_DECISION_BEGIN), Markup(_DECISION_END)),
    )


def majority_miou(confusion: Counts, task: str = "multiclass") -> float:
    """Mean IoU of a model that always predicts the most frequent class, or all of a multilabel task: what any other
    must beat."""
    if task == "multilabel":
        shares = [sum(there) / max(sum(gone) + sum(there), 1) for gone, there in confusion if sum(there)]
        return sum(shares) / len(shares) if shares else math.nan
    truth = [sum(row) for row in confusion]
    present = sum(1 for pixels in truth if pixels)
    return max(truth) / sum(truth) / present if present else math.nan


def _class_rows(report: Report) -> list[dict[str, Any]]:
    rows = []
    for position, name in enumerate(report.classes.names):
        table = report.confusion[position]
        planes = report.task == "multilabel"
        pixels = sum(table[1] if planes else table)
        rows.append(
            {
                "name": name,
                "color": "#{:02x}{:02x}{:02x}".format(*report.classes.colors[position]),
                "share": pixels / max(sum(map(sum, table)) if planes else report.num_pixels, 1),
                **{key: report.scores[f"{key}.{name}"] for key in ("iou", "dice", "precision", "recall")},
            }
        )
    return rows


def _matrix(report: Report) -> list[dict[str, Any]]:
    """Each row of the confusion with its counts and their shares of the row; multilabel: each class's four counts."""
    rows = []
    for name, table in zip(report.classes.names, report.confusion, strict=True):
        row = [table[1][1], table[1][0], table[0][1], table[0][0]] if report.task == "multilabel" else table
        total = sum(row)
        rows.append({"name": name, "total": total, "cells": [(n, n / total if total else math.nan) for n in row]})
    return rows


def _worst_first(rows: Sequence[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: math.inf if math.isnan(row[1]["miou"]) else row[1]["miou"])


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "score": lambda value: "–" if math.isnan(value) else f"{value:.3f}",
        "percent": lambda value: "–" if math.isnan(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%",
        "width": lambda value: 0 if math.isnan(value) else round(value, 4),
        "thousands": lambda number: f"{number:,}",
    }
    return environment.from_string(files("pipeline.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8"))


def _total(confusion: Any) -> int:
    return sum(map(_total, confusion)) if isinstance(confusion, tuple) else int(confusion)


def as_counts(rows: Sequence[Any]) -> Counts:
    """Nested lists as nested tuples."""
    return tuple(as_counts(row) if isinstance(row[0], Sequence) else tuple(row) for row in rows)


def _scores(tree: Mapping[str, float | None]) -> Scores:
    return {name: math.nan if value is None else value for name, value in tree.items()}
