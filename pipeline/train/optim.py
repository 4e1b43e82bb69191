"""Optimisers with parameter groups, and learning-rate schedules in closed form.

The rate of step s is a function of s alone, so going on after a stop is arithmetic: there is no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline import recipe

START = 0.04
"""First factor of one_cycle, as in Smith & Topin 2018 (a 25th)."""
POWER = 0.9
"""Exponent of poly, as in DeepLab (Chen et al. 2017)."""


def build(network: nn.Module, section: recipe.AdamW | recipe.SGD) -> torch.optim.Optimizer:
    """Optimiser over the trainable parameters of a network, in the groups of `groups`."""
    parameters = groups(network, section)
    fused = all(p.dtype == torch.float32 for g in parameters for p in g["params"])
    if isinstance(section, recipe.AdamW):
        return torch.optim.AdamW(parameters, lr=section.lr, betas=section.betas, fused=fused)
    momentum = section.momentum
    return torch.optim.SGD(parameters, lr=section.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)


def groups(network: nn.Module, section: recipe.AdamW | recipe.SGD) -> list[dict[str, Any]]:
    """Parameter groups: encoder or rest (own learning rate), with or without weight decay.

    Biases and the factors of normalisation layers, which are all parameters of at most one dimension, get no decay.
    The group's highest learning rate is kept under `peak_lr`.
    """
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("encoder."), parameter.ndim > 1)
            found.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": section.lr * (section.encoder_lr_scale if in_encoder else 1.0),
            "weight_decay": section.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in sorted(found.items())
    ]


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group `factor` times its highest learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def factor(step: int, steps: int, section: recipe.Schedule) -> float:
    """Factor of the learning rate at update number `step` of `steps`, counted from 0; in (0, 1]."""
    return SCHEDULES[section.kind](step, steps, section.warmup)


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Cosine from a 25th up to 1 over the warm-up, cosine down to zero (Smith & Topin 2018)."""
    up = warmup * steps
    if step < up:
        return START + (1 - START) * _half_cosine(step / up)
    return _half_cosine(1 - (step - up) / max(steps - up, 1))


def cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    return _after_warmup(step, steps, warmup, lambda done: _half_cosine(1 - done))


def poly(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then (1 - share done) ** 0.9 (Chen et al. 2017)."""
    return _after_warmup(step, steps, warmup, lambda done: (1 - done) ** POWER)


def constant(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then 1."""
    return _after_warmup(step, steps, warmup, lambda done: 1.0)


def _after_warmup(step: int, steps: int, warmup: float, down: Callable[[float], float]) -> float:
    up = round(warmup * steps)
    if step < up:
        return (step + 1) / up
    return down((step - up) / max(steps - up, 1))


def _half_cosine(share: float) -> float:
    """0 at 0, 1 at 1, flat at both ends."""
    return (1 - math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "poly": poly,
    "constant": constant,
}
