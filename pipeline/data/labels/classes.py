"""Classes: which label values mean which class, and the encoding of labels as masks of class ids and IGNORE."""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LabelError
from pipeline.recipe import ClassSpec, Data
from pipeline.recipe.labels import canonical, color_of, span_of, values_of

IGNORE: Final = 255
"""Mask value of pixels that are outside loss and metrics: not annotated, not measured, or padding."""

UNKNOWN: Final = 256
"""What `Classes.ids` says of a label value that no class claims."""

_TABLE_SPAN: Final = 1 << 16
_SHOWN_VALUES: Final = 8
# More values than anyone draws by hand: soft edges, or a lossy file.
_MANY_VALUES: Final = 16
_NEAR_COLOR: Final = 40
_WHOLE: Final = re.compile(r"\s*[+-]?[0-9]+\s*")

# Okabe & Ito, "Color Universal Design" (2008): eight colours that people with any colour vision can distinguish.
_PALETTE: Final = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def default_color(position: int) -> tuple[int, int, int]:
    """Colour of the class at `position`: the palette first, then hues a golden angle apart."""
    if position < len(_PALETTE):
        return _PALETTE[position]
    red, green, blue = colorsys.hsv_to_rgb(position * 0.618034 % 1, 0.65, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def pack(pixels: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Colours [3, ...] of 8 bits per band as numbers [...]: red * 65536 + green * 256 + blue."""
    red, green, blue = (band.astype(np.int32) for band in pixels)
    codes: NDArray[np.int32] = (red << 16) | (green << 8) | blue
    return codes


@dataclass(frozen=True)
class Classes:
    """Names, colours (red, green, blue in 0..255) and label values of the classes, in order of their ids.

    A label value is a number, a range "5..9" with both ends, a colour "#rrggbb", or a word: the value of an attribute.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    values: tuple[tuple[int | str, ...], ...]
    ignore_values: tuple[int | str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        # The tables are made again where they are needed: a plan that travels should stay small.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_section(cls, data: Data) -> Classes:
        """The classes that a recipe's data section lists."""
        named = data.label.attribute is not None
        return cls(
            names=tuple(c.name for c in data.classes),
            colors=tuple(_color(c, i) for i, c in enumerate(data.classes)),
            values=tuple(values_of(c, i, named=named) for i, c in enumerate(data.classes)),
            ignore_values=tuple(map(canonical, data.ignore_values)),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain lists and strings."""
        return {
            "names": list(self.names),
            "colors": [list(c) for c in self.colors],
            "values": [list(v) for v in self.values],
            "ignore_values": list(self.ignore_values),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Classes:
        """The opposite of `to_json`."""
        return cls(
            names=tuple(tree["names"]),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in tree["colors"]),
            values=tuple(tuple(v) for v in tree["values"]),
            ignore_values=tuple(tree["ignore_values"]),
        )

    def encode(
        self, label: NDArray[np.integer[Any]], scene: str, valid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """Turn a label into a mask.

        Args:
            label: label values as delivered, [H, W] of any integer dtype, or colours [3, H, W] of 8 bits per band.
            scene: id of the scene, for the message.
            valid: [H, W]; where False, the label holds nothing, its value is not looked at, and the mask is IGNORE.

        Returns:
            Mask [H, W] uint8: class ids and IGNORE.

        Raises:
            LabelError: values that no class claims; says which, how many pixels, in which scene.
        """
        mask, unclaimed = self.mask(label, np.ones(label.shape[-2:], np.bool_) if valid is None else valid)
        if unclaimed is not None:
            raise self.refusal(unknown_values(label, unclaimed), scene)
        return mask

    def mask(
        self, label: NDArray[np.integer[Any]], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """The mask [H, W] of a label ([H, W] or [3, H, W]), IGNORE where it is not valid [H, W] or no class claims its
        value; and where that is [H, W], None if nowhere."""
        mask: NDArray[Any]
        unknown: int | None
        bytewise = label.ndim == 2 and label.dtype == np.uint8
        if bytewise and int(label.max(initial=0)) < self._same:
            mask, unknown = label.astype(np.uint8), None  # a copy
        elif bytewise and self._bytes is not None:
            table, unknown = self._bytes
            mask = cv2.LUT(np.ascontiguousarray(label), table)
        else:
            mask, unknown = self.ids(label), UNKNOWN
        if not valid.all():
            mask[~valid] = IGNORE
        unclaimed: NDArray[np.bool_] | None = None if unknown is None else mask == unknown
        if unclaimed is None or not unclaimed.any():
            return mask.astype(np.uint8, copy=False), None
        mask[unclaimed] = IGNORE
        return mask.astype(np.uint8, copy=False), unclaimed

    def tally(
        self, label: NDArray[np.integer[Any]], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Counter[int | str]]:
        """Count the valid pixels of a label ([H, W] or [3, H, W]): per class [K], and per value without a class."""
        ids = self.ids(label)
        counts = np.bincount(ids[valid], minlength=UNKNOWN + 1)[: len(self)]
        return counts, unknown_values(label, valid & (ids == UNKNOWN))

    def ids(self, label: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
        """Class ids, IGNORE and UNKNOWN of label values [H, W] or colours [3, H, W], as a new array [H, W]."""
        if label.ndim == 3:
            return _search(self._color_spans, pack(label))
        if self._table is None:
            return _search(self._spans, label)
        first, table = self._table
        ids: NDArray[np.uint16] = table.take(np.subtract(label, first, dtype=np.int64), mode="clip")
        return ids

    def claims(self, label: NDArray[Any]) -> NDArray[np.bool_]:
        """Pixels of a label whose values a class claims: [H, W].

        Args:
            label: numbers [H, W], or [C, H, W] of which every band must be claimed; of classes in colours [3, H, W].
        """
        if self.in_colors and label.ndim == 3:
            return np.asarray(self.ids(label) < len(self))
        bands = label.reshape(-1, *label.shape[-2:])
        whole = bands
        if bands.dtype.kind == "f":
            limit = float(1 << 62)
            whole = np.clip(np.nan_to_num(bands, nan=-limit), -limit, limit).astype(np.int64)
        pairs = zip(whole, bands, strict=True)
        return np.asarray(np.logical_and.reduce([(self.ids(w) < len(self)) & (w == b) for w, b in pairs]))

    def knows(self, values: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether a class or `ignore_values` names each of the numbers [N]."""
        return np.asarray(self.ids(values) != UNKNOWN)

    def id_of(self, value: int | str) -> int:
        """Class id, IGNORE or UNKNOWN of an attribute's value: a word, or a number that may be written as text."""
        for spelling in (value, str(value), _number(value)):
            if spelling in self._words:
                return self._words[spelling]
        number = _number(value)
        return UNKNOWN if number is None else int(_search(self._spans, np.array([number], np.int64))[0])

    @property
    def in_colors(self) -> bool:
        """Whether any label value is a colour."""
        return len(self._color_spans[0]) > 0

    def refusal(self, unclaimed: Mapping[Any, int], scene: str, unit: str = "pixels") -> LabelError:
        """The error for a scene whose label holds these values (value -> pixels, or shapes), which no class claims."""
        counts: Counter[Any] = Counter(unclaimed)
        shown = ", ".join(f"{value} ({number} {unit})" for value, number in counts.most_common(_SHOWN_VALUES))
        more = f" and {len(counts) - _SHOWN_VALUES} more" if len(counts) > _SHOWN_VALUES else ""
        claimed = "; ".join(f"{n}: {', '.join(map(str, v))}" for n, v in zip(self.names, self.values, strict=True))
        ignored = f"; ignored: {', '.join(map(str, self.ignore_values))}" if self.ignore_values else ""
        hint = "give them to a class in data.classes (values), or list them in data.ignore_values"
        return LabelError(
            f"scene {scene}: label values without a class: {shown}{more}. Known values are {claimed}{ignored}",
            self._suspicion(counts) or hint,
        )

    def _suspicion(self, counts: Counter[Any]) -> str:
        """Explanation that many unclaimed values suggest; empty if there is none."""
        if len(counts) <= _MANY_VALUES or not self._claims:
            return ""
        near = sum(pixels for value, pixels in counts.items() if self._is_near(value))
        if isinstance(next(iter(counts)), str):
            lossy = "most are close to a class's colour, as in a JPEG or at soft edges: save labels as PNG without them"
            return lossy if 2 * near > counts.total() else ""
        soft = "so many values look like soft edges: set data.label.threshold, for instance to 128"
        return soft if len(self) == 2 and all(0 <= value <= 255 for value in counts) else ""

    def _is_near(self, value: Any) -> bool:
        code = color_of(value)
        if code is None:
            return False
        return any(
            all(abs((code >> bits & 255) - (claimed >> bits & 255)) <= _NEAR_COLOR for bits in (0, 8, 16))
            for claimed in self._color_spans[0].tolist()
        )

    @cached_property
    def _claims(self) -> list[tuple[int | str, int]]:
        """Every label value that a recipe names, and what it is in a mask."""
        pairs = [(value, i) for i, values in enumerate(self.values) for value in values]
        return pairs + [(value, IGNORE) for value in self.ignore_values]

    @cached_property
    def _spans(self) -> _Spans:
        return _sorted((*span, i) for value, i in self._claims if (span := span_of(value)) is not None)

    @cached_property
    def _color_spans(self) -> _Spans:
        return _sorted((code, code, i) for value, i in self._claims if (code := color_of(value)) is not None)

    @cached_property
    def _words(self) -> dict[Any, int]:
        return {value: i for value, i in self._claims if isinstance(value, str)}

    @cached_property
    def _table(self) -> tuple[int, NDArray[np.uint16]] | None:
        """A mask value per label value from a lowest one on, if the claimed ones lie close together."""
        lows, highs, ids = self._spans
        if not len(lows) or int(highs[-1]) - int(lows[0]) >= _TABLE_SPAN:
            return None
        # One slot more at either end catches everything below and above.
        first = int(lows[0]) - 1
        table = np.full(int(highs[-1]) - first + 2, UNKNOWN, np.uint16)
        for low, high, i in zip(lows.tolist(), highs.tolist(), ids.tolist(), strict=True):
            table[low - first : high - first + 1] = i
        return first, table

    @cached_property
    def _same(self) -> int:
        """Number of label values, from 0 on, that are equal to their class ids: of most labels all."""
        values = np.arange(IGNORE)
        return int(np.append(self.ids(values) != values, True).argmax())

    @cached_property
    def _bytes(self) -> tuple[NDArray[np.uint8], int] | None:
        """A mask value for each label value of 8 bits [256], several times faster than `ids`; and what stands for
        UNKNOWN in it, which must be no class."""
        unknown = IGNORE - 1
        if len(self) > unknown:
            return None
        ids = self.ids(np.arange(256))
        return np.where(ids == UNKNOWN, unknown, ids).astype(np.uint8), unknown


_Spans = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]


def unknown_values(label: NDArray[np.integer[Any]], where: NDArray[np.bool_]) -> Counter[int | str]:
    """Label values at some pixels [H, W] of a label ([H, W], or [3, H, W] colours), and how many pixels have them."""
    values = pack(label[:, where]) if label.ndim == 3 else label[where]
    found, pixels = np.unique(values, return_counts=True)
    names = [f"#{v:06x}" for v in found.tolist()] if label.ndim == 3 else found.tolist()
    return Counter(dict(zip(names, pixels.tolist(), strict=True)))


def _sorted(claims: Iterator[tuple[int, int, int]]) -> _Spans:
    """First and last value, and mask value, of every claim; ascending."""
    table = np.array(sorted(claims), np.int64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.uint16)


def _search(spans: _Spans, values: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
    lows, highs, ids = spans
    if not len(lows):
        return np.full(values.shape, UNKNOWN, np.uint16)
    position = (np.searchsorted(lows, values, side="right") - 1).clip(min=0)
    inside = (values >= lows[position]) & (values <= highs[position])
    return np.where(inside, ids[position], np.uint16(UNKNOWN))


def _number(value: int | str) -> int | None:
    """The whole number that a value is or spells, if the tables can hold it."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        return None
    return int(value) if abs(int(value)) < 1 << 63 else None


def _color(spec: ClassSpec, position: int) -> tuple[int, int, int]:
    if spec.color is None:
        return default_color(position)
    digits = spec.color.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
