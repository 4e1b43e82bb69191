"""A bundle that is small and quick, for tests of what is done with bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.labels.classes import Classes
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle
from pipeline.model.networks import build
from pipeline.recipe import Predict
from pipeline.recipe.networks import UNet

CLASSES = Classes(
    names=("water", "forest", "town"),
    colors=((0, 0, 255), (0, 128, 0), (255, 0, 0)),
    values=((0,), (1,), (2,)),
    ignore_values=(),
)


def save(uri: str | Path, *, seed: int = 0, num_bands: int = 4, dtype: str = "uint16", **changes: Any) -> Bundle:
    """A bundle of a random U-Net of depth 2 for rasters of about 100..300."""
    model = UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8])
    statistics = Statistics(
        count=1000,
        mean=tuple(200.0 + band for band in range(num_bands)),
        std=(60.0,) * num_bands,
        min=(100.0,) * num_bands,
        max=(300.0,) * num_bands,
        class_counts=(500, 300, 200),
    )
    torch.manual_seed(seed)
    network = build(model, num_bands, len(CLASSES))
    network.set_statistics(statistics.mean, statistics.std)
    fields: dict[str, Any] = {
        "model": model,
        "classes": CLASSES,
        "bands": tuple(f"band_{i}" for i in range(1, num_bands + 1)),
        "dtype": dtype,
        "statistics": statistics,
        "predict": Predict(window=64, overlap=0.25, batch=2),
        "recipe": {"name": "small", "data": {"nodata": None}},
        "fingerprint": "0123456789ab",
        "manifest_digest": "ab" * 32,
        "step": 7,
        "scores": {"miou": 0.5, "iou.town": float("nan")},
    }
    return bundles.save(uri, network, **(fields | changes))
