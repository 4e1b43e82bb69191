"""How many threads torch uses in training: what the user says counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.recipe import Compute
from pipeline.train.fit import fit
from pipeline.train.worker import cores, stated_threads
from pipeline.world import World
from tests.factory import QUICK, recipe_for, world

ALONE, OF_TWO = World(), World(rank=0, size=2, local_rank=0, local_size=2)


@pytest.mark.parametrize(
    ("environment", "threads_per_worker", "ranks", "expected"),
    [
        ({}, None, ALONE, None),
        ({"OMP_NUM_THREADS": "3"}, None, ALONE, 3),
        ({"OMP_NUM_THREADS": "1"}, None, ALONE, 1),
        ({"OMP_NUM_THREADS": "4,2"}, None, ALONE, 4),
        ({"OMP_NUM_THREADS": "3"}, 2, ALONE, 2),
        ({"OMP_NUM_THREADS": "1"}, None, OF_TWO, None),
        ({"OMP_NUM_THREADS": "3"}, None, OF_TWO, 3),
        ({"OMP_NUM_THREADS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, None, ALONE, None),
        ({"OMP_NUM_THREADS": "many"}, None, ALONE, None),
        ({"OMP_NUM_THREADS": "0"}, None, ALONE, None),
    ],
)
def test_what_the_user_says(monkeypatch, environment, threads_per_worker, ranks, expected):
    for name in ("OMP_NUM_THREADS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stated_threads(Compute(threads_per_worker=threads_per_worker), ranks) == expected


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Training changes them in its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_training_uses_the_threads_of_the_environment(tmp_path, monkeypatch, torch_threads):
    folder = world(tmp_path, scenes=3, size=32)
    recipe = recipe_for(folder, **QUICK | {"compute.threads_per_worker": None, "train.steps": 1})
    other = cores() + 1
    monkeypatch.setenv("OMP_NUM_THREADS", str(other))
    fit(recipe, register=False)
    assert torch.get_num_threads() == other
    monkeypatch.delenv("OMP_NUM_THREADS")
    fit(recipe, register=False, overwrite=True)
    assert torch.get_num_threads() == cores()
