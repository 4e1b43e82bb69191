"""Predict whole scenes in overlapping windows and blend them; only rows that windows still touch are in memory.

Where windows overlap, the class probabilities (softmax in float32) of all of them are averaged with a weight that
falls towards the window's edge, where a network has seen the least context. Probabilities rather than logits,
because logits of different windows are not on one scale: a single confident window would outvote its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.chips.statistics.moments import representable
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.valid_pixels import Read
from pipeline.data.rasters.windows import Window, cover
from pipeline.errors import RecipeError
from pipeline.metrics import Task, predict_classes
from pipeline.recipe import Predict

_UNCLIPPED: Final = 1024
"""A window up to this size may be larger than the scene; beyond, it is cut to the scene."""
_MAX_PIXELS: Final = 1 << 28
"""Of the windows of one forward pass: beyond, no memory would hold what a network makes of them."""
_MAX_OVERLAP: Final = 0.95
_LEAST: Final = 1e-3
"""Smallest weight: every pixel must be seen, also one that lies in the corner of a single window."""
_SIGMA: Final = 0.125
"""Of the Gaussian, as a share of the window (as in Isensee et al., nnU-Net, 2021)."""


def stream(  # noqa: PLR0913 - what a scene is, what a network is, and how they meet
    network: nn.Module,
    read: Read,
    height: int,
    width: int,
    *,
    num_classes: int,
    section: Predict,
    fill: Sequence[float],
    device: torch.device | str = "cpu",
    task: Task = "multiclass",
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Predict a scene of height × width pixels in strips of whole rows.

    Args:
        network: images [N, C, H, W] of any dtype -> logits [N, K, H, W]; in eval mode and on `device`.
        read: gives the pixels of a window, which may reach outside the scene. Called from another thread.
        height: rows of the scene.
        width: columns of the scene.
        num_classes: K.
        section: window, overlap, weight and windows per forward pass; the last one does not change the result.
        fill: one value per band, put under invalid pixels.
        device: where the network runs and the probabilities are summed.
        task: whether a pixel is of one class, or of any number of them.

    Yields:
        first row, class ids [h, W] uint8 with IGNORE where invalid (multilabel: [K, h, W] with 1 where a class is
        likelier than not, 0 and IGNORE), valid [h, W]; in order and without gaps.
    """
    for row, sums, valid in blended(
        network, read, height, width, num_classes=num_classes, section=section, fill=fill, device=device, task=task
    ):
        if task == "multilabel":
            prediction: NDArray[np.uint8] = (sums > 0).to(torch.uint8).cpu().numpy()
            prediction[:, ~valid] = IGNORE
        else:
            # All classes of a pixel have been weighted alike, so that the largest sum is the largest mean.
            prediction = predict_classes(sums[None])[0].cpu().numpy()
            prediction[~valid] = IGNORE
        yield row, prediction, valid


@torch.inference_mode()
def blended(  # noqa: PLR0913 - as above
    network: nn.Module,
    read: Read,
    height: int,
    width: int,
    *,
    num_classes: int,
    section: Predict,
    fill: Sequence[float],
    device: torch.device | str = "cpu",
    task: Task = "multiclass",
) -> Iterator[tuple[int, Tensor, NDArray[np.bool_]]]:
    """As `stream`, but yields the weighted sums of probabilities [K, h, W] float32, 0 where nothing is valid.

    Multilabel: of probabilities less one half, so that a sum above zero is a mean above one half. The sums are a view
    that the next step overwrites.
    """
    section = bounded(section, height, width)
    size = section.window
    weight = window_weight(size, section.blend).to(device)
    sums = torch.zeros(num_classes, size, max(width, size), device=device)
    valid = np.zeros((size, max(width, size)), np.bool_)
    top = 0
    activation = _likelihoods if task == "multilabel" else _probabilities

    def run(images: Tensor) -> Tensor:
        return activation(network(images).float())

    for window, image_valid, probabilities in _predicted(run, read, height, width, section, fill, device):
        if window.row > top:
            done = window.row - top
            yield top, sums[:, :done, :width], valid[:done, :width].copy()
            _shift(sums, valid, done)
            top = window.row
        columns = slice(window.col, window.col + size)
        valid[:, columns] |= image_valid
        if probabilities is not None:
            sums[:, :, columns].addcmul_(probabilities, weight)
    done = height - top
    yield top, sums[:, :done, :width], valid[:done, :width].copy()


