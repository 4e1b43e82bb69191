"""A plan over a few small scenes, for the tests of chips and feeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.chips import raw_chip
from pipeline.data.feed.plan import Plan
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data
from tests.factory import TRANSFORM, UTM, make_scene

FILL = (11.4, 12.6, 13.0, 14.0)
AUGMENT = ["HorizontalFlip", "RandomRotate90", {"transform": "Affine", "rotate": [-20, 20], "p": 0.7}]


def scene(folder: Path, name: str, **options: Any) -> Scene:
    """Write a scene; what the manifest would say of it."""
    options = {"height": 64, "width": 64, "bands": 4, "dtype": "uint16", "label_ending": ".tif"} | options
    make_scene(folder, name, **options)
    image, label = folder / "images" / f"{name}.tif", folder / "masks" / f"{name}.tif"
    return Scene(
        id=name,
        image=str(image),
        label=str(label) if options["label_ending"] else None,
        split="train",
        group="g",
        height=options["height"],
        width=options["width"],
        crs=UTM,
        transform=TRANSFORM,
        stamp="",
    )


def section(folder: Path, **changes: Any) -> Data:
    """A data section for the scenes."""
    tree = {
        "root": str(folder),
        "images": "images/*",
        "labels": "masks/{id}.tif",
        "classes": [{"name": "ground"}, {"name": "disc"}],
        "sampling": {"size": 32},
    }
    return Data.model_validate(tree | changes)


def plan(folder: Path, *, augment: Any = (), sampling: Any = None, seed: int = 5) -> Plan:
    """Four scenes of 4 bands uint16; one is smaller than the window."""
    sizes = [(70, 90), (80, 60), (20, 100), (64, 64)]
    scenes = tuple(
        scene(folder, f"s{i}", height=h, width=w, invalid="nodata", seed=i, tiled=True, blockxsize=64, blockysize=64)
        for i, (h, w) in enumerate(sizes)
    )
    data = section(folder, augment=list(augment), sampling=sampling or {"size": 32})
    return Plan(scenes, Classes.from_section(data), data, FILL, "uint16", 4, "digest", seed)


def cut(
    one: Scene,
    window: Window,
    classes: Classes,
    *,
    fill: Sequence[float],
    nodata: float | None = None,
    data: Data | None = None,
    shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask at a window, with the fill and IGNORE where nothing is valid."""
    data = Data.model_construct() if data is None else data
    data = data if nodata is None else data.model_copy(update={"nodata": nodata})
    return raw_chip.read(one, window, classes, data=data, shape=shape).finished(fill)
