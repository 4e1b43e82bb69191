"""A contact sheet of augmented chips, as training will get them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline import store
from pipeline.data.chips.statistics import compute
from pipeline.data.chips.statistics.moments import representable
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.planning import plan_of
from pipeline.data.labels import display
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.scenes.index import current
from pipeline.recipe import Recipe

_SIDE: Final = 256
"""Pixels of a chip's picture; chips beyond are made smaller, smaller ones are enlarged by whole factors."""
_COLUMNS: Final = 6
_GAP: Final = 12
_TEXT: Final = 16
_PAPER: Final = (250, 250, 250)
_INK: Final = (30, 30, 30)
_FAINT: Final = (120, 120, 120)
_NONE: Final = 254


@dataclass(frozen=True)
class _Shown:
    """One chip's picture and the lines below it."""

    picture: Image.Image
    lines: tuple[str, str]


def write(recipe: Recipe, out: str, *, chips: int = 24, plan: Plan | None = None) -> str:
    """Write the first chips of training as one PNG: pixels with the classes over them, IGNORE hatched, invalid black.

    Args:
        recipe: is indexed first if it is not yet.
        out: path or s3:// URI of the PNG.
        chips: how many.
        plan: of these chips, if it is there already.

    Returns:
        `out`.

    Raises:
        ManifestError: the train split is empty.
        DataError, RecipeError: as in training.
    """
    manifest = current(recipe)
    plan = plan or plan_of(recipe, manifest, compute.cached(recipe, manifest))
    sheet = sheet_of(plan, manifest.bands, range(max(1, chips)), title=recipe.name)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    store.write_bytes(out, buffer.getvalue())
    return out


def sheet_of(plan: Plan, bands: Sequence[str], numbers: Sequence[int], *, title: str = "") -> Image.Image:
    """The chips of these numbers side by side, with a legend.

    Args:
        plan: makes the chips.
        bands: names of all bands; red, green and blue among them are shown as such.
        numbers: of the chips.
        title: stands above.
    """
    made = [plan.chip(number) for number in numbers]
    chosen = display.rgb_bands(bands)
    valid = [_valid(image, mask, plan.fill) for image, mask in made]
    # One stretch for all chips: what augmentation does to their light must be seen.
    between = _limits([image[list(chosen)] for image, _ in made], valid)
    shown = []
    for number, (image, mask), seen in zip(numbers, made, valid, strict=True):
        picture = display.stretch(image[list(chosen)], seen, between)
        flat = display.flat(mask, _NONE)
        size = _size(picture.shape[0], picture.shape[1])
        picture = display.overlaid(_resized(picture, size, smooth=True), _resized(flat, size), plan.classes)
        shown.append(_Shown(Image.fromarray(picture), _lines(plan, number)))
    height, width = made[0][0].shape[-2:]
    names = dict.fromkeys(bands[position] for position in chosen)
    subtitle = f"{title}   {len(made)} chips of {height} by {width} pixels, bands {', '.join(names)} of {len(bands)}"
    return _sheet(shown, plan.classes, subtitle.strip())


def _valid(image: NDArray[Any], mask: NDArray[np.uint8], fill: Sequence[float]) -> NDArray[np.bool_]:
    """False where nothing was measured: there the chip holds the fill in all bands, and IGNORE."""
    ignored: NDArray[np.bool_] = (mask if mask.ndim == 2 else mask[0]) == IGNORE
    for band, value in zip(image, representable(fill, image.dtype), strict=True):
        ignored &= band == value
    return ~ignored


def _limits(images: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_]]) -> list[tuple[float, float]]:
    whole = np.concatenate([image[:, seen][:, ::7] for image, seen in zip(images, valid, strict=True)], axis=1)
    return display.limits(whole[:, None], np.ones((1, whole.shape[1]), np.bool_))


def _lines(plan: Plan, number: int) -> tuple[str, str]:
    ref = plan.order.chip(number)
    window = ref.window
    depth = f", slice {window.slice}" if window.slice else ""
    return f"{number}  {plan.scenes[ref.scene].id}", f"row {window.row}, col {window.col}{depth}"


def _size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a chip's picture."""
    longest = max(height, width)
    factor = _SIDE // longest if longest <= _SIDE else _SIDE / longest
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(picture: NDArray[np.uint8], size: tuple[int, int], *, smooth: bool = False) -> NDArray[np.uint8]:
    """To height and width of `size`; class ids must not be averaged."""
    shrinks = size[0] < picture.shape[0]
    kind = Image.Resampling.BOX if smooth and shrinks else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), kind))


def _sheet(shown: Sequence[_Shown], classes: Classes, title: str) -> Image.Image:
    columns = min(_COLUMNS, len(shown))
    wide, tall = (max(s.picture.size[axis] for s in shown) for axis in (0, 1))
    wide = max(wide, 160)  # space for the text below
    step = tall + 2 * _TEXT + _GAP
    width = _GAP + columns * (wide + _GAP)
    legend = _legend_rows(classes, width)
    top = _GAP + _TEXT + len(legend) * (_TEXT + 6) + _GAP
    sheet = Image.new("RGB", (width, top + math.ceil(len(shown) / columns) * step), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP, _GAP), title, width - 2 * _GAP, _INK)
    for row, entries in enumerate(legend):
        for left, name, color in entries:
            y = 2 * _GAP + _TEXT + row * (_TEXT + 6) - 4
            draw.rectangle((left, y, left + 14, y + 14), fill=color, outline=_INK)
            if color is None:
                draw.line((left, y + 14, left + 14, y), fill=_FAINT)
            draw.text((left + 20, y), name, fill=_INK, font=_font())
    for position, one in enumerate(shown):
        down, right = divmod(position, columns)
        x, y = _GAP + right * (wide + _GAP), top + down * step
        sheet.paste(one.picture, (x, y))
        for line, (text, ink) in enumerate(zip(one.lines, (_INK, _FAINT), strict=True)):
            _write(draw, (x, y + tall + 3 + line * (_TEXT - 1)), text, wide, ink)
    return sheet


def _legend_rows(classes: Classes, width: int) -> list[list[tuple[int, str, tuple[int, int, int] | None]]]:
    """Left edge, name and colour of every class, broken into rows; the last is IGNORE."""
    rows: list[list[tuple[int, str, tuple[int, int, int] | None]]] = [[]]
    left = _GAP
    entries = [*zip(classes.names, classes.colors, strict=True), ("not annotated, outside, or no measurement", None)]
    for name, color in entries:
        name += "" if color is None or any(color) else " (not coloured)"
        needs = 20 + int(_font().getlength(name)) + 18
        if rows[-1] and left + needs > width:
            rows.append([])
            left = _GAP
        rows[-1].append((left, name, color))
        left += needs
    return rows


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, ink: tuple[int, int, int]) -> None:
    """Text that ends with an ellipsis where it is longer than `width` pixels."""
    font = _font()
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    draw.text(place, text, fill=ink, font=font)


def _font() -> Any:
    return ImageFont.load_default(12)
