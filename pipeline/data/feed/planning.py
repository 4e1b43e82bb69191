"""Build the plan of a recipe: normalisation, index of classes, shards."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips import raw_chip
from pipeline.data.chips.sampling import class_index, class_index_build
from pipeline.data.chips.sampling.class_index import Presence
from pipeline.data.chips.statistics import normalise
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.shards import use_shards
from pipeline.data.labels.classes import Classes
from pipeline.data.parallel import local
from pipeline.data.parallel.local import Map
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.log import Advance
from pipeline.recipe import Data, Recipe


def normalisation_of(recipe: Recipe, manifest: Manifest, statistics: Statistics) -> Normalisation:
    """The normalisation of a recipe for these data and this network.

    Raises:
        RecipeError: it cannot be applied to such data.
    """
    pretrained = bool(getattr(recipe.model, "pretrained", False))
    return normalise.of(recipe.data.normalise, statistics, dtype=manifest.dtype, pretrained=pretrained)


def plan_of(
    recipe: Recipe,
    manifest: Manifest,
    statistics: Statistics,
    *,
    mapped: Map = local.mapped,
    progress: Advance | None = None,
) -> Plan:
    """The plan of the train split. Where the sampling draws by class, the index of classes is made now, by `mapped`,
    unless it is there.

    Raises:
        ManifestError: the split is empty, the sampling lacks what it draws by, or required shards are not there.
        RecipeError: normalisation or augmentation cannot be applied to such data; all are named.
    """
    return Plan.of(
        manifest,
        statistics,
        recipe.data,
        recipe.seed,
        normalisation=normalisation_of(recipe, manifest, statistics),
        shards=use_shards.chosen(recipe, manifest),
        presence=presence_of(recipe, manifest, mapped=mapped, progress=progress),
    )


def presence_of(
    recipe: Recipe, manifest: Manifest, *, mapped: Map = local.mapped, progress: Advance | None = None
) -> Presence | None:
    """The index of classes of the train split, made by `mapped` if there is none; None if nothing draws by it.

    Raises:
        DataError: a mask cannot be read, or the index is damaged or of other scenes.
    """
    data = recipe.data
    if not class_index.needed(data.sampling):
        return None
    return class_index_build.current(
        store.join(recipe.compute.output, recipe.name, "manifests"),
        manifest.digest,
        manifest.split("train"),
        data.sampling,
        partial(_mask, classes=manifest.classes, num_bands=len(manifest.bands), data=data),
        num_classes=len(manifest.classes),
        mapped=mapped,
        progress=progress,
    )


def _mask(scene: Scene, window: Window, classes: Classes, num_bands: int, data: Data) -> NDArray[np.uint8]:
    cut = raw_chip.read(scene, window, classes, data=data)
    return cut.finished((0.0,) * num_bands)[1]
