"""Metadata of slides from descriptions and tags: resolution, channel names, number of planes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any, Final

from pipeline.data.rasters.raster_reader import DAMAGED
from pipeline.errors import SceneError

_MAX_PLANES: Final = 1_000_000
# Scanners resolve 0.1 to 10 µm; a default of 72 or 300 dots per inch says nothing about the slide.
_MAX_MPP: Final = 50.0
_MICROMETERS: Final = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "\\u00B5m": 1.0, "mm": 1e3, "cm": 1e4}


def check_planes(uri: str, file: Any) -> None:
    """Refuse metadata that claim more planes than any file has, before tifffile lists them."""
    pixels = _ome_pixels(file.ome_metadata or "") if file.is_ome else None
    claimed = 1
    for axis in "CZT":
        claimed *= int(pixels.get(f"Size{axis}", 1)) if pixels is not None else 1
    if not 1 <= claimed <= _MAX_PLANES:
        raise SceneError(f"{uri}: its metadata claim {claimed} planes", DAMAGED)


def micrometers(file: Any) -> tuple[float, float] | None:
    """Micrometres per pixel down and across at the finest level; None if the file does not say."""
    page = file.pages.first
    text = page.description or ""
    if file.is_svs:
        found = re.search(r"\bMPP\s*=\s*([0-9.]+)", text)
        return (float(found[1]), float(found[1])) if found and float(found[1]) > 0 else None
    if file.is_ome:
        return _ome_size(file.ome_metadata or "")
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(getattr(page, "resolutionunit", 1) or 1))
    if file.is_imagej:
        unit = _MICROMETERS.get(str((file.imagej_metadata or {}).get("unit", "")))
    tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
    if unit is None or any(tag is None for tag in tags):
        return None
    values = [tag.value[0] / tag.value[1] if tag.value[1] else 0.0 for tag in tags if tag is not None]
    if min(values) <= 0 or max(unit / v for v in values) > _MAX_MPP:
        return None
    return unit / values[0], unit / values[1]


def _ome_size(text: str) -> tuple[float, float] | None:
    pixels = _ome_pixels(text)
    if pixels is None:
        return None
    sizes = []
    for axis in "YX":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None or unit not in _MICROMETERS or not float(size) > 0:
            return None
        sizes.append(float(size) * _MICROMETERS[unit])
    return sizes[0], sizes[1]


def _ome_pixels(text: str) -> ET.Element | None:
    """The element Pixels of the first image."""
    if "<!ENTITY" in text:
        return None
    try:
        return ET.fromstring(text).find(".//{*}Pixels")
    except ET.ParseError:
        return None


def band_names(file: Any, count: int) -> tuple[str, ...]:
    """Names of the channels where each has one of its own."""
    pixels = _ome_pixels(file.ome_metadata or "") if file.is_ome else None
    names = [] if pixels is None else [str(c.get("Name") or "") for c in pixels.findall("{*}Channel")]
    if len(names) == count and len(set(names)) == count and all(names):
        return tuple(names)
    return tuple(f"band_{i}" for i in range(1, count + 1))
