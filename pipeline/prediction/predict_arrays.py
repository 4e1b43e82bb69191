"""Prediction of arrays that are in memory already, as a service gets them; equal to `predict` of a raster with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import config
from pipeline.data.chips.statistics import per_scene
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.dtypes import not_nodata
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import RecipeError
from pipeline.metrics import predict_classes
from pipeline.model.bundle import Bundle
from pipeline.prediction import blend

_PARAMS = ("nodata", "window", "overlap")


def predict_arrays(bundle: Bundle, images: NDArray[Any], *, device: str = "cpu", **params: Any) -> NDArray[np.uint8]:
    """Predict raw pixels.

    Args:
        bundle: what predicts.
        images: [N,H,W,C] of the bundle's dtype.
        device: where the network runs.
        params: `nodata`, the value that means it (NaN or none: that of the bundle, if it knows one); `window` and
            `overlap`, as of `predict` (0 or none: whole images in one piece).

    Returns:
        Class ids [N,H,W], multilabel 0 and 1 [N,H,W,K]. Pixels that are nodata, NaN or infinite are IGNORE (255), and
        the network sees the bundle's fill there.

    Raises:
        RecipeError: a param that does not exist, or cannot be.
    """
    unknown = sorted(set(params) - set(_PARAMS))
    if unknown:
        raise RecipeError(f"params: {', '.join(unknown)} unknown", f"known are {', '.join(_PARAMS)}")
    bundle.network.to(device)
    found = [_predicted(bundle, image, device, **params) for image in np.moveaxis(images, -1, 1)]
    out = np.stack(found) if found else np.zeros((0, *images.shape[1:3]), np.uint8)
    return np.moveaxis(out, 1, -1) if out.ndim == 4 else out


def _predicted(
    bundle: Bundle,
    image: NDArray[Any],
    device: str,
    *,
    nodata: float = math.nan,
    window: int = 0,
    overlap: float | None = None,
) -> NDArray[np.uint8]:
    """Class ids [H,W] or planes [K,H,W] of one image [C,H,W]."""
    valid = _valid(bundle, image, float(nodata))
    fill = bundle.fill
    if bundle.normalisation.by_scene:
        image, fill = per_scene.whole(image, valid), (0.0,) * len(image)
    if window:
        overlap = bundle.predict.overlap if overlap is None else overlap
        return _by_windows(bundle, image, valid, fill, device, int(window), overlap)
    filled = torch.from_numpy(np.ascontiguousarray(blend.filled(image, valid, fill)))[None]
    with torch.inference_mode():
        logits = bundle.network(filled.to(device))
        ids = (logits > 0).to(torch.uint8) if bundle.task == "multilabel" else predict_classes(logits)
    prediction: NDArray[np.uint8] = ids[0].cpu().numpy()
    prediction[..., ~valid] = IGNORE
    return prediction


def _by_windows(
    bundle: Bundle,
    image: NDArray[Any],
    valid: NDArray[np.bool_],
    fill: tuple[float, ...],
    device: str,
    window: int,
    overlap: float,
) -> NDArray[np.uint8]:
    """Predict one image by windows that are blended, as `predict` does it."""
    section = config.replace(bundle.predict, {"window": window, "overlap": overlap})

    def read(area: Window) -> Pixels:
        pixels = np.zeros((len(image), area.height, area.width), image.dtype)
        there = np.zeros(pixels.shape[1:], np.bool_)
        part = np.s_[..., area.row : area.row + area.height, area.col : area.col + area.width]
        height, width = valid[part].shape
        pixels[:, :height, :width], there[:height, :width] = image[part], valid[part]
        return Pixels(pixels, there)

    strips = blend.stream(
        bundle.network,
        read,
        *valid.shape,
        num_classes=len(bundle.classes),
        section=section,
        fill=fill,
        device=device,
        task=bundle.task,
    )
    return np.concatenate([prediction for _, prediction, _ in strips], axis=-2)


def _valid(bundle: Bundle, image: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Validity [H,W] of an image [C,H,W]: pixels that hold a measurement."""
    valid: NDArray[np.bool_] = np.isfinite(image).all(axis=0)
    value = bundle.nodata if math.isnan(nodata) else nodata
    measured = not_nodata(image, (value,) * len(image), bundle.reading.nodata_rule)
    return valid if measured is None else valid & measured
