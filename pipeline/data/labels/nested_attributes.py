"""Nested attributes of features: `classification.name` is the value `name` of the object `classification`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.errors import LabelError

Value = int | float | str | None
"""Of an attribute."""


def field_of(name: str, fields: Sequence[str]) -> str | None:
    """The field of a file that an attribute's name means: itself, or what stands before one of its dots."""
    parts = name.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((candidate for candidate in names if candidate in fields), None)


def values(uri: str, name: str, field: str, found: Sequence[Value]) -> list[Value]:
    """The values of an attribute, inside of the JSON that its field holds if the name reaches into it.

    Raises:
        LabelError: no shape has it; the message says what they have instead.
    """
    if name == field:
        return list(found)
    path = name.removeprefix(f"{field}.").split(".")
    trees = {value: _tree(value) for value in set(found)}
    reached = {value: _reached(tree, path) for value, tree in trees.items()}
    inside = [reached[value] for value in found]
    if inside and all(value is None for value in inside):
        there = sorted({str(key) for tree in trees.values() if isinstance(tree, dict) for key in tree})
        raise LabelError(
            f"{uri}: no shape has an attribute {name}; {field} has {', '.join(there) or 'no values inside'}",
            "change data.label.attribute or data.label.order",
        )
    return inside


def _tree(value: Value) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _reached(tree: Any, path: Sequence[str]) -> Value:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if isinstance(tree, bool):
        return int(tree)
    return tree if tree is None or isinstance(tree, int | float | str) else json.dumps(tree)
