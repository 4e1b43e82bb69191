"""What MLflow runs when a consumer loads one of our model versions as a pyfunc ("models from code", no pickle).

`push` stores a copy of this file with every version; it needs only that `segpipe` is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from pipeline import config
from pipeline.data.chips.statistics import per_scene
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.dtypes import not_nodata
from pipeline.data.rasters.windows import Window
from pipeline.errors import RecipeError
from pipeline.metrics import predict_classes
from pipeline.model import bundle
from pipeline.prediction import blend

_PARAMS = ("nodata", "window", "overlap")


class Segmenter(PythonModel):  # type: ignore[misc]
    """Raw pixels [N, H, W, C] of the bundle's dtype -> class ids [N, H, W] uint8, multilabel [N, H, W, K] 0 and 1.

    Pixels that are nodata, NaN or infinite are IGNORE (255), and the network sees the bundle's fill there, as in
    `segpipe predict`. Params: `nodata`, the value that means it (NaN: that of the bundle, if it knows one); `window`
    and `overlap`, as of `segpipe predict` (0: whole images in one piece).
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle; the model config's `device` says where it runs."""
        self.device = str((context.model_config or {}).get("device", "cpu"))
        self.bundle = bundle.load(context.artifacts["bundle"])
        self.network = self.bundle.network.to(self.device)

    # The bare array type: any other hint, or none, makes MLflow warn about its own guess of a signature.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """Class ids; see the class.

        Raises:
            RecipeError: a param that does not exist, or cannot be.
        """
        given = dict(params or {})
        unknown = sorted(set(given) - set(_PARAMS))
        if unknown:
            raise RecipeError(f"params: {', '.join(unknown)} unknown", f"known are {', '.join(_PARAMS)}")
        found = [self._predicted(image, given) for image in np.moveaxis(model_input, -1, 1)]
        out = np.stack(found) if found else np.zeros((0, *model_input.shape[1:3]), np.uint8)
        return np.moveaxis(out, 1, -1) if out.ndim == 4 else out

    def _predicted(self, image: NDArray[Any], params: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Class ids [H, W] or planes [K, H, W] of one image [C, H, W]."""
        valid = self._valid(image, float(params.get("nodata", math.nan)))
        fill = self.bundle.fill
        if self.bundle.normalisation.by_scene:
            image, fill = per_scene.whole(image, valid), (0.0,) * len(image)
        if params.get("window"):
            return self._by_windows(image, valid, fill, params)
        images = torch.from_numpy(np.ascontiguousarray(blend.filled(image, valid, fill)))[None]
        with torch.inference_mode():
            logits = self.network(images.to(self.device))
            several = self.bundle.task == "multilabel"
            ids = (logits > 0).to(torch.uint8) if several else predict_classes(logits)
        prediction: NDArray[np.uint8] = ids[0].cpu().numpy()
        prediction[..., ~valid] = IGNORE
        return prediction

    def _by_windows(
        self, image: NDArray[Any], valid: NDArray[np.bool_], fill: tuple[float, ...], params: Mapping[str, Any]
    ) -> NDArray[np.uint8]:
        """As `segpipe predict`, window by window."""
        changes = {"window": int(params["window"]), "overlap": params.get("overlap", self.bundle.predict.overlap)}
        section = config.replace(self.bundle.predict, changes)

        def read(window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            pixels = np.zeros((len(image), window.height, window.width), image.dtype)
            there = np.zeros(pixels.shape[1:], np.bool_)
            area = np.s_[..., window.row : window.row + window.height, window.col : window.col + window.width]
            height, width = valid[area].shape
            pixels[:, :height, :width], there[:height, :width] = image[area], valid[area]
            return pixels, there

        strips = blend.stream(
            self.network,
            read,
            *valid.shape,
            num_classes=len(self.bundle.classes),
            section=section,
            fill=fill,
            device=self.device,
            task=self.bundle.task,
        )
        return np.concatenate([prediction for _, prediction, _ in strips], axis=-2)

    def _valid(self, image: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
        """Which pixels [H, W] of an image [C, H, W] hold a measurement."""
        valid: NDArray[np.bool_] = np.isfinite(image).all(axis=0)
        value = self.bundle.nodata if math.isnan(nodata) else nodata
        measured = not_nodata(image, (value,) * len(image), self.bundle.reading.nodata_rule)
        return valid if measured is None else valid & measured


mlflow.models.set_model(Segmenter())
