"""The file that MLflow runs when a consumer loads a model version as a pyfunc ("models from code", no pickle).

`push` stores a copy of this file with every version. It needs only that `segpipe` is installed, and imports public
names only, so that later versions of segpipe can run it.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

import pipeline


class Segmenter(PythonModel):  # type: ignore[misc]
    """Raw pixels [N,H,W,C] of the bundle's dtype -> class ids [N,H,W] uint8, multilabel [N,H,W,K] 0 and 1.

    Params, nodata and errors are those of `pipeline.predict_arrays`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle; the model config's `device` says where it runs."""
        self.device = str((context.model_config or {}).get("device", "cpu"))
        self.bundle = pipeline.pull(context.artifacts["bundle"])

    # The bare array type: any other hint, or none, makes MLflow warn about its own guess of a signature.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """Class ids; see the class."""
        return pipeline.predict_arrays(self.bundle, model_input, device=self.device, **(params or {}))


mlflow.models.set_model(Segmenter())
