"""Classes: which label values mean which class. Labels become masks here: uint8 class ids and IGNORE."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LabelError
from pipeline.recipe import ClassSpec, Data

IGNORE: Final = 255
"""Mask value of pixels that are outside loss and metrics: not annotated, not measured, or padding."""

_UNKNOWN: Final = 256
_TABLE_SPAN: Final = 1 << 16
_SHOWN_VALUES: Final = 8

# Okabe & Ito, "Color Universal Design" (2008): eight colours that people with any colour vision can tell apart.
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


@dataclass(frozen=True)
class Classes:
    """Names, colours (red, green, blue in 0..255) and label values of the classes, in order of their ids."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    values: tuple[tuple[int, ...], ...]
    ignore_values: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_section(cls, data: Data) -> Classes:
        """The classes that a recipe's data section lists."""
        return cls(
            names=tuple(c.name for c in data.classes),
            colors=tuple(_color(c, i) for i, c in enumerate(data.classes)),
            values=tuple(
                tuple(map(int, c.values)) if c.values is not None else (i,) for i, c in enumerate(data.classes)
            ),
            ignore_values=tuple(map(int, data.ignore_values)),
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
            label: label values as delivered, [H, W], any integer dtype.
            scene: id of the scene, for the message.
            valid: [H, W]; where False, the label holds nothing, its value is not looked at, and the mask is IGNORE.

        Returns:
            Mask [H, W] uint8: class ids and IGNORE.

        Raises:
            LabelError: values that no class claims; says which, how many pixels, in which scene.
        """
        ids = self._look_up(label)
        if valid is not None:
            ids[~valid] = IGNORE
        strange = ids == _UNKNOWN
        if strange.any():
            raise self.refusal(_count(label[strange]), scene)
        return ids.astype(np.uint8)

    def tally(
        self, label: NDArray[np.integer[Any]], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Counter[int]]:
        """Count the valid pixels of a label [H, W]: per class [K], and per value that no class claims."""
        ids = self._look_up(label[valid])
        return np.bincount(ids, minlength=_UNKNOWN + 1)[: len(self)], _count(label[valid][ids == _UNKNOWN])

    def refusal(self, strangers: Counter[int], scene: str) -> LabelError:
        """The error for a scene whose label holds these values (value -> pixels), which no class claims."""
        shown = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in strangers.most_common(_SHOWN_VALUES))
        more = f" and {len(strangers) - _SHOWN_VALUES} more" if len(strangers) > _SHOWN_VALUES else ""
        claimed = "; ".join(f"{n}: {', '.join(map(str, v))}" for n, v in zip(self.names, self.values, strict=True))
        ignored = f"; ignored: {', '.join(map(str, self.ignore_values))}" if self.ignore_values else ""
        return LabelError(
            f"scene {scene}: label values without a class: {shown}{more}. Known values are {claimed}{ignored}",
            "give them to a class in data.classes (values), or list them in data.ignore_values",
        )

    def _look_up(self, label: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
        known, ids = self._known
        low, span = int(known[0]), int(known[-1]) - int(known[0])
        if span < _TABLE_SPAN:
            # One slot more at either end catches everything below and above.
            table = np.full(span + 3, _UNKNOWN, np.uint16)
            table[known - low + 1] = ids
            return table.take(label.astype(np.int64) - (low - 1), mode="clip")
        position = np.searchsorted(known, label).clip(max=len(known) - 1)
        return np.where(known[position] == label, ids[position], np.uint16(_UNKNOWN))

    @cached_property
    def _known(self) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """All claimed label values, ascending, and the mask value of each."""
        pairs = [(value, i) for i, values in enumerate(self.values) for value in values]
        pairs += [(value, IGNORE) for value in self.ignore_values]
        values, ids = zip(*sorted(pairs), strict=True)
        return np.array(values, np.int64), np.array(ids, np.uint16)


def _count(values: NDArray[np.integer[Any]]) -> Counter[int]:
    found, pixels = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), pixels.tolist(), strict=True)))


def _color(spec: ClassSpec, position: int) -> tuple[int, int, int]:
    if spec.color is None:
        return default_color(position)
    digits = spec.color.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
