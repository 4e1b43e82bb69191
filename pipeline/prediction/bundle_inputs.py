"""Match the bands of an image to a bundle, and report differences between the image and the training scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.band_names import by_name, is_unnamed
from pipeline.data.rasters.grids import Grid, pixel_size
from pipeline.data.rasters.raster_io import RasterInfo
from pipeline.data.rasters.valid_pixels import Read
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.model.bundle import Bundle
from pipeline.recipe.data import Reading

_OTHER_SIZE: Final = 1.5
_PLACES: Final = (1 / 6, 1 / 2, 5 / 6)
_WINDOW: Final = 256
_FEW_PIXELS: Final = 100
_NARROW, _WIDE, _BESIDE = 0.05, 10.0, 0.5
_PERCENT: Final = (1.0, 50.0, 99.0)
_HINT: Final = "predict images whose bands have the names, or without names the number and order, of the bundle's"


class Input(NamedTuple):
    """How to read an image for a bundle: its reading section, its header, and warnings about its bands."""

    reading: Reading
    info: RasterInfo
    warnings: tuple[str, ...]


def fitted(image: str, bundle: Bundle) -> Input:
    """Find the bands that a bundle takes in an image: by name where both have names, else by position.

    Raises:
        SceneError: the image cannot be read, or lacks a band.
    """
    reading = bundle.reading
    whole = raster_io.describe(image, reading=reading.model_copy(update={"bands": None}))
    numbers, warning = _numbers(image, whole.bands, bundle, reading)
    reading = reading.model_copy(update={"bands": numbers})
    warnings = [warning] if warning else []
    if whole.dtype != bundle.dtype:
        warnings.append(f"pixels are {whole.dtype}, the bundle was trained on {bundle.dtype}")
    if whole.grid.crs is None and ("control points" in whole.format or "RPCs" in whole.format):
        warnings.append(f"{whole.format}: the prediction has no coordinates; `gdalwarp` the image first to have them")
    size = _other_size(whole.grid, bundle)
    if size:
        warnings.append(size)
    return Input(reading, raster_io.describe(image, reading=reading), tuple(warnings))


def _numbers(
    image: str, names: Sequence[str], bundle: Bundle, reading: Reading
) -> tuple[tuple[int, ...] | None, str | None]:
    """Numbers from 1 of the bands to read, None for all in file order; and what is to be said about that."""
    data = bundle.recipe.get("data", {})
    renamed = data.get("bands") is not None
    trained = bundle.file_bands or (() if renamed else bundle.bands)
    known = [of for of in dict.fromkeys((trained, bundle.bands)) if of and not is_unnamed(of, reading.bands)]
    if not is_unnamed(names):
        for wanted in known:
            found = by_name(wanted, names)
            if found.complete:
                everything = found.positions == tuple(range(len(names)))
                return None if everything else tuple(place + 1 for place in found.positions), None
    ours, theirs = ", ".join(bundle.bands), ", ".join(names)
    if known and not is_unnamed(names):
        found = by_name(known[0], names)
        agreeing = found.positions == tuple(n for n, name in enumerate(known[0]) if name not in found.missing)
        if (trained and not is_unnamed(trained, reading.bands)) or found.ambiguous or not agreeing:
            lacking = ", ".join(found.missing) or f"one band each of the name {', '.join(found.ambiguous)}"
            raise SceneError(
                f"{image}: bands {theirs} ({len(names)}) where the bundle expects {ours} ({bundle.num_bands}): "
                f"it lacks {lacking}" + ("" if trained == bundle.bands else f" (as the bundle's are called: {ours})"),
                _HINT,
            )
    numbers = _by_number(reading, names)
    if numbers is None and len(names) != bundle.num_bands:
        raise SceneError(
            f"{image}: bands {theirs} ({len(names)}) where the bundle expects {ours} ({bundle.num_bands})", _HINT
        )
    if is_unnamed(names) and not known and (reading.bands is None or numbers):
        return numbers, None
    order = f"as its bands {', '.join(map(str, numbers))}" if numbers else "in file order"
    if is_unnamed(names):
        return numbers, f"it does not name its bands; {order} they are taken as {ours}"
    return (
        numbers,
        f"its bands {theirs} are taken {order} as {ours}: the training's scenes had other names or none",
    )


def _by_number(reading: Reading, names: Sequence[str]) -> tuple[int, ...] | None:
    """The bands that the recipe gives by number, if it gives all so and the image has them."""
    given = reading.bands or ()
    numbers = tuple(band for band in given if isinstance(band, int) and band <= len(names))
    return numbers if given and len(numbers) == len(given) else None


def _other_size(grid: Grid, bundle: Bundle) -> str:
    """Warning about pixels that are larger or smaller than those of the training; "" for none."""
    here = pixel_size(grid)
    if bundle.pixel_size is None or here is None or here[1] != bundle.pixel_size[2]:
        return ""
    low, high, unit = bundle.pixel_size
    if low / _OTHER_SIZE <= here[0] <= high * _OTHER_SIZE:
        return ""
    usual = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    unit = f" {unit}" if unit else ""
    return (
        f"a pixel is {here[0]:.3g}{unit} wide, in the scenes of the training {usual}{unit}; "
        "resample it, for instance with `gdalwarp -tr`"
    )


def other_ways(bundle: Bundle, reading: Reading) -> list[tuple[str, Any, Any]]:
    """Keys of `data.reading` that decide what pixels are, with the bundle's and another value, where these differ."""
    if "data" not in bundle.recipe:
        return []
    ours = bundle.reading
    return [
        (key, getattr(ours, key), getattr(reading, key))
        for key in ("mpp", "axis", "hounsfield", "alpha", "greys", "nodata_rule")
        if getattr(ours, key) != getattr(reading, key)
    ]


