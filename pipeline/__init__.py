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
packages, hence the verbs are called `fit` and `search`.
"""

from __future__ import annotations

import importlib
from typing import Any

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
    "load_model": "pipeline.model.model_dir",
    "optimised": "pipeline.model.optimise",
    "predict": "pipeline.prediction.predict",
    "promote": "pipeline.release.promote",
    "pull": "pipeline.registry.versions",
    "replace": "pipeline.recipe",
    "search": "pipeline.tune.search",
    "submit": "pipeline.on_ray",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
