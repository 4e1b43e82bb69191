"""A diagram of a network's stages: shallow ones above, deep ones below, from left to right in order of computation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from pipeline.errors import RecipeError
from pipeline.model.cost import Node

FORMATS: Final = (".svg", ".png", ".pdf")
_INK: Final = "#7f7f7f"  # readable on light and dark pages; the picture has no background of its own
_COLORS: Final = {"encoder": "#3b82c4", "decoder": "#4d9a5b", "head": "#c2515c"}
_BOX: Final = (1.5, 0.62)  # width and height, inches
_STEP: Final = (2.1, 0.9)  # from box to box
Place = tuple[float, float]


def draw(path: str, title: str, nodes: Sequence[Node]) -> None:
    """Write the picture of a network.

    Args:
        path: local file; its ending is one of `FORMATS`.
        title: line above.
        nodes: from `pipeline.model.cost`.

    Raises:
        RecipeError: another ending, or the file cannot be written.
    """
    if PurePath(path).suffix.lower() not in FORMATS:
        raise RecipeError(f"--picture {path}: its ending is none of {', '.join(FORMATS)}", "name it stages.svg")
    places = _places(nodes)
    right = max(x for x, _ in places.values()) + _BOX[0]
    low = min(y for _, y in places.values())
    high = max(y for _, y in places.values()) + _BOX[1]
    # A fixed salt gives the same bytes each time; letters as text keep the file small and searchable.
    with rc_context({"svg.hashsalt": "segpipe", "svg.fonttype": "none"}):
        figure = Figure(figsize=(right + 0.4, high - low + 0.8))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.2, right + 0.2), ylim=(low - 0.2, high + 0.6))
        axes.axis("off")
        axes.text(0, high + 0.25, title, color=_INK, fontsize=11, fontweight="bold")
        for node in nodes:
            for source in _sources(node, nodes):
                _arrow(axes, places[source], places[node.name])
            _box(axes, places[node.name], node)
        try:
            figure.savefig(path, transparent=True, dpi=150, metadata={"Date": None} if path.endswith(".svg") else None)
        except OSError as error:
            raise RecipeError(f"--picture {path}: {error}", "give a file in a directory that exists") from error


def _part(node: Node) -> str:
    return node.name.partition(".")[0]


def _sources(node: Node, nodes: Sequence[Node]) -> list[str]:
    """Boxes that a box is drawn to come from; each stage of the encoder from the one before."""
    own = list(node.sources)
    if _part(node) == "encoder":
        before = [n.name for n in nodes if _part(n) == "encoder"]
        position = before.index(node.name)
        own = before[position - 1 : position]
    return own


def _places(nodes: Sequence[Node]) -> dict[str, Place]:
    """Lower left corners of the boxes: column by what must be there before, row by stride."""
    column: dict[str, int] = {}
    for node in nodes:
        own = [column[s] for s in node.sources if s in column]
        column[node.name] = 0 if _part(node) == "encoder" else 1 + max(own, default=0)
    crowd: dict[tuple[int, int], list[str]] = defaultdict(list)
    for node in nodes:
        crowd[column[node.name], _level(node)].append(node.name)
    rows: dict[int, int] = defaultdict(int)
    for (_, level), names in crowd.items():
        rows[level] = max(rows[level], len(names))
    top: dict[int, int] = {}
    for level in sorted(rows):
        top[level] = sum(rows[other] for other in top)
    return {
        name: (x * _STEP[0], -(top[level] + i) * _STEP[1])
        for (x, level), names in crowd.items()
        for i, name in enumerate(names)
    }


def _level(node: Node) -> int:
    return round(math.log2(max(node.stride, 0.5)))


def _box(axes: Any, place: Place, node: Node) -> None:
    color = _COLORS.get(_part(node), _INK)
    axes.add_patch(FancyBboxPatch(place, *_BOX, boxstyle="round,pad=0,rounding_size=0.08", fc=color, ec="none"))
    x, y = place[0] + _BOX[0] / 2, place[1]
    axes.text(x, y + 0.4, node.name.replace("decoder.", ""), color="white", ha="center", va="center", fontsize=8)
    size = f"{node.channels} × {node.height}×{node.width}"
    axes.text(x, y + 0.18, size, color="white", ha="center", va="center", fontsize=7)


def _arrow(axes: Any, start: Place, end: Place) -> None:
    if start[0] == end[0]:  # downwards in a column
        ends = (start[0] + _BOX[0] / 2, start[1]), (end[0] + _BOX[0] / 2, end[1] + _BOX[1])
    else:
        ends = (start[0] + _BOX[0], start[1] + _BOX[1] / 2), (end[0], end[1] + _BOX[1] / 2)
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 9,
        "color": _INK,
        "lw": 1,
        "shrinkA": 0,
        "shrinkB": 0,
        "zorder": 0,
    }
    axes.add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=0", **style))
