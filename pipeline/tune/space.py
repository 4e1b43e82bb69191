"""The space of a search: dotted recipe paths and the values to try, as Optuna's distributions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config import leaves
from pipeline.errors import RecipeError
from pipeline.recipe import Choice, Integer, Recipe, Uniform, replace

Spec = Choice | Uniform | Integer

# What a trial may change. The rest says which data are judged and by what, where things are put, and how the search
# itself goes: with another val split or other classes, scores could not be compared.
_SEARCHED = ("model", "loss", "train", "predict", "data.sampling", "data.augment", "seed")
_SAMPLING = "data.sampling."


def check(recipe: Recipe) -> None:
    """See before anything starts that every point of `recipe.tune.space` can be a recipe.

    Each path must be in the recipe, and each end of its range (each of its values, where it is a choice) must be a
    valid override.

    Raises:
        RecipeError: the space is empty, or a path or an end is wrong; all errors are named at once.
    """
    space = recipe.tune.space
    if not space:
        raise RecipeError("tune.space: empty, so there is nothing to search", "name recipe paths and values to try")
    known = _paths(recipe)
    problems = [problem for path, spec in space.items() for problem in _problems(recipe, path, spec, known)]
    if problems:
        raise RecipeError("tune.space:\n  " + "\n  ".join(problems), "`segpipe recipe show` lists the paths")


def distributions(space: Mapping[str, Spec]) -> dict[str, BaseDistribution]:
    """Optuna's view of a space. The values of a choice travel as JSON texts, since Optuna knows scalars only."""
    return {path: _distribution(spec) for path, spec in space.items()}


def overrides(space: Mapping[str, Spec], point: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that a sampled point means: outer paths first, so that a section is there before its keys."""
    values = {p: json.loads(v) if isinstance(space[p], Choice) else v for p, v in point.items()}
    return {path: values[path] for path in sorted(values, key=_depth)}


def samplings(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with each sampling that trials may have; of a range its two ends."""
    space = {path: spec for path, spec in recipe.tune.space.items() if f"{path}.".startswith(_SAMPLING)}
    outer_first = sorted(space, key=_depth)
    for values in itertools.product(*(_ends(space[path]) for path in outer_first)):
        try:
            yield replace(recipe, dict(zip(outer_first, values, strict=True)))
        except RecipeError:
            continue  # values that cannot be together: a trial that draws them fails, and says so


def _problems(recipe: Recipe, path: str, spec: Spec, known: set[str]) -> Iterable[str]:
    if path not in known:
        near = get_close_matches(path, sorted(known), 1, 0.6)
        yield f"{path}: not in the recipe" + (f"; did you mean {near[0]}?" if near else "")
        return
    if not any(path == root or path.startswith(root + ".") for root in _SEARCHED):
        yield f"{path}: not to be searched; what can be is under {', '.join(_SEARCHED)}"
        return
    for value in _ends(spec):
        try:
            replace(recipe, {path: value})
        except RecipeError as error:
            reason = error.message.partition("\n  ")[2] or error.message
            yield f"{path}={json.dumps(value)}: {reason}"


def _ends(spec: Spec) -> Sequence[Any]:
    """All values of a choice, the two ends of a range."""
    return spec.values if isinstance(spec, Choice) else (spec.low, spec.high)


def _depth(path: str) -> tuple[int, str]:
    return path.count("."), path


def _paths(recipe: Recipe) -> set[str]:
    """Dotted paths of all sections, lists, list items and leaves."""
    out: set[str] = set()
    pending: list[tuple[str, Any]] = list(leaves(recipe.model_dump(mode="json")))
    while pending:
        path, value = pending.pop()
        steps = path.split(".")
        out.update(".".join(steps[:n]) for n in range(1, len(steps) + 1))
        for index, item in enumerate(value if isinstance(value, list) else ()):
            pending += leaves(item, f"{path}.{index}")
    return out


def _distribution(spec: Spec) -> BaseDistribution:
    if isinstance(spec, Choice):
        return CategoricalDistribution([json.dumps(value) for value in spec.values])
    if isinstance(spec, Integer):
        return IntDistribution(spec.low, spec.high)
    return FloatDistribution(spec.low, spec.high, log=spec.kind == "log_uniform")