def bounded(section: Predict, height: int, width: int) -> Predict:
    """The section with a window that is no larger than a scene of height × width pixels needs, and a batch that fits.

    Raises:
        RecipeError: the window is too large for any memory, or the overlap predicts every pixel hundreds of times.
    """
    if section.overlap > _MAX_OVERLAP:
        raise RecipeError(
            f"predict.overlap: {section.overlap:g} predicts every pixel {round((1 - section.overlap) ** -2):,} times",
            f"use {_MAX_OVERLAP:g} at most",
        )
    window = min(section.window, max(_UNCLIPPED, -(-max(height, width) // 64) * 64))
    if window**2 > _MAX_PIXELS:
        raise RecipeError(
            f"predict.window: {section.window} is too large: a forward pass would be of {window**2:,} pixels",
            f"use {math.isqrt(_MAX_PIXELS)} at most; the window that the bundle was trained on is usually best",
        )
    batch = min(section.batch, max(1, _MAX_PIXELS // window**2))
    return section.model_copy(update={"window": window, "batch": batch})


def window_weight(size: int, blend: str) -> Tensor:
    """Weight [size, size] float32 of a window's pixels: symmetric, largest in the middle, nowhere zero."""
    distance = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1  # of the pixel's centre, in -1..1
    if blend == "constant":
        profile = torch.ones(size, dtype=torch.float64)
    elif blend == "linear":
        profile = 1 - distance.abs()
    else:
        profile = torch.exp(-0.5 * (distance / (2 * _SIGMA)) ** 2)
    return torch.outer(profile, profile).clamp(min=_LEAST).float()


def filled(image: NDArray[Any], valid: NDArray[np.bool_], fill: Sequence[float]) -> NDArray[Any]:
    """The image [C, h, w] with `fill`, rounded to the image's dtype, under its invalid pixels."""
    if valid.all():
        return image
    return np.where(valid, image, representable(fill, image.dtype)[:, None, None])


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def _likelihoods(logits: Tensor) -> Tensor:
    return logits.sigmoid().sub_(0.5)


def _predicted(
    run: Callable[[Tensor], Tensor],
    read: Read,
    height: int,
    width: int,
    section: Predict,
    fill: Sequence[float],
    device: torch.device | str,
) -> Iterator[tuple[Window, NDArray[np.bool_], Tensor | None]]:
    """Windows in order, each with what is valid in it and its probabilities [K, size, size]; None if nothing is."""

    def load(windows: list[Window]) -> list[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
        return [(window, filled(*pair, fill), pair[1]) for window in windows for pair in [read(window)]]

    windows = iter(cover(height, width, section.window, section.overlap))
    with ThreadPoolExecutor(1, thread_name_prefix="blend-read") as pool:
        # One batch is read while the one before it is computed.
        coming = pool.submit(load, list(islice(windows, section.batch)))
        while batch := coming.result():
            coming = pool.submit(load, list(islice(windows, section.batch)))
            seen = [image for _, image, valid in batch if valid.any()]
            rows: Iterator[Tensor] = iter(())
            if seen:
                images = torch.from_numpy(np.stack(seen)).to(device)
                rows = iter(run(images))
            for window, _, valid in batch:
                yield window, valid, next(rows) if valid.any() else None


def _shift(sums: Tensor, valid: NDArray[np.bool_], done: int) -> None:
    """Move the rows that are not finished to the front, class by class so that little is copied at a time."""
    for plane in sums:
        plane[: len(plane) - done] = plane[done:].clone()
        plane[len(plane) - done :] = 0
    valid[: len(valid) - done] = valid[done:].copy()
    valid[len(valid) - done :] = False
