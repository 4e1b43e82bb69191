"""Normalisation: compute shift and scale of raw pixel values from the statistics, by the method that a recipe names.

The network itself does it, on its device: chips travel as the files' small integers. What is here is the record that
says what it shall do, and the same in numpy. Only `per_scene` is done where pixels are read, because a network does
not know which scene it sees.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.errors import RecipeError
from pipeline.recipe import pixels as recipe

logger = logging.getLogger(__name__)

Kind = Literal["mean_std", "imagenet", "percentile", "scale", "log", "per_scene"]

# Of the training images of ImageNet, as torchvision and timm use them; times 255.
_IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
_IMAGENET_STD: Final = (58.395, 57.12, 57.375)
_RANKS: Final = 2000


@dataclass(frozen=True)
class Normalisation:
    """z = (f(x) - shift) / scale for the values x of each band.

    f is: `percentile`, clip to `low` and `high`; `log`, log(max(x, 0) + epsilon); otherwise x itself. Of `per_scene`,
    shift and scale are 0 and 1: the scene's own are applied before.

    Attributes:
        kind: how it was made.
        fill: value per band that becomes zero: what is put under invalid pixels.
        spread: typical distance of the values from `fill`, per band, in units of the data.
        reason: in words, for the log and for reports.
    """

    kind: Kind
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    fill: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    epsilon: float = 0.0
    reason: str = ""

    def apply(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise raw pixels [..., C, H, W] to float32, as the network does it; the reference implementation."""
        x = image.astype(np.float64)
        if self.kind == "percentile":
            x = x.clip(_column(self.low), _column(self.high))
        elif self.kind == "log":
            x = np.log(x.clip(0) + self.epsilon)
        return ((x - _column(self.shift)) / _column(self.scale)).astype(np.float32)

    @property
    def by_scene(self) -> bool:
        """Whether pixels must be normalised where they are read (`pipeline.data.scene_values`)."""
        return self.kind == "per_scene"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Normalisation:
        """The opposite of `to_json`."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items()}
        return cls(**values)


def of(section: recipe.Normalise, statistics: Statistics, *, dtype: str, pretrained: bool) -> Normalisation:
    """Make the normalisation that `data.normalise` names for these statistics.

    Args:
        section: what the recipe says.
        statistics: of the train split.
        dtype: of the images.
        pretrained: whether the encoder has learned from other images (`model.pretrained`).

    Raises:
        RecipeError: ImageNet's constants for other than three bands of uint8; one factor or offset per band is wanted.
        ManifestError: percentiles or logarithms of statistics that an older version made.
    """
    rgb = len(statistics.mean) == 3 and dtype == "uint8"
    if isinstance(section, recipe.AutoNormalise):
        if rgb and pretrained:
            return _imagenet("three bands of uint8 and a pretrained encoder: constants of ImageNet")
        why = "the encoder is not pretrained" if rgb else f"{len(statistics.mean)} bands of {dtype}"
        return plain(statistics, f"{why}: mean and standard deviation of the train split")
    if isinstance(section, recipe.ImageNet):
        if not rgb:
            found = f"{len(statistics.mean)} bands of {dtype}"
            raise RecipeError(
                f"data.normalise: imagenet is for three bands of uint8, the scenes have {found}", "use mean_std"
            )
        return _imagenet("constants of ImageNet")
    if isinstance(section, recipe.Percentile):
        return _percentile(section, statistics)
    if isinstance(section, recipe.Scale):
        return _scale(section, statistics)
    if isinstance(section, recipe.Log):
        return _log(section, statistics, whole=np.dtype(dtype).kind in "iu")
    if isinstance(section, recipe.PerScene):
        zeros, ones = (0.0,) * len(statistics.mean), (1.0,) * len(statistics.mean)
        return Normalisation("per_scene", zeros, ones, zeros, ones, reason="mean and standard deviation of each scene")
    return plain(statistics, "mean and standard deviation of the train split")


def plain(statistics: Statistics, reason: str = "") -> Normalisation:
    """By mean and standard deviation; a constant band is only centred."""
    scale = _positive(statistics.std)
    return Normalisation("mean_std", statistics.mean, scale, statistics.mean, scale, reason=reason)


def log_values(normalisation: Normalisation, bands: Sequence[str]) -> None:
    """Say in the log what was chosen and why."""
    numbers = zip(bands, normalisation.shift, normalisation.scale, strict=True)
    shown = ", ".join(f"{name} {shift:.4g} ± {scale:.4g}" for name, shift, scale in numbers)
    logger.info("normalise: %s (%s)", normalisation.reason, shown)


def _imagenet(reason: str) -> Normalisation:
    return Normalisation("imagenet", _IMAGENET_MEAN, _IMAGENET_STD, _IMAGENET_MEAN, _IMAGENET_STD, reason=reason)


def _percentile(section: recipe.Percentile, statistics: Statistics) -> Normalisation:
    low, high = zip(*statistics.percentiles((section.low, section.high)), strict=True)
    flat = [i for i, (a, b) in enumerate(zip(low, high, strict=True), 1) if a == b and statistics.std[i - 1] > 0]
    if flat:
        logger.warning("bands %s: both percentiles are the same value, so the network sees a constant", flat)
    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = _positive([(b - a) / 2 for a, b in zip(low, high, strict=True)])
    reason = f"percentiles {section.low:g} and {section.high:g} of the train split"
    return Normalisation("percentile", middle, half, middle, half, low, high, reason=reason)


def _scale(section: recipe.Scale, statistics: Statistics) -> Normalisation:
    bands = len(statistics.mean)
    factor, offset = _per_band("factor", section.factor, bands), _per_band("offset", section.offset, bands)
    shift = tuple(-b / a for a, b in zip(factor, offset, strict=True))
    scale = tuple(1 / a for a in factor)
    spread = tuple(map(abs, scale))
    return Normalisation("scale", shift, scale, shift, spread, reason="factor and offset of the recipe")


def _log(section: recipe.Log, statistics: Statistics, *, whole: bool) -> Normalisation:
    epsilon = section.epsilon or (1.0 if whole else 1e-4)
    # Evenly spaced ranks stand for all pixels.
    ranks = (np.arange(_RANKS) + 0.5) * (100 / _RANKS)
    logs = np.log(np.clip(statistics.percentiles(ranks.tolist()), 0, None) + epsilon)
    shift = tuple(float(v) for v in logs.mean(axis=1))
    # exp(log(epsilon)) may be smaller than epsilon by a rounding.
    fill = tuple(max(0.0, math.exp(v) - epsilon) for v in shift)
    scale = _positive([float(v) for v in logs.std(axis=1)])
    reason = f"log(value + {epsilon:g}), mean and standard deviation of the train split"
    spread = _positive(statistics.std)
    return Normalisation("log", shift, scale, fill, spread, epsilon=epsilon, reason=reason)


def _per_band(name: str, given: float | list[float], bands: int) -> tuple[float, ...]:
    values = given if isinstance(given, list) else [given] * bands
    if len(values) != bands:
        raise RecipeError(f"data.normalise.{name}: {len(values)} values for {bands} bands", "give one, or one per band")
    return tuple(float(v) for v in values)


def _positive(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) if v > 0 else 1.0 for v in values)


def _column(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).reshape(-1, 1, 1)
