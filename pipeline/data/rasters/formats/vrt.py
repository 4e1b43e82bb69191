"""VRT: an XML file that puts other rasters together. Only those that stay in their own folder are allowed.

GDAL would also follow URLs, absolute paths, other VRTs and code in them. So every element must be on a list, and every
source a plain raster under the VRT's folder.
"""

from __future__ import annotations

import os
import posixpath
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pipeline import store
from pipeline.data.rasters.formats import signatures
from pipeline.errors import DataError, SceneError

_MAX_BYTES: Final = 64 << 20
_ALLOWED: Final = frozenset(
    [
        "VRTDataset",
        "SRS",
        "GeoTransform",
        "GCPList",
        "VRTRasterBand",
        "ColorInterp",
        "NoDataValue",
        "Description",
        "UnitType",
        "Offset",
        "Scale",
        "CategoryNames",
        "ColorTable",
        "HideNoDataValue",
        "SimpleSource",
        "ComplexSource",
        "AveragedSource",
        "SourceFilename",
        "SourceBand",
        "SourceProperties",
        "SrcRect",
        "DstRect",
        "NODATA",
        "UseMaskBand",
        "LUT",
        "ScaleOffset",
        "ScaleRatio",
        "Exponent",
        "SrcMin",
        "SrcMax",
        "DstMin",
        "DstMax",
        "ColorTableComponent",
        "MaskBand",
        "Overview",
        "OverviewList",
        "BlockXSize",
        "BlockYSize",
    ]
)
# What is inside these says nothing about files.
_OPAQUE: Final = frozenset(["Metadata", "Histograms", "GCPList", "CategoryNames", "ColorTable", "SRS"])
_SOURCES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0\0\0\x0cjP  ")
# In an address these mean something else than a name.
_UNSAFE: Final = frozenset("%?#")
_TOGETHER: Final = 16
_HINT: Final = "make a VRT of plain files in its folder with `gdalbuildvrt`, or a file of its own with `gdal_translate`"


def is_vrt(head: bytes) -> bool:
    """Whether a file is a VRT: GDAL looks for this anywhere in the beginning."""
    return b"<VRTDataset" in head


def check_vrt(uri: str, path: Path) -> None:
    """Refuse a VRT that reaches beyond its folder.

    Raises:
        SceneError: with what is not allowed.
    """
    root = _parsed(uri, path.name, path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None)
    folder = Path(os.path.realpath(path.parent))
    for name in {_relative(uri, element) for element in _sources(uri, root)}:
        _check_head(uri, name, _head(uri, _inside(uri, folder, name), name))


def inline_vrt(uri: str) -> str:
    """A VRT in a bucket or on a web server as text that GDAL takes in place of a path, its sources named in full.

    So GDAL reads what was checked, whatever becomes of the file.

    Raises:
        SceneError: with what is not allowed.
        StorageError: the store does not answer.
    """
    plain = uri.partition("?")[0]
    folder, _, own = plain.rpartition("/")
    root = _parsed(uri, own, store.read_bytes(uri) if store.size_of(uri) <= _MAX_BYTES else None)
    named = {element: _relative(uri, element) for element in _sources(uri, root)}
    for element, name in named.items():
        if posixpath.normpath(name).startswith("../"):
            raise _refused(uri, f"its source {name!r} lies outside its folder")
        if set(name) & _UNSAFE:
            raise _refused(uri, f"its source {name!r} holds one of {' '.join(sorted(_UNSAFE))}")
        element.text = store.gdal_path(store.join(folder, posixpath.normpath(name)))
        element.set("relativeToVRT", "0")
    names = sorted(set(named.values()))
    with ThreadPoolExecutor(min(_TOGETHER, max(1, len(names)))) as pool:
        heads = pool.map(lambda name: _head(uri, store.join(folder, posixpath.normpath(name)), name), names)
        for name, head in zip(names, heads, strict=True):
            _check_head(uri, name, head)
    return ET.tostring(root, encoding="unicode")


def _parsed(uri: str, own_name: str, data: bytes | None) -> ET.Element:
    """The XML; `data` is None if there is too much of it."""
    if not own_name.lower().endswith(".vrt"):
        raise SceneError(
            f"{uri}: cannot be read (a VRT under another name is not recognized)",
            "it is no GeoTIFF, PNG or JPEG; a VRT must be called .vrt",
        )
    if data is None or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise _refused(uri, f"it declares entities, or is larger than {_MAX_BYTES >> 20} MiB")
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        raise SceneError(f"{uri}: cannot be read (XML: {error})", "make the VRT again") from error
    if root.tag != "VRTDataset":
        raise _refused(uri, f"it begins with {root.tag}")
    return root


def _sources(uri: str, element: ET.Element) -> Iterator[ET.Element]:
    """The elements that name a source; all others are on the list."""
    if element.tag not in _ALLOWED and element.tag not in _OPAQUE:
        raise _refused(uri, f"it holds {element.tag}")
    if element.get("subClass") is not None:
        raise _refused(uri, f"it is a {element.get('subClass')}")
    if element.tag == "SourceFilename":
        yield element
    if element.tag not in _OPAQUE:
        for child in element:
            yield from _sources(uri, child)


def _relative(uri: str, element: ET.Element) -> str:
    name = element.text or ""
    if element.get("relativeToVRT") != "1" or name.startswith("/") or ":" in name or "\\" in name:
        raise _refused(uri, f"its source {name!r} is not relative to it")
    return name


def _inside(uri: str, folder: Path, name: str) -> str:
    """The real path of a local source, links followed."""
    source = Path(os.path.realpath(folder / name))  # Path.resolve raises for a link to itself before Python 3.13
    if not source.is_relative_to(folder):
        raise _refused(uri, f"its source {name!r} lies outside its folder")
    return str(source)


def _head(uri: str, source: str, name: str) -> bytes:
    try:
        return store.read_start(source, signatures.HEAD_BYTES)
    except FileNotFoundError as error:
        raise _missing(uri, name) from error
    except DataError as error:
        raise SceneError(f"{uri}: its source {name!r} cannot be read ({error.message})", error.hint) from error


def _check_head(uri: str, name: str, head: bytes) -> None:
    if not head.startswith(_SOURCES) or signatures.has_remote_sources(head):
        raise _refused(uri, f"its source {name!r} is no TIFF, PNG, JPEG or JPEG 2000")


def _missing(uri: str, name: str) -> SceneError:
    return SceneError(f"{uri}: its source {name!r} is not there", "bring it to the folder of the VRT")


def _refused(uri: str, why: str) -> SceneError:
    return SceneError(f"{uri}: this VRT is not followed ({why})", _HINT)
