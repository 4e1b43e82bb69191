"""Which transforms of albumentations work on which chips: the table of docs/augmentation.md.

    python -m bench.augment_table

Every transform that a recipe may name is checked as training checks it, with its defaults, on noise of 1, 3, 4 and 13
bands of each data type in a usual range. Those that pass then augment chips with invalid corners, of one value, and
with several masks; one that fails there is printed as FAILS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.augmentation import augment, transforms
from pipeline.data.chips.augmentation.augment import Augmentation
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import PipelineError, RecipeError
from pipeline.recipe import Augment

BANDS: Final = (1, 3, 4, 13)
RANGES: Final = {"uint8": (0, 255), "uint16": (0, 3000), "int16": (-200, 3000), "float32": (0.0, 0.9)}
"""Lowest and highest value of the chips of each data type."""
_SIZE: Final = 33
_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    **{name: {"height": _SIZE, "width": _SIZE} for name in ("CenterCrop", "RandomCrop", "Resize")},
    **{name: {"max_size": _SIZE} for name in ("LongestMaxSize", "SmallestMaxSize")},
    "CropNonEmptyMaskIfExists": {"height": _SIZE, "width": _SIZE},
    "Crop": {"x_max": _SIZE, "y_max": _SIZE},
    "CropAndPad": {"percent": 0.1},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 3},
    "PadIfNeeded": {"min_height": _SIZE, "min_width": _SIZE},
    "RandomResizedCrop": {"size": [_SIZE, _SIZE]},
    "RandomSizedCrop": {"min_max_height": [_SIZE // 2, _SIZE], "size": [_SIZE, _SIZE]},
}
"""What transforms need besides their defaults."""


def names() -> list[str]:
    """Transforms that a recipe may name and that are not made of others."""
    return [name for name, kind in sorted(transforms.kinds().items()) if _is_buildable(name, kind)]


def _is_buildable(name: str, kind: Any) -> bool:
    try:
        return not transforms.composed(transforms.build(name, _ARGUMENTS.get(name, {}), 0.0, None))
    except RecipeError:
        return False


def passes(name: str, bands: int, dtype: str, size: int = _SIZE, planes: int | None = None) -> bool:
    """Whether training would take this transform for such chips."""
    low, high = RANGES[dtype]
    try:
        augment.check(
            [_augment(name)], example=augment.example([low] * bands, [high] * bands, size, dtype), planes=planes
        )
    except RecipeError:
        return False
    return True


def fault(name: str, bands: int, dtype: str, size: int = _SIZE, planes: int | None = None) -> str:
    """What is wrong with chips that a transform augmented; empty if nothing is."""
    low, high = RANGES[dtype]
    section = [_augment(name)]
    span, fill = (float(low), float(high)), [float(low)] * bands
    augmentation = Augmentation(section, 0, fill, size=size, span=span)
    for number, (image, mask) in enumerate(_chips(bands, dtype, size + 2 * augment.margin(section, size), planes)):
        try:
            out, out_mask = augmentation(image, mask, 0, number)
        except PipelineError as error:
            return f"chip {number}: {error.message}"
        if out.shape != (bands, size, size) or out.dtype != image.dtype:
            return f"chip {number}: {out.dtype} {out.shape}"
        if out_mask.shape != (*mask.shape[:-2], size, size) or out_mask.dtype != np.uint8:
            return f"chip {number}: a mask of {out_mask.dtype} {out_mask.shape}"
        if not set(np.unique(out_mask).tolist()) <= {0, 1, IGNORE}:
            return f"chip {number}: mask values {np.unique(out_mask).tolist()}"
        if not np.isfinite(out.astype(np.float64)).all():
            return f"chip {number}: values that are not finite"
    return ""


def _augment(name: str) -> Augment:
    return Augment(transform=name, **_ARGUMENTS.get(name, {}), p=1.0)


def _chips(bands: int, dtype: str, side: int, planes: int | None) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8]]]:
    low, high = RANGES[dtype]
    rng = np.random.default_rng(1)
    for kind in ("noise", "corner", "lowest", "highest", "ramp", "nothing valid"):
        image = augment.example([low] * bands, [high] * bands, side, dtype)
        mask = (rng.random((side, side)) < 0.3).astype(np.uint8)
        if kind == "corner":
            image[:, :9, :9], mask[:9, :9] = low, IGNORE
        elif kind == "ramp":
            image = np.sort(image, axis=2)
        elif kind != "noise":
            image[:] = high if kind == "highest" else low
            mask[:] = IGNORE if kind == "nothing valid" else mask
        yield image, mask if planes is None else np.stack([mask] * planes)


def main() -> None:
    """Print the table: of each data type, the numbers of bands."""
    print(f"| transform | {' | '.join(RANGES)} |\n|---|{'---|' * len(RANGES)}")
    for name in names():
        cells = []
        for dtype in RANGES:
            works = [bands for bands in BANDS if passes(name, bands, dtype)]
            wrong = [f"FAILS {bands}" for bands in works if fault(name, bands, dtype)]
            cells.append("all" if works == list(BANDS) and not wrong else ", ".join([*map(str, works), *wrong]) or "-")
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
