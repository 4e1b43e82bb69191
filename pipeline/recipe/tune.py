"""Section about the search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Positive, Section


class Choice(Section):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: Annotated[list[Any], Field(min_length=1)]


class Uniform(Section):
    """A number between two bounds."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"log_uniform needs low above zero, not {self.low}")
        return self


class Integer(Section):
    """A whole number between two bounds, both included."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Integer:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


class Tune(Section):
    """The search."""

    space: dict[str, Annotated[Choice | Uniform | Integer, Field(discriminator="kind")]] = {}
    """Dotted recipe paths, each with the values to try: a trial is a set of overrides."""
    num_trials: Positive = 16
    """Trials in all."""
    metric: str = "miou"
    """Score on the val split to maximise, as in `promote.metric`."""
    grace: Positive = 3
    """Validations a trial gets before ASHA may stop it."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many."""
    max_concurrent: Positive | None = None
    """Trials at once; by default as many as the cluster's resources hold."""
    seed: int | None = None
    """Of the searcher; by default the recipe's."""
