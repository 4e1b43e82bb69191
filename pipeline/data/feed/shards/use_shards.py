"""Decide whether windows are read from shards: by `compute.shards`, and whether they exist."""

from __future__ import annotations

from typing import Final

from pipeline.data.feed.shards import prepare
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import ManifestError
from pipeline.recipe import Recipe

_OF_TRAINING: Final = ("train", "val")


def splits(manifest: Manifest) -> tuple[str, ...]:
    """Those of the splits train and val that have scenes: training reads them again and again."""
    filled = {scene.split for scene in manifest.scenes}
    return tuple(split for split in _OF_TRAINING if split in filled)


def chosen(recipe: Recipe, manifest: Manifest, split: str = "train") -> str:
    """URI of the shards that training reads windows of a split from; "" if it reads the files.

    Raises:
        ManifestError: shards are required, and there are none of this very manifest and these ways of reading.
    """
    uri = at_hand(recipe, manifest, split)
    if recipe.compute.shards == "require" and not uri:
        raise ManifestError(
            f"compute.shards: require, but the {split} split is not prepared as it is now: there is nothing at "
            f"{prepare.place(recipe, manifest, split)}",
            "run `segpipe prepare` with this recipe, or set compute.shards=auto",
        )
    return uri


def of_training(recipe: Recipe, manifest: Manifest) -> dict[str, str]:
    """As `chosen`, of each split that training reads.

    Raises:
        ManifestError: shards are required, and there are none.
    """
    return {split: chosen(recipe, manifest, split) for split in splits(manifest)}


def at_hand(recipe: Recipe, manifest: Manifest, split: str) -> str:
    """URI of the shards of a split if they exist, for reads that do not require them; "" without."""
    return "" if recipe.compute.shards == "never" else prepare.found(recipe, manifest, split)
