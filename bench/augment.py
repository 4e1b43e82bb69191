"""What augmenting a chip costs: CPU milliseconds of ours and of albumentations alone, on the same chips in one run.

    python -m bench.augment                          # 4 bands of uint16, 512²
    python -m bench.augment --bands 3 --dtype uint8 --repeat 100

Both draw afresh for every chip; images come and go as [C, H, W], as they are read and as batches want them. Where
albumentations fails or makes another dtype, that is said. Last the whole recipes that people write.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from pipeline.data.chips.augmentation.augment import Augmentation, margin
from pipeline.recipe import Augment

warnings.filterwarnings("ignore")  # albumentations' own

import albumentations  # noqa: E402 - after ours, which keeps it from asking a server for its newest version
import cv2  # noqa: E402

LIGHT = {"transform": "RandomBrightnessContrast", "brightness_by_max": False}
ONE: list[dict[str, Any]] = [
    {"transform": "HorizontalFlip"},
    {"transform": "VerticalFlip"},
    {"transform": "RandomRotate90"},
    {"transform": "Transpose"},
    {"transform": "D4"},
    LIGHT,
    {"transform": "RandomBrightnessContrast"},
    {"transform": "RandomGamma"},
    {"transform": "Affine", "rotate": [-30, 30], "scale": [0.8, 1.2]},
    {"transform": "GaussianBlur"},
    {"transform": "CoarseDropout"},
]
RECIPES: dict[str, list[dict[str, Any]]] = {
    "D4": [{"transform": "D4"}],
    "D4, light": [{"transform": "D4"}, LIGHT, {"transform": "RandomGamma"}],
    "D4, light, Affine": [{"transform": "D4"}, LIGHT, {"transform": "Affine", "rotate": [-30, 30]}],
}


def main() -> None:
    options = arguments()
    cv2.setNumThreads(0)
    image, mask = chip(options)
    print(f"{options.bands} bands of {options.dtype}, {options.size}²; CPU ms per chip, transforms always applied")
    print(f"{'':33}{'ours':>8}{'albumentations':>16}{'ratio':>8}")
    for name, items in [(label(item), [item]) for item in ONE] + list(RECIPES.items()):
        always = [item | {"p": 1.0} for item in items]
        augments = [Augment.model_validate(item) for item in always]
        augment = Augmentation(augments, 0, (1.0,) * options.bands)
        ours = per_chip(lambda i, augment=augment: augment(image, mask, 0, i), options)
        compared(name, ours, theirs(always), image, mask, options)
    turned = [Augment(transform="Rotate", limit=[-45, 45], p=1.0)]
    halo = margin(turned, options.size)
    wide = np.pad(image, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    marks = np.pad(mask, halo, mode="reflect")
    augment = Augmentation(turned, 0, (1.0,) * options.bands, size=options.size)
    cost = per_chip(lambda i: augment(wide, marks, 0, i), options)
    print(f"Rotate by 45° with a halo of {halo} pixels: {cost:.2f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--dtype", choices=("uint8", "uint16", "float32"), default="uint16")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--repeat", type=int, default=40, help="chips measured")
    return parser.parse_args()


def chip(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.random((options.bands, options.size // 16, options.size // 16)).astype(np.float32)
    smooth = np.stack([cv2.resize(band, (options.size, options.size)) for band in coarse])
    top = {"uint8": 250, "uint16": 9000, "float32": 1}[options.dtype]
    image = (smooth * 0.9 + rng.random(smooth.shape) * 0.1) * top
    return image.astype(options.dtype), rng.integers(0, 3, smooth.shape[1:]).astype(np.uint8)


def label(item: dict[str, Any]) -> str:
    return item["transform"] + (" by mean" if item.get("brightness_by_max") is False else "")


def theirs(items: list[dict[str, Any]]) -> Any:
    built = [getattr(albumentations, i["transform"])(**{k: v for k, v in i.items() if k != "transform"}) for i in items]
    return albumentations.Compose(built, seed=0)


def compared(
    name: str, ours: float, compose: Any, image: np.ndarray, mask: np.ndarray, options: argparse.Namespace
) -> None:
    def call(_: int) -> np.ndarray:
        made = compose(image=np.ascontiguousarray(image.transpose(1, 2, 0)), mask=mask)
        return np.ascontiguousarray(made["image"].transpose(2, 0, 1))

    try:
        note = "" if call(0).dtype == image.dtype else f"  (gives {call(0).dtype})"
    except Exception as error:
        print(f"{name:33}{ours:8.2f}{'fails':>16}  ({' '.join(str(error).split())[:60]})")
        return
    other = per_chip(call, options)
    print(f"{name:33}{ours:8.2f}{other:16.2f}{ours / other:8.2f}{note}")


def per_chip(call: Callable[[int], object], options: argparse.Namespace) -> float:
    """CPU milliseconds: the median of five rounds."""
    for i in range(3):
        call(i)
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for i in range(max(1, options.repeat // 5)):
            call(i)
        rounds.append((time.process_time() - began) / max(1, options.repeat // 5) * 1000)
    return float(np.median(rounds))


if __name__ == "__main__":
    main()
