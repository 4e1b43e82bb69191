"""Docstrings name the arguments that functions have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline

ROOT = Path(str(pipeline.__file__)).parent
SECTION = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.MULTILINE)


def documented(docstring: str) -> Iterator[str]:
    """Names under `Args:`; several can share a line."""
    section = SECTION.search(docstring)
    for line in section[1].splitlines() if section else ():
        if entry := re.match(r"    (?! )([\w, .]+?):", line):
            yield from (name.strip() for name in entry[1].split(",") if name.strip() != "...")


def missing(source: str) -> list[str]:
    """Documented arguments that their functions do not have."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            several = [arg for arg in (given.vararg, given.kwarg) if arg is not None]
            names = {arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)}
            out += [f"{node.name}: {name}" for name in documented(ast.get_docstring(node) or "") if name not in names]
    return out


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_arguments_exist(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_a_planted_name_is_found() -> None:
    text = 'def f(a, b):\n    """Do.\n\n    Args:\n        a: one.\n        b, c: two.\n    """\n'
    assert missing(text) == ["f: c"]
