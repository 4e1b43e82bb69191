"""Read CSV tables from any editor, spreadsheet or system."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import Final

from pipeline import store
from pipeline.errors import ManifestError

_SEPARATORS: Final = (",", ";", "\t")
_MAX_CELL: Final = 64 << 20
"""Bytes of one cell: a footprint is a geometry as text."""
_BYTE_ORDERS: Final = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class CsvTable:
    """Columns, and rows with the line each begins on; a cell that a line lacks is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str | None]], ...]
    ragged: tuple[int, ...]
    """Lines with more or fewer values than the header."""


def read(uri: str, what: str, key: str) -> CsvTable:
    """Read a CSV file.

    Args:
        uri: of the file.
        what: it is, such as "split table".
        key: of the recipe that names it.

    Raises:
        ManifestError: there is no such file, it is no regular file, or not CSV; names the line.
    """
    try:
        content = store.read_bytes(uri)
    except FileNotFoundError:
        raise ManifestError(f"the {what} {uri} does not exist", f"correct {key}") from None
    return parsed(decoded(content, uri), uri)


def decoded(content: bytes, uri: str, otherwise: str = "not a CSV file in UTF-8") -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark, with line feeds as the only line ends.

    Args:
        content: of the file.
        uri: for messages.
        otherwise: what it is if it is no such text.

    Raises:
        ManifestError: it is neither, or holds NUL characters.
    """
    try:
        text = content.decode(_BYTE_ORDERS.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{uri} is {otherwise} (line {line}: {error.reason})", "save it as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ManifestError(f"{uri}, line {line}: a NUL character", "the file is damaged, or no text; save it as CSV")
    return text


def parsed(text: str, uri: str) -> CsvTable:
    """The rows of a table whose values are separated by commas, semicolons or tabs, as the header is.

    Raises:
        ManifestError: two columns have one name, or quotes do not end; names the line.
    """
    csv.field_size_limit(_MAX_CELL)
    header = text.lstrip("\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    columns: tuple[str, ...] | None = None
    rows: list[tuple[int, dict[str, str | None]]] = []
    ragged = []
    begin = 1
    try:
        for cells in reader:
            if columns is None and cells:
                columns = _header(cells, uri)
            elif columns is not None and cells:
                rows.append((begin, dict(zip(columns, [*cells, *[None] * len(columns)], strict=False))))
                if len(cells) != len(columns):
                    ragged.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(
            f"{uri}, line {begin}: no CSV ({error})", "put values that hold quotes, separators or line ends into quotes"
        ) from error
    return CsvTable(columns or (), tuple(rows), tuple(ragged))


def _header(cells: list[str], uri: str) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    twice = [name for name, number in Counter(columns).items() if number > 1 and name]
    if twice:
        raise ManifestError(f"{uri}: several columns are called {', '.join(twice)}", "rename or remove one")
    return columns
