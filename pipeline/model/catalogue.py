"""The catalogue: architectures, encoders, and which fit together.

Encoders are read from a table that a scan of all of timm's models made (`python -m bench.encoders`); models that are
newer than the table are looked at when they are asked for.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.model import cost
from pipeline.model.encoders import feature_plan
from pipeline.model.networks import NETWORKS, SECTIONS, Network, build
from pipeline.recipe import networks as recipe

TABLE: Final = Path(__file__).parent / "encoders" / "timm_encoders.csv"
LOOKED_AT: Final = 20
"""So many models are drawn one by one; of more, those with the same strides stand for each other."""
SHOWN: Final = ("resnet34", "efficientnet_b4", "convnext_tiny", "vit_small_patch14_dinov2")


@dataclass(frozen=True)
class Model:
    """An encoder, and what takes it."""

    name: str
    """timm's."""
    kind: str
    """conv: stages from stride 1 or 2; hierarchical: from stride 4; flat: a tower of blocks at one stride."""
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    parameters: int
    """Of the encoder; of the whole network where `whole` is true."""
    any_size: bool = True
    """False: each image is resized to the one size that the model takes."""
    output_strides: tuple[int, ...] = ()
    """At which it can be held by dilation."""
    problem: str = ""
    """Why it cannot be an encoder at all."""
    whole: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    """Architecture that was asked about and does not take it -> why not."""
    undilated: tuple[str, ...] = ()
    """Architectures that take it, and would have it dilated if it could be."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Listing:
    """Models that match a query."""

    models: tuple[Model, ...]
    architectures: tuple[str, ...]
    """Those that `Model.refused` is about."""
    not_looked_at: int = 0
    """Models newer than the table that the pattern matches, too many to be drawn now."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Overview:
    """Summary of the catalogue."""

    architectures: dict[str, str]
    """Name -> what it is, in a line."""
    encoders: int
    """Models that can be encoders,"""
    looked_at: int
    """of so many."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Shown:
    """A network and what it costs."""

    title: str
    model: dict[str, Any]
    """Its section, resolved."""
    cost: cost.Cost

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def overview() -> Overview:
    """Summary of all architectures."""
    lines = {kind: (SECTIONS[kind].__doc__ or "").strip().splitlines()[0] for kind in NETWORKS}
    return Overview(lines, sum(not model.problem for model in table().values()), len(table()))


def show(
    architecture: str,
    encoder: str | None = None,
    overrides: Sequence[str] = (),
    *,
    bands: int = 3,
    classes: int = 2,
    size: int = 512,
    batch: int = 1,
) -> Shown:
    """Structure and cost of a network for `batch` images of `size` × `size` pixels.

    Raises:
        RecipeError: it cannot be.
    """
    if min(bands, classes, size, batch) < 1:
        raise RecipeError(f"{batch} images of {bands} bands, {size} pixels and {classes} classes", "use 1 or more")
    made = network(architecture, encoder, overrides, bands=bands, classes=classes)
    section = made.section.model_dump(mode="json")
    name = f"{architecture} on {section['encoder']}" if "encoder" in section else architecture
    return Shown(f"{name}, {batch} × {bands} × {size} × {size}", section, cost.measure(made, (size, size), batch))


def list_models(
    architecture: str | None = None, encoder: str = "*", *, max_parameters: float | None = None
) -> tuple[Model, ...]:
    """Encoders whose names match a pattern, with what takes them and what does not; see `listing`.

    Raises:
        RecipeError: no such architecture, or no model matches.
    """
    return listing(architecture, encoder, max_parameters=max_parameters).models


def listing(architecture: str | None = None, encoder: str = "*", *, max_parameters: float | None = None) -> Listing:
    """Encoders that match.

    Args:
        architecture: ask this one only; by default all, if there are few encoders.
        encoder: a name, or a pattern with `*`, `?` and `[..]`.
        max_parameters: leave out those with more; of the whole network where `architecture` is given and few match.

    Raises:
        RecipeError: no such architecture, or no model matches.
    """
    if architecture is not None:
        _check(architecture)
    known = table()
    found = fnmatch.filter(known, encoder)
    new = [name for name in fnmatch.filter(names(), encoder) if name not in known]
    if not found and not new:
        near = difflib.get_close_matches(encoder.strip("*"), names(), 3, 0.5)
        raise RecipeError(
            f"no encoder matches {encoder!r}",
            f"did you mean {' or '.join(near)}?" if near else "segpipe models list --encoder '*' lists them all",
        )
    models = [known[name] for name in found]
    drawn = new if len(new) <= LOOKED_AT else []
    models += [_drawn(name) for name in drawn]
    if max_parameters is not None:
        models = [m for m in models if m.parameters <= max_parameters]
    few = len(models) <= LOOKED_AT
    asked = (architecture,) if architecture else tuple(_on_encoders()) if few else ()
    models = [_asked(m, asked, exact=few and architecture is not None) for m in models]
    if max_parameters is not None:
        models = [m for m in models if m.parameters <= max_parameters]
    return Listing(tuple(models), asked, len(new) - len(drawn))


@functools.cache
def table() -> dict[str, Model]:
    """Name -> what the scan found."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["name"]: _row(row) for row in csv.DictReader(file)}


