"""segpipe: train, search, evaluate and promote segmentation models on imagery too large for one machine.

    import pipeline
    recipe = pipeline.load("jobs/recipes/demo.yaml", ["train.steps=20"])
    manifest = pipeline.index(recipe)                              # scenes -> manifest
    bundle = pipeline.fit(recipe)                                  # manifest -> bundle
    report = pipeline.evaluate(recipe, bundle)                     # bundle x test split -> report
    decision = pipeline.promote(recipe, bundle)                    # gate -> alias in MLflow
    bundle = pipeline.pull("models:/demo@champion")
    pipeline.predict(bundle, "scenes/*.tif", "maps")               # bundle x scenes -> rasters

Every name is loaded when it is first used: `import pipeline` loads neither torch nor ray. `train` and `tune` are
packages, so the verbs are called `fit` and `search`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline import old_names

if TYPE_CHECKING:  # so that type checkers see the real signatures
    from pipeline.data.chips.statistics.moments import Statistics as Statistics
    from pipeline.data.labels.classes import IGNORE as IGNORE
    from pipeline.data.labels.classes import Classes as Classes
    from pipeline.data.scenes.index import index as index
    from pipeline.data.scenes.manifest import Manifest as Manifest
    from pipeline.data.scenes.scene import Scene as Scene
    from pipeline.errors import PipelineError as PipelineError
    from pipeline.evaluation.evaluate import evaluate as evaluate
    from pipeline.evaluation.report import Report as Report
    from pipeline.model.bundle import Bundle as Bundle
    from pipeline.model.catalogue import list_models as list_models
    from pipeline.model.export import export as export
    from pipeline.model.losses import create_loss as create_loss
    from pipeline.model.networks import create_model as create_model
    from pipeline.model.optimise import optimised as optimised
    from pipeline.model.smp.weights import from_smp as from_smp
    from pipeline.on_ray import submit as submit
    from pipeline.prediction.predict import predict as predict
    from pipeline.prediction.predict_arrays import predict_arrays as predict_arrays
    from pipeline.recipe import Recipe as Recipe
    from pipeline.recipe import load as load
    from pipeline.recipe import replace as replace
    from pipeline.registry.open_uri import load_model as load_model
    from pipeline.registry.open_uri import pull as pull
    from pipeline.release.promote import Decision as Decision
    from pipeline.release.promote import promote as promote
    from pipeline.train.fit import fit as fit
    from pipeline.tune.search import search as search
    from pipeline.world import World as World

_HOMES = {
    "Bundle": "pipeline.model.bundle",
    "Classes": "pipeline.data.labels.classes",
    "Decision": "pipeline.release.promote",
    "IGNORE": "pipeline.data.labels.classes",
    "Manifest": "pipeline.data.scenes.manifest",
    "PipelineError": "pipeline.errors",
    "Recipe": "pipeline.recipe",
    "Report": "pipeline.evaluation.report",
    "Scene": "pipeline.data.scenes.scene",
    "Statistics": "pipeline.data.chips.statistics.moments",
    "World": "pipeline.world",
    "create_loss": "pipeline.model.losses",
    "create_model": "pipeline.model.networks",
    "evaluate": "pipeline.evaluation.evaluate",
    "export": "pipeline.model.export",
    "fit": "pipeline.train.fit",
    "from_smp": "pipeline.model.smp.weights",
    "index": "pipeline.data.scenes.index",
    "list_models": "pipeline.model.catalogue",
    "load": "pipeline.recipe",
    "load_model": "pipeline.registry.open_uri",
    "optimised": "pipeline.model.optimise",
    "predict": "pipeline.prediction.predict",
    "predict_arrays": "pipeline.prediction.predict_arrays",
    "promote": "pipeline.release.promote",
    "pull": "pipeline.registry.open_uri",
    "replace": "pipeline.recipe",
    "search": "pipeline.tune.search",
    "submit": "pipeline.on_ray",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"

old_names.install()


if not TYPE_CHECKING:  # a type checker would take every name for Any

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'pipeline' has no attribute {name!r}; it exports {', '.join(__all__)}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
