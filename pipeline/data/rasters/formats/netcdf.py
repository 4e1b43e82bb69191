"""NetCDF of the classic kinds (1, 2 and 5): the header is parsed here, values are mapped.

A file is a header, then variables one after the other, then records in which all variables with the unlimited
dimension take turns. All is big-endian and padded to four bytes. Source: the NetCDF users guide, "File Format
Specifications". NetCDF 4 is HDF5: see `hdf5`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import variables
from pipeline.data.rasters.formats.attributes import Variable
from pipeline.data.rasters.raster_reader import DAMAGED, Reader
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

BEGINS: Final = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_HEADER_BYTES: Final = 16 << 20
_MAX_ENTRIES: Final = 10_000
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12
# By number, from 1.
_TYPES: Final = ("", "i1", "S1", ">i2", ">i4", ">f4", ">f8", "u1", ">u2", ">u4", ">i8", ">u8")


@dataclass
class _Header:
    """The bytes of a header, and how far they were read."""

    data: bytes
    at: int = 4

    @property
    def version(self) -> int:
        """1, 2 or 5."""
        return self.data[3]

    def number(self, code: str = "") -> int:
        """The next number: by default a count, which version 5 stores in eight bytes."""
        code = code or ("Q" if self.version == 5 else "I")
        (value,) = struct.unpack_from(">" + code, self.data, self.at)
        self.at += struct.calcsize(code)
        return int(value)

    def entries(self, tag: int) -> range:
        """One for each entry of the list that begins here."""
        found, count = self.number("I"), self.number()
        if (found not in (0, tag)) or (found == 0 and count) or count > _MAX_ENTRIES:
            raise ValueError(f"a list of {count} entries of kind {found}")
        return range(count)

    def take(self, count: int) -> bytes:
        """The next bytes, and their padding."""
        begin, self.at = self.at, self.at + -(-count // 4) * 4
        if self.at > len(self.data):
            raise ValueError("the header is cut off")
        return self.data[begin : begin + count]

    def name(self) -> str:
        """A name."""
        return self.take(self.number()).decode("utf-8", "replace")

    def attributes(self) -> dict[str, Any]:
        """Attributes: text, numbers or arrays of numbers."""
        return {self.name(): self._value() for _ in self.entries(_ATTRIBUTES)}

    def _value(self) -> Any:
        kind = np.dtype(_TYPES[self.number("I")])
        data = self.take(self.number() * kind.itemsize)
        if kind.kind == "S":
            return data.decode("utf-8", "replace").rstrip("\0")
        values = np.frombuffer(data, kind).astype(kind.newbyteorder("="))
        return values[0] if values.size == 1 else values


@dataclass(frozen=True)
class _Entry:
    """A variable as the header describes it."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    dtype: np.dtype[Any]
    begin: int
    in_records: bool

    @property
    def size(self) -> int:
        """Bytes, of a variable in records those of one record."""
        return math.prod(self.shape[1:] if self.in_records else self.shape) * self.dtype.itemsize


def is_netcdf(head: bytes) -> bool:
    """Whether a file begins as classic NetCDF."""
    return head.startswith(BEGINS)


def open_netcdf(uri: str, path: Path, *, label: bool, reading: Reading) -> Reader:
    """Open one variable of a file.

    Raises:
        SceneError: damaged, or without a variable that is an image, or with several.
    """
    with raster_reader.parsing(uri):
        with path.open("rb") as file:
            header = _Header(file.read(_HEADER_BYTES))
        entries = _entries(header)
        stride = _record_bytes(entries)
        found = [_variable(uri, path, entry, stride) for entry in entries]
        kind = f"NetCDF {'classic' if header.version == 1 else f'classic {header.version}'}"
        return variables.open_variables(uri, found, kind, label=label, reading=reading)


def _entries(header: _Header) -> list[_Entry]:
    records = header.number()
    sizes = [(header.name(), header.number()) for _ in header.entries(_DIMENSIONS)]
    header.attributes()
    return [_entry(header, sizes, records) for _ in header.entries(_VARIABLES)]


def _entry(header: _Header, sizes: list[tuple[str, int]], records: int) -> _Entry:
    name = header.name()
    count = header.number()
    if count > len(sizes):
        raise ValueError(f"{name} has {count} dimensions of {len(sizes)}")
    dims = [sizes[header.number()] for _ in range(count)]
    attributes = header.attributes()
    dtype = np.dtype(_TYPES[header.number("I")])
    header.number()  # its size, which version 1 cannot say of large ones
    begin = header.number("I" if header.version == 1 else "Q")
    in_records = bool(dims) and dims[0][1] == 0
    shape = tuple(records if size == 0 else size for _, size in dims)
    return _Entry(name, tuple(n for n, _ in dims), shape, attributes, dtype, begin, in_records)


def _record_bytes(entries: list[_Entry]) -> int:
    """Bytes from one record to the next; a single record variable is not padded."""
    sizes = [entry.size for entry in entries if entry.in_records]
    return sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)


def _variable(uri: str, path: Path, entry: _Entry, stride: int) -> Variable:
    def values(index: tuple[Any, ...]) -> NDArray[Any]:
        return np.asarray(_mapped(uri, path, entry, stride)[index])

    block = (1,) * (len(entry.shape) - 1) + entry.shape[-1:]
    return Variable(entry.name, entry.shape, entry.dtype, entry.dims, entry.attributes, block, values, netcdf=True)


def _mapped(uri: str, path: Path, entry: _Entry, stride: int) -> NDArray[Any]:
    """All values, as they are stored."""
    records = entry.shape[0] if entry.in_records else 1
    want = entry.begin + (stride * (records - 1) + entry.size if records else 0)
    have = path.stat().st_size
    if have < want:
        raise SceneError(f"{uri}: cannot be read (it has {have} of {want} bytes)", DAMAGED)
    if 0 in entry.shape:
        return np.empty(entry.shape, entry.dtype)
    data = np.memmap(path, np.uint8, "r")
    steps = np.cumprod((entry.dtype.itemsize, *entry.shape[:0:-1]))[::-1].tolist()
    if entry.in_records:
        steps[0] = stride
    return np.ndarray(entry.shape, entry.dtype, data, entry.begin, tuple(steps))
