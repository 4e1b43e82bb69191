"""Run a model to find sizes and widths of its features, and the parameters that they depend on."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

Size = tuple[int, int]
_OFF: Final = 4  # pixels that unpadded layers may take from a map's edges


class NotHeldError(Exception):
    """The model cannot be held at the output stride."""


@dataclass(frozen=True)
class Tap:
    """One output of the timm model."""

    index: int
    """timm's number of it."""
    stride: int
    """Pixels of the image per pixel, a power of two."""
    channels: int = 0
    exact: bool = True
    """It has exactly that size by itself; otherwise it is resampled."""


@dataclass(frozen=True)
class Image:
    """How images are given to the model; see `Plan.size` and `Plan.scale`."""

    bands: int
    size: Size | None
    scale: Size

    def of(self, multiple: int) -> Tensor:
        """Two images without pixels, neither square nor of the model's own size if that can be chosen."""
        (p, q), (height, width) = self.scale, (2 * multiple, 3 * multiple)
        # Two, because BatchNorm behind a global pool cannot learn from one.
        return torch.empty(2, self.bands, *(self.size or (height // q * p, width // q * p)), device="meta")


@dataclass(frozen=True)
class Measured:
    """Result of one run."""

    taps: tuple[Tap, ...]
    multiple: int
    reached: tuple[frozenset[str], ...]
    nested: bool
    parameters: int

    @property
    def exact(self) -> bool:
        """Every feature has exactly its size."""
        return all(tap.exact for tap in self.taps)


@dataclass(frozen=True)
class MeasureOutcome:
    """The best of several runs: one with exact sizes, else one that is off by a few pixels, else none."""

    found: Measured | None
    problem: Exception | None

    @property
    def exact(self) -> bool:
        """Every feature has exactly its size."""
        return self.found is not None and self.found.exact

    def measured(self) -> Measured:
        """The measurement.

        Raises:
            Exception: what the model raised first, if it never worked.
        """
        if self.found is None:
            raise self.problem or ValueError("no image size to try")
        return self.found


def first(model: nn.Module, image: Image, taps: Sequence[Tap], multiples: Iterable[int]) -> MeasureOutcome:
    """Run a model for images of 2 × 3 multiples, for each in turn until the sizes of its features are exact."""
    best, problem = None, None
    for multiple in multiples:
        try:
            found = run(model, image, taps, multiple)
        except Exception as error:  # whatever a foreign model raises
            problem = problem or error
            continue
        best = best or found
        if found.exact:
            return MeasureOutcome(found, None)
    return MeasureOutcome(best, problem)


def run(model: nn.Module, image: Image, taps: Sequence[Tap], multiple: int) -> Measured:
    """Features of a model on the meta device for images of 2 × 3 multiples.

    Raises:
        Exception: whatever the model raises for such images.
    """
    features: list[Tensor] = nchw(model, model(image.of(multiple)))
    if len(features) != len(taps) or any(f.ndim != 4 for f in features):
        raise ValueError(f"features of shapes {[tuple(f.shape) for f in features]}")
    measured = []
    for tap, feature in zip(taps, features, strict=True):
        off = 0
        if not image.size:
            height, width = 2 * multiple // tap.stride, 3 * multiple // tap.stride
            off = max(abs(feature.shape[2] - height), abs(feature.shape[3] - width))
            if off > _OFF:
                raise ValueError(f"a feature of {tuple(feature.shape[2:])} where {(height, width)} was due")
        measured.append(replace(tap, channels=feature.shape[1], exact=not image.size and not off))
    behind = reached(model, features)
    return Measured(
        tuple(measured),
        multiple,
        behind,
        reached(model, features[-1:])[0] == behind[-1],
        sum(p.numel() for name, p in model.named_parameters() if name in behind[-1]),
    )


def nchw(model: nn.Module, features: list[Tensor]) -> list[Tensor]:
    """Features as [N,C,H,W], whatever the order in which the model gives them."""
    if channels_last_output(model):
        return [f.permute(0, 3, 1, 2) for f in features]
    return features


def channels_last_output(model: nn.Module) -> bool:
    """True if the model gives [N,H,W,C]."""
    return str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC")


def prefix_tokens(model: Any) -> int:
    """Number of tokens before those of the image that the model can give along with its features."""
    inner = getattr(model, "model", None)
    give = getattr(inner, "forward_intermediates", None)
    if give is None or "return_prefix_tokens" not in inspect.signature(give).parameters:
        return 0
    return int(getattr(inner, "num_prefix_tokens", 0))


def reached(model: nn.Module, features: Sequence[Tensor]) -> tuple[frozenset[str], ...]:
    """Names of the parameters behind the first 1, 2, ... features, read off the graph without running it backwards."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: set[str] = set()
    seen: set[Any] = set()
    sets = []
    for feature in features:
        open_nodes = [feature.grad_fn]
        while open_nodes:
            node = open_nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = names.get(id(getattr(node, "variable", None)))
            if name is not None:
                found.add(name)
            open_nodes += [following for following, _ in node.next_functions]
        sets.append(frozenset(found))
    return tuple(sets)
