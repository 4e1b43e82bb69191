"""VRT: an XML file that puts other rasters together. Only those that stay in their own folder are allowed.

GDAL would also follow URLs, absolute paths, other VRTs and code in them. So every element must be on a list, and every
source a plain raster under the VRT's folder.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

from pipeline.errors import SceneError

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
_HINT: Final = "make a VRT of plain files beside it with `gdalbuildvrt`, or a file of its own with `gdal_translate`"


def is_vrt(head: bytes) -> bool:
    """Whether a file is a VRT: GDAL looks for this anywhere in the beginning."""
    return b"<VRTDataset" in head


def check_vrt(uri: str, path: Path) -> None:
    """Refuse a VRT that reaches beyond its folder.

    Raises:
        SceneError: with what is not allowed.
    """
    if path.suffix.lower() != ".vrt":
        raise SceneError(
            f"{uri}: cannot be read (a VRT under another name is not recognized)",
            "it is no GeoTIFF, PNG or JPEG; a VRT must be called .vrt",
        )
    data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b"<!DOCTYPE"
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise _refused(uri, f"it declares entities, or is larger than {_MAX_BYTES >> 20} MiB")
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        raise SceneError(f"{uri}: cannot be read (XML: {error})", "make the VRT again") from error
    if root.tag != "VRTDataset":
        raise _refused(uri, f"it begins with {root.tag}")
    _check(uri, path.parent.resolve(), root)


def _check(uri: str, folder: Path, element: ET.Element) -> None:
    if element.tag not in _ALLOWED and element.tag not in _OPAQUE:
        raise _refused(uri, f"it holds {element.tag}")
    if element.get("subClass") is not None:
        raise _refused(uri, f"it is a {element.get('subClass')}")
    if element.tag == "SourceFilename":
        _check_source(uri, folder, element)
    if element.tag not in _OPAQUE:
        for child in element:
            _check(uri, folder, child)


def _check_source(uri: str, folder: Path, element: ET.Element) -> None:
    name = element.text or ""
    if element.get("relativeToVRT") != "1" or name.startswith("/") or ":" in name or "\\" in name:
        raise _refused(uri, f"its source {name!r} is not relative to it")
    source = (folder / name).resolve()
    if not source.is_relative_to(folder):
        raise _refused(uri, f"its source {name!r} lies outside its folder")
    if not source.is_file():
        raise SceneError(f"{uri}: its source {name!r} is not there", "bring it beside the VRT")
    with source.open("rb") as file:
        head = file.read(1024)
    if not head.startswith(_SOURCES) or b"<VRT" in head:
        raise _refused(uri, f"its source {name!r} is no TIFF, PNG, JPEG or JPEG 2000")


def _refused(uri: str, why: str) -> SceneError:
    return SceneError(f"{uri}: this VRT is not followed ({why})", _HINT)
