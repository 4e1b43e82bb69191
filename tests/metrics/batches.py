"""Batches of every task and their tallies; light to import, because worker processes do."""

from __future__ import annotations

import torch

from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import Tally

K, N = 3, 7
OF = {"multiclass": K, "binary": None, "multilabel": K}
TASKS = list(OF)


def images(task, seed=0):
    """Logits and masks of seven images."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((N, 6, 5) if task == "binary" else (N, K, 6, 5), generator=generator)
    shape, ids = ((N, 6, 5), K) if task == "multiclass" else (logits.shape, 2)
    mask = torch.randint(0, ids, shape, generator=generator)
    mask[torch.rand(shape, generator=generator) < 0.3] = IGNORE
    return logits, mask


def tallied(task, parts, imagewise=True, seed=0):
    tally = Tally(OF[task], task=task, imagewise=imagewise)
    logits, mask = images(task, seed)
    for part in parts:
        tally.update(logits[part], mask[part])
    return tally


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def equal(a, b):
    return same(a.counts(), b.counts()) and torch.equal(a.confusion, b.confusion)
