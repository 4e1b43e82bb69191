"""Notices about images from a few of their blocks: alpha that is no mask, nodata among valid pixels.

Nothing here is an error: `index` says it, and which line of a recipe decides otherwise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.dtypes import stored_as
from pipeline.data.rasters.grids import RasterInfo
from pipeline.recipe import Data
from pipeline.recipe.data import Reading
from pipeline.text import some

_MANY_VALUES: Final = 8
_MUCH: Final = 0.5
_APART: Final = 1.0
_PAGE: Final = ", page 1 of "


@dataclass(frozen=True)
class AlphaValues:
    """Values of the alpha bands in some blocks of an image.

    Attributes:
        count: different values.
        between: share of pixels that are neither 0 nor the highest value.
    """

    count: int
    between: float

    @property
    def is_no_mask(self) -> bool:
        """Whether this is rather a band, such as near infrared: soft edges of a mask are few pixels."""
        return self.count > _MANY_VALUES and self.between > _MUCH


@dataclass(frozen=True)
class FileNotices:
    """Unusual properties of one image: its alpha, and bands whose nodata value occurs among valid pixels."""

    alpha: AlphaValues | None = None
    nodata: tuple[tuple[str, float], ...] = ()


def alpha_values(uri: str, info: RasterInfo, reading: Reading) -> AlphaValues | None:
    """Values of the alpha bands of an image in its first, middle and last block; None if it has none.

    Args:
        uri: of the image.
        info: what `raster_io.describe` says of it with this reading.
        reading: how it is read.

    Raises:
        SceneError: it cannot be read.
    """
    if not info.alpha:
        return None
    bands = tuple(position + 1 for position in info.alpha)
    alone = reading.model_copy(update={"alpha": "band", "bands": bands})
    values = np.concatenate([raster_io.read(uri, w, reading=alone)[0].ravel() for w in raster_io.probed(info)])
    found, counts = np.unique(values, return_counts=True)
    inner = (found != 0) & (found != found[-1])
    return AlphaValues(len(found), float(counts[inner].sum() / counts.sum()))


def of_image(uri: str, info: RasterInfo, data: Data) -> FileNotices:
    """Look at the first, middle and last block of an image that has alpha, or several bands with nodata.

    Raises:
        SceneError: it cannot be read.
    """
    return FileNotices(alpha_values(uri, info, data.reading), _nodata(uri, info, data))


def _nodata(uri: str, info: RasterInfo, data: Data) -> tuple[tuple[str, float], ...]:
    """Bands, and values far from all others of the band, that mean nodata and yet count under the rule `all`."""
    declared = [data.nodata if v is None else v for v in info.nodata or (None,) * len(info.bands)]
    if data.reading.nodata_rule == "any" or len(declared) < 2 or all(value is None for value in declared):
        return ()
    parts = [raster_io.read(uri, w, nodata=data.nodata, reading=data.reading) for w in raster_io.probed(info)]
    return tuple(
        (name, value)
        for n, (name, value) in enumerate(zip(info.bands, declared, strict=True))
        if value is not None and _is_foreign(value, np.concatenate([pixels[n][valid] for pixels, valid in parts]))
    )


def _is_foreign(value: float, values: NDArray[Any]) -> bool:
    """Whether a value is among others, and far from all of them; 0 may be what is dark."""
    stored = stored_as(float(value), values.dtype)
    if stored is None or value == 0:
        return False
    same = values == stored
    others = values[~same]
    if not same.any() or not len(others):
        return False
    low, high = float(others.min()), float(others.max())
    away = max(low - value, value - high)
    return away > _APART * (high - low) or value < 0 <= low


def warnings(found: Mapping[str, FileNotices], infos: Mapping[str, RasterInfo], data: Data) -> list[str]:
    """Warnings about scenes, one line for all scenes that have the same.

    Args:
        found: what is unusual about scenes, by id.
        infos: headers of the scenes that were opened, by id.
        data: the recipe's.
    """
    said = []
    for i in sorted(found):
        alpha = found[i].alpha
        if alpha is not None and alpha.is_no_mask:
            said.append(i)
    lines = []
    if said:
        alpha = found[said[0]].alpha
        lines.append(
            f"{_scenes(said)}: the alpha band holds many values ({alpha and alpha.count} in {said[0]}), as a band of "
            "measurements does; where it is 0, pixels are taken for invalid. `data.reading.alpha: band` makes it a band"
        )
    left: defaultdict[tuple[str, float], list[str]] = defaultdict(list)
    for i in sorted(found):
        for key in found[i].nodata:
            left[key].append(i)
    for (band, value), ids in left.items():
        lines.append(
            f"{_scenes(ids)}: band {band} holds its nodata value {value:g} in pixels that count as valid, because "
            "other bands have values there; if it is no measurement, `data.reading.nodata_rule: any` leaves them out"
        )
    return [*lines, *_pages(infos), *_declared(infos, data)]


def _pages(infos: Mapping[str, RasterInfo]) -> Iterable[str]:
    by_count: defaultdict[str, list[str]] = defaultdict(list)
    for i, info in infos.items():
        if _PAGE in info.format:
            by_count[info.format.partition(_PAGE)[2].partition(",")[0]].append(i)
    for count, ids in by_count.items():
        yield f"{_scenes(ids)}: the file holds {count} pages or frames, of which the first is read and no other"


def _declared(infos: Mapping[str, RasterInfo], data: Data) -> Iterable[str]:
    """Whether files declare different nodata values."""
    by_values: defaultdict[tuple[float | None, ...], list[str]] = defaultdict(list)
    for i, info in infos.items():
        if info.nodata:
            # NaN is invalid whether it is declared or not.
            declared = (data.nodata if v is None or math.isnan(v) else v for v in info.nodata)
            values = tuple(dict.fromkeys(declared))
            by_values[values].append(i)
    if len(by_values) < 2:
        return
    usual = max(by_values, key=lambda values: len(by_values[values]))
    odd = "; ".join(f"{_scenes(ids)}: {_shown(values)}" for values, ids in by_values.items() if values != usual)
    value = next((v for values in (usual, *by_values) for v in values if v is not None), None)
    yield (
        f"files declare different nodata values: {len(by_values[usual])} {_shown(usual)}, but {odd}; "
        f"if the value is the same in all, say `data.nodata: {value:g}`"
    )


def _shown(values: tuple[float | None, ...]) -> str:
    return ", ".join("none" if value is None else f"{value:.10g}" for value in values)


def _scenes(ids: list[str]) -> str:
    return f"scene {ids[0]}" if len(ids) == 1 else f"{len(ids)} scenes ({some(ids)})"
