"""Sections about labels: the meaning of their values and how they are read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from pipeline.config import Section

_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]*")
_RANGE: Final = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)")
_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}")


def canonical(value: int | str) -> int | str:
    """One spelling per label value: whole numbers as int, colours in small letters, all else as it is.

    Raises:
        ValueError: a range whose end lies before its start, "#" without six hexadecimal digits, more than 64 bits.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, str) and value.startswith("#"):
        if not _COLOR.fullmatch(value):
            raise ValueError(f"{value!r} is no colour; colours are #rrggbb")
        return value.lower()
    first, last = span_of(value) or (0, 0)
    if first > last:
        raise ValueError(f"the range {value!r} ends before it begins")
    if first < -(1 << 62) or last > 1 << 62:
        raise ValueError(f"{value} is larger than any label value can be")
    return value


def span_of(value: int | str) -> tuple[int, int] | None:
    """First and last number that a label value stands for; None for a colour or a word."""
    if isinstance(value, int):
        return value, value
    bounds = _RANGE.fullmatch(value)
    return (int(bounds[1]), int(bounds[2])) if bounds else None


def color_of(value: int | str) -> int | None:
    """A colour as red * 65536 + green * 256 + blue; None for anything else."""
    return int(value[1:], 16) if isinstance(value, str) and _COLOR.fullmatch(value) else None


def values_of(spec: ClassSpec, position: int, *, named: bool) -> tuple[int | str, ...]:
    """The label values of the class at a position of the list; `named`: its name is one, unless it gives others."""
    if spec.values is not None:
        return tuple(map(canonical, spec.values))
    plain = span_of(spec.name) is None and not _NUMBER.fullmatch(spec.name) and not spec.name.startswith("#")
    return (position, spec.name) if named and plain else (position,)


def distinct(classes: Sequence[ClassSpec], ignore_values: Iterable[int | str], *, named: bool = False) -> None:
    """Refuse label values that two classes claim, or a class and `ignore_values`; ranges count with all they hold.

    Args:
        classes: in order of their ids.
        ignore_values: what means: not annotated.
        named: labels are attributes of shapes, so that a class without values has its name for one.

    Raises:
        ValueError: names the value and both owners.
    """
    words: dict[int | str, str] = {}
    spans: list[tuple[int, int, str]] = []
    for owner, value in _claims(classes, ignore_values, named):
        span = span_of(value)
        if span is not None:
            spans.append((*span, owner))
        elif value in words:
            raise ValueError(f"classes: label value {value} belongs to {words[value]} and to {owner}")
        else:
            words[value] = owner
    # Sorted by their starts, overlapping spans are neighbours (the first of all that overlap, at least).
    spans.sort(key=lambda s: s[:2])
    for (_, last, owner), (first, _, other) in itertools.pairwise(spans):
        if first <= last:
            raise ValueError(f"classes: label value {first} belongs to {owner} and to {other}")


def _claims(
    classes: Sequence[ClassSpec], ignore_values: Iterable[int | str], named: bool
) -> list[tuple[str, int | str]]:
    claims = [("ignore_values", canonical(value)) for value in ignore_values]
    for position, spec in enumerate(classes):
        values = values_of(spec, position, named=named)
        claims += [(spec.name, canonical(value)) for value in values]
    return claims


class ClassSpec(Section):
    """One class: its name, the label values that mean it, its colour."""

    name: Annotated[str, Field(min_length=1)]
    """Shown in reports and written to predicted rasters."""
    values: list[int | str] | None = None
    """Label values that mean this class: numbers, ranges with both ends ("5..9"), colours ("#ff0000"), or values of a
    vector label's attribute ("house"). By default the class's position in the list; for an attribute, its name."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    """As #rrggbb; by default one from a palette that colour-blind people can tell apart."""

    @field_validator("values")
    @classmethod
    def _spelled_once(cls, values: list[int | str] | None) -> list[int | str] | None:
        return values if values is None else [canonical(value) for value in values]


class Label(Section):
    """How to read labels."""

    threshold: float | None = None
    """For masks with soft edges: values from this one on mean the second class, smaller ones the first (with
    `task: multilabel`: yes and no)."""
    nodata: Literal["class", "ignore"] = "class"
    """What a pixel is whose value or colour a class claims, though the file declares the value nodata or the pixel is
    transparent: `class`: of that class; `ignore`: not annotated. Mask bands always mean: not annotated."""
    palette: Literal["auto", "index"] = "auto"
    """What numbers mean in labels with a palette: `auto`: of a palette of greys the grey values (of one with evenly
    spaced greys from black to white their rank, unless classes claim the greys), of others its indices; `index`: always
    its indices, whatever the colours."""
    attribute: str | None = None
    """Of vector labels: the attribute whose value names the class in `classes`; by default every shape is of the second
    class."""
    crs: str | None = None
    """Of vector labels: the CRS of their coordinates, such as `EPSG:32633`, where the file does not say it or says a
    wrong one (GeoJSON without a `crs` member says degrees)."""
    all_touched: bool = False
    """Vector labels mark every pixel that a shape touches, not only those whose centre it covers."""
    buffer: Annotated[float, Field(ge=0)] = 0.0
    """Vector labels: how far lines and points reach, in units of the scene's CRS (pixels without one)."""
    order: str = "file"
    """Where shapes overlap the later one counts: `file`, `class` (position in `classes`), or the name of an attribute,
    by ascending value."""
