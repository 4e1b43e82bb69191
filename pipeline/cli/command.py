"""A command of the command line: its name, arguments and function."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

Result = tuple[dict[str, Any], str, int]
"""The JSON record, the text for a person, the exit code."""


class Command(NamedTuple):
    """One command under a verb."""

    name: str
    text: str
    """What it does, in a line."""
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Result]
