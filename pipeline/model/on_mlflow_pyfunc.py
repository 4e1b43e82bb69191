"""What MLflow runs when a consumer loads one of our model versions as a pyfunc ("models from code", no pickle).

`push` stores a copy of this file with every version; it needs only that `segpipe` is installed.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.data.statistics import scene_values
from pipeline.metrics import predict_classes
from pipeline.model import bundle


class Segmenter(PythonModel):  # type: ignore[misc]
    """Raw pixels [N, H, W, C] of the bundle's dtype -> class ids [N, H, W] uint8, multilabel [N, H, W, K] 0 and 1."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle; the model config's `device` says where it runs."""
        self.device = str((context.model_config or {}).get("device", "cpu"))
        self.bundle = bundle.load(context.artifacts["bundle"])
        self.network = self.bundle.network.to(self.device)

    # The bare array type: any other hint, or none, makes MLflow warn about its own guess of a signature.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """Whole images, in one piece; `segpipe predict` is for rasters that are too large for that."""
        pixels = np.moveaxis(model_input, -1, 1)
        if self.bundle.normalisation.by_scene:
            pixels = np.stack([scene_values.whole(image) for image in pixels])
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        with torch.inference_mode():
            logits = self.network(images.to(self.device))
            if self.bundle.task == "multilabel":
                return (logits > 0).to(torch.uint8).movedim(1, -1).cpu().numpy()
            return predict_classes(logits).cpu().numpy()


mlflow.models.set_model(Segmenter())
