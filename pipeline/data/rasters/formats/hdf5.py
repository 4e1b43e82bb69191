"""HDF5, and so NetCDF 4, read by pyfive, which is pure Python.

The HDF5 library follows what a file says to other files anywhere, and does not return from some damaged ones; GDAL
and h5py are built on it. pyfive knows nothing outside the file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import variables
from pipeline.data.rasters.formats.attributes import Variable
from pipeline.data.rasters.raster_reader import Reader
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

BEGIN: Final = b"\x89HDF\r\n\x1a\n"
_MAX_OBJECTS: Final = 10_000
# Packed values are hardly larger than plain ones; more would unpack to more than the block holds.
_PACKED: Final = 1.1
_PACKED_BYTES: Final = 4096
_UNDEFINED: Final = 2**64 - 1
_SHOWN: Final = 20
# What pyfive raises over what it does not know.
_STRANGE: Final = (AssertionError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError)
_ANEW: Final = "write it again, for instance with `nccopy -k nc4`, or with h5py"


def is_hdf5(head: bytes) -> bool:
    """Whether a file begins as HDF5."""
    return head.startswith(BEGIN)


def open_hdf5(uri: str, path: Path, *, label: bool, reading: Reading) -> Reader:
    """Open one variable of a file.

    Raises:
        SceneError: damaged, without a variable that is an image or with several, or with values in other files.
    """
    pyfive = raster_reader.library("pyfive", extra="hdf5", uri=uri)
    with raster_reader.parsing(uri), _understood(uri), pyfive.File(str(path)) as file:
        names: dict[int, str] = {}
        items = list(_datasets(pyfive, file))
        unclaimed = [name for name, dataset in items if dataset is None]
        if unclaimed and (reading.label_variable if label else reading.variable) is None:
            raise SceneError(
                f"{uri}: it has arrays that cannot be read: {', '.join(unclaimed[:_SHOWN])}",
                f"name another: data.reading.{'label_variable' if label else 'variable'}; or {_ANEW}",
            )
        found = [_variable(uri, names, file, name, array) for name, array in items if array is not None]
        kind = "NetCDF 4" if "_NCProperties" in file.attrs else "HDF5"
        reader = variables.open_variables(uri, found, kind, label=label, reading=reading)
        for part in reader.parts if isinstance(reader, variables.SeveralReader) else (reader,):
            _check_storage(uri, file[part.variable.name])
        return reader


@contextmanager
def _understood(uri: str) -> Iterator[None]:
    """Translate pyfive's errors about features that it does not know."""
    try:
        yield
    except (AssertionError, NotImplementedError, RuntimeError, ModuleNotFoundError) as error:
        raise SceneError(
            f"{uri}: cannot be read (damaged, of a kind of HDF5 that is not known, or linked to other files: "
            f"{error or 'no details'})",
            _ANEW,
        ) from error


def _datasets(pyfive: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Name and dataset of all arrays; None of one that cannot be understood, such as in a newer kind of HDF5."""
    groups, seen = [("", file)], 0
    while groups:
        path, group = groups.pop()
        for name in group:
            seen += 1
            if seen > _MAX_OBJECTS:
                raise ValueError(f"more than {_MAX_OBJECTS} objects, or groups inside themselves")
            try:
                # The index of blocks is read when it is needed.
                child = group.get_lazy_view(name)
            except _STRANGE:
                yield path + name, None
                continue
            if isinstance(child, pyfive.Dataset) and child.shape is not None:
                yield path + name, child
            elif isinstance(child, pyfive.Group):
                groups.append((f"{path}{name}/", child))


def _variable(uri: str, names: dict[int, str], file: Any, name: str, dataset: Any) -> Variable:
    shape = tuple(int(size) for size in dataset.shape)
    block = tuple(int(size) for size in dataset.chunks or (1,) * (len(shape) - 1) + shape[-1:])

    def values(index: tuple[Any, ...]) -> NDArray[Any]:
        with _understood(uri):
            return _read(dataset, index)

    attributes = dict(dataset.attrs)
    return Variable(
        name,
        shape,
        np.dtype(dataset.dtype),
        _dims(names, file, name, attributes, len(shape)),
        attributes,
        block,
        values,
        netcdf="_NCProperties" in file.attrs,
    )


def _dims(names: dict[int, str], file: Any, name: str, attributes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of the dimensions, which a dimension's own variable lends it.

    Args:
        names: those known already, by where their variable lies in the file.
        file: to look up the others.
        name: of the variable.
        attributes: of the variable.
        count: of dimensions.
    """
    if count == 1 and attributes.get("CLASS") == b"DIMENSION_SCALE":
        return (name,)
    listed = attributes.get("DIMENSION_LIST")
    if listed is None or len(listed) != count:
        return ("",) * count
    found = []
    for references in listed:
        address = references[0].address_of_reference if len(references) else None
        if address is not None and address not in names:
            names[address] = str(file[references[0]].name).strip("/")
        found.append("" if address is None else names[address])
    return tuple(found)


def _check_storage(uri: str, dataset: Any) -> None:
    """Refuse arrays whose values are in other files: pyfive would show zeros.

    Layouts of HDF5: 0 in the header, 1 in one piece, 2 in blocks, 3 made of other files.
    """
    layout = dataset.id.layout_class
    if layout not in (0, 1, 2) or (layout == 1 and dataset.id.data_offset == _UNDEFINED):
        raise SceneError(
            f"{uri}: the values of {dataset.name} are in other files, or were never written",
            "copy them into one file, for instance with h5repack",
        )


def _read(dataset: Any, index: tuple[slice, ...]) -> NDArray[Any]:
    """A part of an array; blocks that were never written hold the fill value."""
    if dataset.chunks is None:
        return np.asarray(dataset[index])
    ranges = [s.indices(size)[:2] for s, size in zip(index, dataset.shape, strict=True)]
    steps = [range(a // c * c, b, c) for (a, b), c in zip(ranges, dataset.chunks, strict=True)]
    corners, stored = list(itertools.product(*steps)), dataset.id.index
    there = [corner for corner in corners if corner in stored]
    most = math.prod(dataset.chunks) * dataset.dtype.itemsize * _PACKED + _PACKED_BYTES
    if any(stored[corner].size > most for corner in there):
        raise ValueError("a block is larger than its values")
    if len(there) == len(corners):
        return np.asarray(dataset[index])
    fill = 0 if dataset.fillvalue is None else dataset.fillvalue
    out = np.full([stop - start for start, stop in ranges], fill, dataset.dtype)
    for corner in there:
        ends = zip(corner, dataset.chunks, ranges, strict=True)
        part = [(max(at, start), min(at + step, stop)) for at, step, (start, stop) in ends]
        here = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(part, ranges, strict=True))
        out[here] = dataset[tuple(slice(a, b) for a, b in part)]
    return out
