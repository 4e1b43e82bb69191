"""Scenes that exist only as masks in memory, for the tests of what is drawn by masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.data.chips.sampling.class_index import Presence
from pipeline.data.chips.sampling.class_index_build import build
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene


def scene(name: str, height: int, width: int, **changes: Any) -> Scene:
    """What a manifest would say of it."""
    fields = {"image": f"{name}.tif", "label": None, "split": "train", "group": name, "stamp": name}
    fields |= {"crs": None, "transform": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    return Scene(id=name, height=height, width=width, **fields | changes)


def blobs(height: int, width: int, seed: int = 0, slices: int = 1, num: int = 4) -> np.ndarray:
    """Mask [slices, h, w]: ground 0, many small patches of 1, few of 2, and a corner that is IGNORE."""
    random = np.random.default_rng(seed)
    mask = np.zeros((slices, height, width), np.uint8)
    for value, patches, side in ((1, 4 * num, 9), (2, num, 5)):
        for _ in range(patches):
            level, row, col = random.integers((slices, height, width))
            mask[level, row : row + side, col : col + side] = value
    mask[:, : height // 3, : width // 2] = IGNORE
    return mask


class World:
    """Masks [slices, h, w], or of multilabel data [slices, K, h, w], as scenes."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        self.masks = {f"s{i}": mask for i, mask in enumerate(masks)}
        self.scenes = [scene(i, *m.shape[-2:], slices=m.shape[0]) for i, m in self.masks.items()]
        self.shapes = [(s.height, s.width, s.slices) for s in self.scenes]

    def read(self, scene: Scene, window: Window) -> np.ndarray:
        """The mask of a window; what lies outside is IGNORE."""
        mask = self.masks[scene.id][window.slice]
        out = np.full((*mask.shape[:-2], window.height, window.width), IGNORE, np.uint8)
        here = mask[..., window.row : window.row + window.height, window.col : window.col + window.width]
        out[..., : here.shape[-2], : here.shape[-1]] = here
        return out

    def at(self, ref: Any) -> np.ndarray:
        """The mask of a chip's window."""
        return self.read(self.scenes[ref.scene], ref.window)

    def presence(self, cell: int = 8, num_classes: int = 3, **options: Any) -> Presence:
        """The index of the classes."""
        return build(self.scenes, self.read, num_classes=num_classes, cell=cell, **options)