def positions(bundle: Bundle, bands: tuple[str, ...], file_bands: tuple[str, ...]) -> tuple[int, ...] | None:
    """Positions of the bundle's bands among those of a manifest, by name; None: unknown names, equal counts.

    Args:
        bundle: what takes the bands.
        bands: of the manifest.
        file_bands: what the files of the manifest call them; may be empty.

    Raises:
        SceneError: a band is missing, or their number differs.
    """
    pairs = [(bundle.bands, bands), (bundle.file_bands, file_bands)]
    named = [(ours, theirs) for ours, theirs in pairs if ours and theirs and _warn(ours, theirs)]
    found = [by_name(ours, theirs) for ours, theirs in named]
    complete = next((one for one in found if one.complete), None)
    if complete is not None:
        return complete.positions
    if found or len(bands) != bundle.num_bands:
        lacking = f": {', '.join(found[0].missing)} missing" if found and found[0].missing else ""
        raise SceneError(
            f"the scenes have {len(bands)} bands ({', '.join(bands)}), bundle {bundle.uri} was trained on "
            f"{bundle.num_bands} ({', '.join(bundle.bands)}){lacking}",
            "evaluate on scenes with the bands it was trained on; data.bands of the recipe names them",
        )
    return None


def _warn(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether both have names, or the same numbers in another order."""
    return sorted(ours) == sorted(theirs) or not (is_unnamed(ours) or is_unnamed(theirs))


def other_values(read: Read, info: RasterInfo, bundle: Bundle) -> str:
    """Warning about values in another range than those of the training; "" for none.

    Three windows along the diagonal are read.
    """
    if bundle.normalisation.by_scene or bundle.statistics.min == bundle.statistics.max:
        return ""
    height, width = min(_WINDOW, info.grid.height), min(_WINDOW, info.grid.width)
    parts = []
    for place in _PLACES:
        row, col = int(place * (info.grid.height - height)), int(place * (info.grid.width - width))
        pixels, valid = read(Window(row, col, height, width, info.slices // 2))
        parts.append(pixels[:, valid])
    values = np.concatenate(parts, axis=1)
    if values.shape[1] < _FEW_PIXELS:
        return ""
    here = [np.percentile(band, _PERCENT) for band in values]
    there = _range(bundle)
    far = [_is_far(a, b, low, high) for (a, _, b), (low, high) in zip(here, there, strict=True)]
    flat = all(_is_flat(a, b, low, high) for (a, _, b), (low, high) in zip(here, there, strict=True))
    odd = [n for n, is_odd in enumerate(far) if is_odd] or (list(range(len(far))) if flat else [])
    if not odd:
        return ""
    name = bundle.bands[odd[0]]
    (a, _, b), (low, high) = here[odd[0]], there[odd[0]]
    others = f" (and {len(odd) - 1} more bands)" if odd[1:] else ""
    return (
        f"values of {name} are {a:.4g} to {b:.4g}, in the scenes of the training {low:.4g} to {high:.4g}{others}; "
        "scale the image to the units of the training"
    )


def _range(bundle: Bundle) -> list[tuple[float, float]]:
    """Lowest and highest usual value of each band in the training."""
    found = bundle.statistics
    if found.sketches:
        return [(low, high) for low, high in found.percentiles((_PERCENT[0], _PERCENT[-1]))]
    low = np.maximum(np.subtract(found.mean, np.multiply(3, found.std)), found.min)
    high = np.minimum(np.add(found.mean, np.multiply(3, found.std)), found.max)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _is_far(a: float, b: float, low: float, high: float) -> bool:
    """Whether a range is disjoint from another, or many times as wide."""
    width = max(high - low, 1e-12)
    return a > high + _BESIDE * width or b < low - _BESIDE * width or b - a > _WIDE * width


def _is_flat(a: float, b: float, low: float, high: float) -> bool:
    """Whether a range is a small part of another, at its lower end: reflectance for bytes, bytes for 16 bits."""
    width = high - low
    return b - a < _NARROW * width and b <= low + _NARROW * width
