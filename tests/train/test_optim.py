import itertools
import math

import pytest
import torch
from torch import nn

from pipeline import recipe
from pipeline.train import optim


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def factors(kind: str, warmup: float, steps: int = 100) -> list[float]:
    section = recipe.Schedule(kind=kind, warmup=warmup)
    return [optim.factor(step, steps, section) for step in range(steps)]


@pytest.mark.parametrize("kind", optim.SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_factor_trains_something_and_none_is_above_the_peak(kind, warmup, steps):
    values = factors(kind, warmup, steps)
    assert all(0 < value <= 1 for value in values), values


@pytest.mark.parametrize("kind", optim.SCHEDULES)
def test_up_during_the_warmup_then_down(kind):
    values = factors(kind, 0.3)
    top = values.index(max(values))
    assert values[top] == pytest.approx(1.0)
    assert top in (29, 30)
    assert all(a < b for a, b in itertools.pairwise(values[: top + 1]))
    assert all(a >= b for a, b in itertools.pairwise(values[top:]))
    assert values[-1] == 1.0 if kind == "constant" else values[-1] < 0.03


def test_one_cycle_is_the_one_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=401, pct_start=0.25, final_div_factor=1e12
    )
    section = recipe.Schedule(kind="one_cycle", warmup=0.2475)  # torch goes up for 0.25 * 401 - 1 steps
    for step in range(400):
        theirs_now = optimizer.param_groups[0]["lr"]
        assert optim.factor(step, 400, section) == pytest.approx(theirs_now, abs=0.01), step
        optimizer.step()
        theirs.step()


def test_no_schedule_needs_more_than_the_step():
    section = recipe.Schedule(kind="poly", warmup=0)
    assert optim.factor(50, 100, section) == pytest.approx(0.5**0.9)
    assert optim.factor(50, 100, recipe.Schedule(kind="cosine", warmup=0)) == pytest.approx(0.5)
    assert math.isclose(optim.factor(4, 100, recipe.Schedule(kind="constant", warmup=0.1)), 0.5)


@pytest.mark.parametrize(
    "section", [recipe.AdamW(lr=0.1, encoder_lr_scale=0.5), recipe.SGD(lr=0.1, encoder_lr_scale=0.5)]
)
def test_groups_decay_weights_only_and_scale_the_encoder(section):
    network = Tiny()
    optimizer = optim.build(network, section)
    optim.set_rate(optimizer, 0.5)
    found = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(network.parameters()))
    conv, norm = network.encoder
    assert found[id(conv.weight)]["weight_decay"] == section.weight_decay
    for vector in (conv.bias, norm.weight, norm.bias, network.head.bias):
        assert found[id(vector)]["weight_decay"] == 0
    assert found[id(conv.weight)]["lr"] == pytest.approx(0.025)
    assert found[id(norm.bias)]["lr"] == pytest.approx(0.025)
    assert found[id(network.head.weight)]["lr"] == pytest.approx(0.05)


def test_frozen_parameters_are_left_out():
    network = Tiny()
    network.encoder.requires_grad_(False)
    held = [p for g in optim.build(network, recipe.AdamW()).param_groups for p in g["params"]]
    assert {id(p) for p in held} == {id(p) for p in network.head.parameters()}
