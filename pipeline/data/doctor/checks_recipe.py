"""Findings about the recipe: normalisation and augmentation that training would refuse on these data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.statistics import normalise
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.doctor.findings import Finding
from pipeline.data.doctor.gather import Gathered
from pipeline.errors import PipelineError

_WHY: Final = "Training would be refused, after it has read what its statistics need."


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about the recipe."""
    of = [s.values for e, s in seen.usable if e.split == "train" and s.values.shape[1]]
    if not of:
        return
    dtype = max({v.dtype for v in of}, key=[v.dtype for v in of].count)
    values = np.concatenate([v for v in of if v.dtype == dtype], axis=1)
    yield from _refused("normalise", lambda: _normalise(seen, values))
    if seen.recipe.data.augment:
        yield from _refused("augment", lambda: _augment(seen, values))


def _refused(key: str, attempt: Callable[[], None]) -> Iterator[Finding]:
    try:
        attempt()
    except PipelineError as error:
        what = "; ".join(error.message.splitlines())
        yield Finding("refused_settings", "error", f"{what}.", _WHY, error.hint or f"change data.{key}", rank=7)


def _normalise(seen: Gathered, values: NDArray[Any]) -> None:
    pretrained = bool(getattr(seen.recipe.model, "pretrained", False))
    statistics = Statistics.of(values, sketch_every=max(1, values.shape[1] // 100_000))
    normalise.of(seen.recipe.data.normalise, statistics, dtype=str(values.dtype), pretrained=pretrained)


def _augment(seen: Gathered, values: NDArray[Any]) -> None:
    """Try the transforms on noise in the range of the data."""
    from pipeline.data.chips.augmentation import augment  # albumentations takes a second to import

    data = seen.recipe.data
    noise = augment.example(values.min(axis=1), values.max(axis=1), data.sampling.size, values.dtype)
    augment.check(data.augment, example=noise, planes=augment.planes_of(data))
