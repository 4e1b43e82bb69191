"""What a recipe says about labels: what their values mean and how they are read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.config import Section


class ClassSpec(Section):
    """One class: its name, the label values that mean it, its colour."""

    name: Annotated[str, Field(min_length=1)]
    """Shown in reports and written to predicted rasters."""
    values: list[int | str] | None = None
    """Label values that mean this class: numbers, ranges with both ends ("5..9"), colours ("#ff0000"), or values of a
    vector label's attribute ("house"). By default the class's position in the list."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    """As #rrggbb; by default one from a palette that colour-blind people can tell apart."""


class Label(Section):
    """How labels are read."""

    threshold: float | None = None
    """For masks with soft edges: values from this one on mean the second class, smaller ones the first."""
    attribute: str | None = None
    """Of vector labels: the attribute whose value names the class in `classes`; by default every shape is of the second
    class."""
    all_touched: bool = False
    """Vector labels mark every pixel that a shape touches, not only those whose centre it covers."""
    buffer: Annotated[float, Field(ge=0)] = 0.0
    """Vector labels: how far lines and points reach, in units of the scene's CRS (pixels without one)."""
    order: str = "file"
    """Where shapes overlap the later one counts: `file`, `class` (position in `classes`), or the name of an attribute,
    by ascending value."""
