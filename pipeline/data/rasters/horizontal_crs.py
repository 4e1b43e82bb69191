"""The horizontal part of a CRS, without height and without a datum shift."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import rasterio

_HORIZONTAL: Final = ("PROJCRS", "GEOGCRS", "GEODCRS", "ENGCRS", "BOUNDCRS", "DERIVEDPROJCRS")
_NAME: Final = re.compile(r"\s*([A-Z_0-9]+)\s*\[")
_SPATIAL: Final = re.compile(r"CS\[(ellipsoidal|Cartesian),3")


@lru_cache(maxsize=1024)
def same(ours: str, theirs: str) -> bool:
    """Whether two descriptions (WKT, EPSG:1234 ...) mean the same place by the same two coordinates.

    Heights and the order of axes do not count: GDAL gives easting or longitude first, whatever the CRS says.
    """
    if ours == theirs:
        return True
    one, other = horizontal(ours), horizontal(theirs)
    if one == other:
        return True
    texts = [crs.to_proj4() for crs in (one, other)]
    # Without a datum, as of most, a PROJ string no longer says which one it was.
    return "+datum=" in texts[0] and texts[0] == texts[1]


@lru_cache(maxsize=1024)
def horizontal(crs: str) -> rasterio.CRS:
    """The projected or geographic CRS of two dimensions in a compound, bound or spatial one."""
    whole = rasterio.CRS.from_user_input(crs)
    text = whole.to_wkt(version="WKT2_2019")
    plain = _plain(text)
    return whole if plain == text else rasterio.CRS.from_wkt(plain)


def _plain(text: str) -> str:
    """WKT2 of the horizontal part of a CRS in WKT2."""
    name = _name(text)
    if name == "COMPOUNDCRS":
        return _plain(next((part for part in _parts(text) if _name(part) in _HORIZONTAL), text))
    if name == "BOUNDCRS":
        source = next((part for part in _parts(text) if _name(part) == "SOURCECRS"), None)
        return text if source is None else _plain(next(_parts(source)))
    if _SPATIAL.search(text):
        return _without_height(text)
    return text


def _without_height(text: str) -> str:
    """A CRS of three dimensions without the third, which its code then no longer stands for."""
    kept = [
        _SPATIAL.sub(r"CS[\1,2", part)
        for part in _parts(text)
        if not (_name(part) == "AXIS" and "ORDER[3]" in part) and _name(part) not in ("ID", "USAGE")
    ]
    return f"{_name(text)}[{','.join(kept)}]"


def _name(text: str) -> str:
    found = _NAME.match(text)
    return found[1] if found else ""


def _parts(text: str) -> Iterator[str]:
    """Split text at the commas inside the outermost brackets."""
    depth, quoted, begin = 0, False, text.index("[") + 1
    for position in range(begin, len(text)):
        letter = text[position]
        if letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter == "[":
            depth += 1
        elif depth == 0 and letter in ",]":
            yield text[begin:position].strip()
            begin = position + 1
            if letter == "]":
                return
        elif letter == "]":
            depth -= 1
