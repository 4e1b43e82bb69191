"""What training needs to know before it reads a chip: how pixels are normalised, what masks hold, where shards are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data import cutting
from pipeline.data.chips import Plan
from pipeline.data.manifest import Manifest
from pipeline.data.sampling import presence, presence_build
from pipeline.data.sampling.presence import Presence
from pipeline.data.scenes import Scene
from pipeline.data.shards import prepare
from pipeline.data.statistics import normalise
from pipeline.data.statistics.moments import Statistics
from pipeline.data.statistics.normalise import Normalisation
from pipeline.data.windows import Window
from pipeline.log import Advance
from pipeline.recipe import Recipe


def normalisation_of(recipe: Recipe, manifest: Manifest, statistics: Statistics) -> Normalisation:
    """What `data.normalise` means for these data and this network.

    Raises:
        RecipeError: it cannot be applied to such data.
    """
    pretrained = bool(getattr(recipe.model, "pretrained", False))
    return normalise.of(recipe.data.normalise, statistics, dtype=manifest.dtype, pretrained=pretrained)


def plan_of(recipe: Recipe, manifest: Manifest, statistics: Statistics, *, progress: Advance | None = None) -> Plan:
    """The plan of the train split. What the masks hold is read now, if the sampling draws by it and nobody did before.

    Raises:
        ManifestError: the split is empty, or the sampling lacks what it draws by.
        RecipeError: normalisation or augmentation cannot be applied to such data; all are named.
    """
    return Plan.of(
        manifest,
        statistics,
        recipe.data,
        recipe.seed,
        normalisation=normalisation_of(recipe, manifest, statistics),
        shards=prepare.found(recipe, manifest),
        presence=_presence(recipe, manifest, progress),
    )


def _presence(recipe: Recipe, manifest: Manifest, progress: Advance | None) -> Presence | None:
    data = recipe.data
    if not presence.needed(data.sampling):
        return None

    def mask(scene: Scene, window: Window) -> NDArray[np.uint8]:
        cut = cutting.read(scene, window, manifest.classes, nodata=data.nodata, data=data)
        return cut.finished((0.0,) * len(manifest.bands))[1]

    folder = store.join(recipe.compute.output, recipe.name, "manifests")
    scenes = manifest.split("train")
    return presence_build.current(
        folder, manifest.digest, scenes, data.sampling, mask, num_classes=len(manifest.classes), progress=progress
    )
