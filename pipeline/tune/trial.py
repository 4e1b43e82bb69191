"""A trial of a search: a recipe with overrides, a directory of its own, a fit, and its MLflow run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import store
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import RecipeError
from pipeline.model.bundle import Bundle
from pipeline.recipe import Recipe, Train, replace
from pipeline.train.fit import Parent, fit, run_uri_of
from pipeline.train.on_mlflow import read_link
from pipeline.train.payload import SearchPayload
from pipeline.tune import space
from pipeline.tune.results import MANIFEST, WORST


def recipe_of(payload: SearchPayload, point: Mapping[str, Any], name: str) -> Recipe:
    """A trial's recipe: the overrides of its point, and a directory of its own, since a point may come twice.

    Raises:
        RecipeError: the overrides are wrong together.
    """
    changed = replace(payload.recipe, space.overrides(payload.recipe.tune.space, point))
    return replace(changed, {"compute.output": store.join(payload.uri, "trials", name)})


def train(recipe: Recipe, payload: SearchPayload, callbacks: Sequence[Any]) -> Bundle:
    """Fit a trial's recipe on what the search's trials share."""
    manifest = Manifest.read(store.join(payload.uri, MANIFEST), root=recipe.data.root)
    return fit(
        recipe,
        manifest=manifest,
        register=False,
        parent=Parent(payload.run_id, payload.recipe.compute.output),
        callbacks=callbacks,
        progress=lambda *_: None,
    )


def run_id_of(payload: SearchPayload, point: Mapping[str, Any], name: str, manifest: Manifest) -> str | None:
    """Id of a trial's MLflow run, which its fit wrote to the run's directory; None if it did not get so far."""
    try:
        run_uri = run_uri_of(recipe_of(payload, point, name), manifest)
    except RecipeError:
        return None
    link = read_link(run_uri)
    return link and link[1]


def validated_every(section: Train) -> int:
    """Steps between validations."""
    return section.validate_every or section.checkpoint_every


def finite(score: float | None) -> float:
    """The score, or the worst one where there is none."""
    return float(score) if score is not None and math.isfinite(score) else WORST
