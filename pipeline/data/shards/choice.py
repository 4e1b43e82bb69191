"""Whether training reads from prepared shards: as `compute.shards` says, and as they are there."""

from __future__ import annotations

from pipeline.data.manifest import Manifest
from pipeline.data.shards import prepare
from pipeline.errors import ManifestError
from pipeline.recipe import Recipe


def chosen(recipe: Recipe, manifest: Manifest, split: str = "train") -> str:
    """Where the shards are that windows of a split come from; "" if they come from the files.

    Raises:
        ManifestError: shards are required, and there are none of this very manifest and these ways of reading.
    """
    wanted = recipe.compute.shards
    uri = "" if wanted == "never" else prepare.found(recipe, manifest, split)
    if wanted == "require" and not uri:
        raise ManifestError(
            f"compute.shards: require, but the {split} split is not prepared as it is now: there is nothing at "
            f"{prepare.place(recipe, manifest, split)}",
            "run `segpipe prepare` with this recipe, or set compute.shards=auto",
        )
    return uri
