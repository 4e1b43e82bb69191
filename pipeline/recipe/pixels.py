"""Sections about pixel values: augmentation and normalisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.config import Section


class Augment(Section):
    """One albumentations transform by class name; all other keys are its own arguments."""

    model_config = ConfigDict(extra="allow")
    transform: str
    """Class name in albumentations, such as HorizontalFlip."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The transform's own arguments."""
        return dict(self.model_extra or {})


class AutoNormalise(Section):
    """ImageNet's constants for three bands of uint8 and a pretrained encoder, else `mean_std`; the log says which."""

    kind: Literal["auto"] = "auto"


class MeanStd(Section):
    """Less the band's mean, over its standard deviation, both of the train split."""

    kind: Literal["mean_std"] = "mean_std"


class ImageNet(Section):
    """Less and over the constants of ImageNet: three bands of uint8 in the order red, green, blue."""

    kind: Literal["imagenet"] = "imagenet"


class Percentile(Section):
    """Clipped at two percentiles of the band in the train split, which become -1 and 1."""

    kind: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, lt=100)] = 2.0
    """Percent of the pixels that are darker than the value that becomes -1."""
    high: Annotated[float, Field(gt=0, le=100)] = 98.0
    """Percent of the pixels that are darker than the value that becomes 1."""

    @model_validator(mode="after")
    def _ascending(self) -> Percentile:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be smaller than high {self.high:g}")
        return self


class Scale(Section):
    """value * factor + offset, whatever the data are: for calibrated products, such as reflectance times 10000."""

    kind: Literal["scale"] = "scale"
    factor: float | list[float]
    """For all bands, or one for each."""
    offset: float | list[float] = 0.0
    """For all bands, or one for each."""

    @model_validator(mode="after")
    def _not_zero(self) -> Scale:
        factors = self.factor if isinstance(self.factor, list) else [self.factor]
        if not factors or 0 in factors:
            raise ValueError("factor: must not be 0, which leaves nothing to see")
        return self


class Log(Section):
    """log(value + epsilon), then less its mean and over its standard deviation: for radar, whose values span decades.

    Negative values count as 0.
    """

    kind: Literal["log"] = "log"
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """By default 1 for whole numbers and 1e-4 (-40 dB of power) for fractions."""


class PerScene(Section):
    """Less the mean of the band in this very scene, over its standard deviation: for scenes taken by different devices
    or under different light. The brightness of a scene as a whole then carries no information."""

    kind: Literal["per_scene"] = "per_scene"


Normalise = Annotated[
    AutoNormalise | MeanStd | ImageNet | Percentile | Scale | Log | PerScene, Field(discriminator="kind")
]