@functools.cache
def names() -> tuple[str, ...]:
    """All of timm's models."""
    return tuple(feature_plan.timm.list_models())  # type: ignore[attr-defined]


def network(
    architecture: str, encoder: str | None = None, overrides: Sequence[str] = (), *, bands: int = 3, classes: int = 2
) -> Network:
    """A network without weights, on the meta device.

    Args:
        architecture: its kind.
        encoder: name of a timm model; by default the architecture's own.
        overrides: other fields of its section, as `decoder_channels=[64,32,16,8,8]`.
        bands: channels in.
        classes: channels out.

    Raises:
        RecipeError: it cannot be.
    """
    _check(architecture)
    cls = SECTIONS[architecture]
    given = {} if encoder is None else {"encoder": encoder}
    section = config.replace(config.validate(cls, given, "model"), overrides)
    if isinstance(section, recipe.Encoded):
        section = section.model_copy(update={"pretrained": False})
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build(section, bands, classes)


def _on_encoders() -> list[str]:
    return [kind for kind in NETWORKS if issubclass(SECTIONS[kind], recipe.Encoded)]


def _check(architecture: str) -> None:
    if architecture not in NETWORKS:
        near = difflib.get_close_matches(architecture, NETWORKS, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"architectures are {', '.join(NETWORKS)}"
        raise RecipeError(f"there is no architecture {architecture!r}", hint)


def _row(row: dict[str, str]) -> Model:
    def numbers(key: str) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", row[key])))

    return Model(
        name=row["name"],
        kind=row["kind"],
        strides=numbers("strides"),
        channels=numbers("channels"),
        parameters=int(row["params"] or 0),
        any_size=row["any_size"] == "yes",
        output_strides=numbers("output_strides"),
        problem=row["reason"],
    )


def _drawn(name: str) -> Model:
    """Entry of a model that the table does not hold."""
    try:
        made = feature_plan.plan(feature_plan.Request(name))
    except RecipeError as error:
        return Model(name, "", (), (), 0, problem=error.message)
    held = tuple(
        s for s in feature_plan.OUTPUT_STRIDES if feature_plan.possible(feature_plan.Request(name, output_stride=s))
    )
    return Model(name, made.kind, made.strides, made.channels, made.parameters, made.size is None, held)


def _asked(model: Model, asked: Iterable[str], *, exact: bool) -> Model:
    """With what each architecture says to it; `exact` counts the weights of the whole network too."""
    refused, undilated = {}, []
    for architecture in asked:
        if architecture not in _on_encoders():
            refused[architecture] = "has its own encoder"
        elif model.problem:
            refused[architecture] = model.problem
        else:
            tried = _try(architecture, model.name if exact else _representative(model))
            if tried.why:
                refused[architecture] = tried.why
            elif exact:
                model = replace(model, parameters=tried.parameters, whole=True)
            if tried.liked and model.strides[-1] > tried.liked and tried.liked not in model.output_strides:
                undilated.append(architecture)
    return replace(model, refused=refused, undilated=tuple(undilated))


def _representative(model: Model) -> str:
    """The smallest model of the same stages: what an architecture says to it, it says to all of them."""
    return _smallest().get((model.kind, model.strides), model).name


@functools.cache
def _smallest() -> dict[tuple[str, tuple[int, ...]], Model]:
    # Best those that can be held at every stride: of others it has been said before.
    order = sorted(table().values(), key=lambda m: (-len(m.output_strides), m.parameters))
    return {(m.kind, m.strides): m for m in reversed(order) if not m.problem}


class _Tried(NamedTuple):
    """Result of building a network."""

    why: str = ""
    """Why the architecture does not take the encoder."""
    parameters: int = 0
    """Of the whole network."""
    liked: int | None = None
    """Output stride that the architecture likes its encoder to be held at."""


@functools.lru_cache(maxsize=1024)
def _try(architecture: str, encoder: str) -> _Tried:
    try:
        made = network(architecture, encoder)
    except RecipeError as error:
        return _Tried(f"{error.message}; {error.hint}" if error.hint else error.message)
    return _Tried("", sum(cost.count(made).values()), getattr(made.decoder, "output_stride", None))
