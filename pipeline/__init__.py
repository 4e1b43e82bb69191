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
    "Classes": "pipeline.data.classes",
    "Decision": "pipeline.train.promotion",
    "IGNORE": "pipeline.data.classes",
    "Manifest": "pipeline.data.manifest",
    "PipelineError": "pipeline.errors",
    "Recipe": "pipeline.recipe",
    "Report": "pipeline.train.report",
    "Scene": "pipeline.data.scenes",
    "Statistics": "pipeline.data.statistics.moments",
    "World": "pipeline.world",
    "create_loss": "pipeline.model.losses",
    "create_model": "pipeline.model.networks",
    "evaluate": "pipeline.train.evaluate",
    "export": "pipeline.model.export",
    "fit": "pipeline.train.fit",
    "from_smp": "pipeline.model.smp_weights",
    "index": "pipeline.data.indexing.build",
    "list_models": "pipeline.model.catalogue",
    "load": "pipeline.recipe",
    "load_model": "pipeline.model.folder",
    "optimised": "pipeline.model.optimise",
    "predict": "pipeline.model.predict",
    "promote": "pipeline.train.promotion",
    "pull": "pipeline.model.on_mlflow",
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
