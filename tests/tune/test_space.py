"""Dotted paths become distributions, points become overrides, and what cannot be is said before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, replace
from pipeline.tune import space
from tests import factory

SPACE: dict[str, Any] = {
    "model.encoder": {"kind": "choice", "values": ["resnet10t", "resnet18"]},
    "model.decoder_channels": {"kind": "choice", "values": [[32, 24, 16, 12, 8], [64, 48, 32, 24, 16]]},
    "train.optimizer": {"kind": "choice", "values": [{"kind": "adamw"}, {"kind": "sgd", "momentum": 0.5}]},
    "train.optimizer.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1},
    "loss.0.weight": {"kind": "uniform", "low": 0.1, "high": 2.0},
    "train.ema": {"kind": "choice", "values": [None, 0.9]},
    "seed": {"kind": "integer", "low": 0, "high": 3},
}


def recipe_with(tmp_path: Path, tree: dict[str, Any]) -> Recipe:
    return factory.recipe_for(tmp_path, **{"tune.space": tree})


def test_each_kind_becomes_its_distribution(tmp_path: Path) -> None:
    found = space.distributions(recipe_with(tmp_path, SPACE).tune.space)
    assert found["model.encoder"] == optuna.distributions.CategoricalDistribution(['"resnet10t"', '"resnet18"'])
    assert found["train.optimizer.lr"] == optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    assert found["loss.0.weight"] == optuna.distributions.FloatDistribution(0.1, 2.0)
    assert found["seed"] == optuna.distributions.IntDistribution(0, 3)


def test_every_sampled_point_is_a_recipe_and_says_the_same_with_equal_seeds(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, SPACE)
    space.check(recipe)

    def draw() -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3))
        points = [study.ask(space.distributions(recipe.tune.space)).params for _ in range(8)]
        return [space.overrides(recipe.tune.space, point) for point in points]

    drawn = draw()
    assert drawn == draw()
    assert len({str(point) for point in drawn}) == len(drawn)
    for point in drawn:
        trial = replace(recipe, point)
        assert trial.model.encoder == point["model.encoder"]
        assert trial.model.decoder_channels == point["model.decoder_channels"]
        assert trial.train.optimizer.kind == point["train.optimizer"]["kind"]
        assert trial.train.optimizer.lr == point["train.optimizer.lr"]
        assert trial.train.ema == point["train.ema"]


def test_a_section_is_chosen_before_its_keys_are_set() -> None:
    specs = {"train.optimizer.lr": space.Uniform(kind="uniform", low=1, high=2), "train": space.Choice(values=[{}])}
    assert list(space.overrides(specs, {"train.optimizer.lr": 1.5, "train": "{}"})) == ["train", "train.optimizer.lr"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "tune.space: empty"),
        ({"train.optimiser.lr": SPACE["train.optimizer.lr"]}, "not in the recipe; did you mean train.optimizer.lr?"),
        ({"loss.7.weight": SPACE["loss.0.weight"]}, "loss.7.weight: not in the recipe"),
        ({"train.ema": {"kind": "uniform", "low": 0.5, "high": 1.5}}, "train.ema=1.5: train.ema: Input should be less"),
        ({"loss.0.weight": {"kind": "uniform", "low": -1, "high": 1}}, "loss.0.weight=-1.0: "),
        ({"model.norm": {"kind": "choice", "values": ["batch", "groups"]}}, 'model.norm="groups": '),
        ({"train.steps": {"kind": "integer", "low": 0, "high": 5}}, "train.steps=0: "),
        ({"compute.num_workers": {"kind": "integer", "low": 1, "high": 2}}, "compute.num_workers: not to be searched"),
        ({"data.split.test": {"kind": "uniform", "low": 0.1, "high": 0.2}}, "data.split.test: not to be searched"),
    ],
)
def test_what_cannot_be_is_named_before_anything_starts(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        space.check(recipe_with(tmp_path, tree))
    assert message in str(caught.value)


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    tree = {"nothing": SPACE["seed"], "train.steps": {"kind": "integer", "low": -1, "high": 0}}
    with pytest.raises(RecipeError) as caught:
        space.check(recipe_with(tmp_path, tree))
    assert all(part in caught.value.message for part in ("nothing:", "train.steps=-1", "train.steps=0"))
