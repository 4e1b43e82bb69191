"""Losses of pixels against torch, torchvision, MONAI and plain loops."""

from __future__ import annotations

import math

import monai.losses
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from pipeline.data.labels.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.model.losses import create_loss
from tests.model.losses.batches import CHANNELS, assert_equal, make_logits, make_mask

WEIGHTS = [0.5, 2.0, 0.0, 1.5]
YES_NO = ["binary", "multilabel"]


def decisions(logits, mask):
    """Logits and truth of the valid decisions, one after the other."""
    mask = mask.view(logits.shape)
    return logits[mask != IGNORE], mask[mask != IGNORE].to(logits.dtype)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(weights, smoothing):
    loss = create_loss("cross_entropy", 4, class_weights=weights, label_smoothing=smoothing)
    tensor = None if weights is None else torch.tensor(weights)

    def reference(x, y):
        return F.cross_entropy(x, y, tensor, ignore_index=IGNORE, label_smoothing=smoothing)

    assert_equal(loss, reference, make_logits("multiclass"), make_mask("multiclass"), rtol=1e-6)


def test_pixel_weights_weigh_the_mean():
    logits, mask = make_logits("multiclass"), make_mask("multiclass")
    weights = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(0))
    loss = create_loss("cross_entropy", 4, class_weights=WEIGHTS, label_smoothing=0.1)
    tensor = torch.tensor(WEIGHTS)
    each = F.cross_entropy(logits, mask.long(), tensor, ignore_index=IGNORE, label_smoothing=0.1, reduction="none")
    known = mask != IGNORE
    total = (tensor[torch.where(known, mask, 0).long()] * weights)[known].sum()
    torch.testing.assert_close(loss(logits, mask, weights), (each * weights).sum() / total)


@pytest.mark.parametrize("task", YES_NO)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("positive", [False, True])
def test_bce_equals_torch(task, smoothing, positive):
    channels = CHANNELS[task]
    factors = [3.0, 0.5, 1.0][:channels] if positive else None
    loss = create_loss("bce", channels, task=task, label_smoothing=smoothing, pos_weight=factors)

    def reference(x, y):
        y = y.view(x.shape)
        target = (y == 1).float() * (1 - smoothing) + smoothing / 2
        positive = None if factors is None else torch.tensor(factors)[:, None, None]
        each = F.binary_cross_entropy_with_logits(x, target, pos_weight=positive, reduction="none")
        return each[y != IGNORE].mean()

    assert_equal(loss, reference, make_logits(task), make_mask(task))


@pytest.mark.parametrize("task", YES_NO)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (1.5, 0.25)])
def test_focal_equals_torchvision(task, gamma, alpha):
    loss = create_loss("focal", CHANNELS[task], task=task, gamma=gamma, alpha=alpha)

    def reference(x, y):
        return sigmoid_focal_loss(*decisions(x, y), -1 if alpha is None else alpha, gamma, "mean")

    assert_equal(loss, reference, make_logits(task), make_mask(task))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_monai(gamma):
    theirs = monai.losses.FocalLoss(gamma=gamma, use_softmax=True, reduction="none")

    def reference(x, y):
        each = theirs(x, F.one_hot(torch.where(y == IGNORE, 0, y), 4).movedim(-1, 1).float())
        return each.sum(1)[y != IGNORE].mean()  # MONAI's own mean divides by the classes too

    # The power's slope where p is 1 to rounding is a matter of taste for gamma below 1.
    assert_equal(
        create_loss("focal", 4, gamma=gamma), reference, make_logits("multiclass"), make_mask("multiclass"), rtol=1e-4
    )


def test_alpha_is_for_yes_and_no():
    with pytest.raises(RecipeError, match="class_weights"):
        create_loss("focal", 4, alpha=0.25)


def hardest(losses, keep):
    """Mean over all chips of the `keep(chip)` largest losses of each."""
    kept = [torch.sort(chip, descending=True).values[: keep(chip)] for chip in losses]
    return torch.cat(kept).mean()


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"share": 0.3}, lambda chip: math.ceil(0.3 * len(chip))),
        ({"share": 1.0}, len),
        ({"threshold": 0.4, "min_kept": 1}, lambda chip: int((chip > -math.log(0.4)).sum())),
        ({"threshold": 0.01, "min_kept": 12}, lambda chip: max(12, int((chip > -math.log(0.01)).sum()))),
        ({"min_kept": 10_000}, len),
    ],
)
def test_ohem_equals_a_plain_loop(task, options, keep):
    def reference(x, y):
        if task == "multiclass":
            each = F.cross_entropy(x, y, ignore_index=IGNORE, reduction="none")
        else:
            y = y.view(x.shape)
            each = F.binary_cross_entropy_with_logits(x, (y == 1).float(), reduction="none")
        return hardest([e[m != IGNORE] for e, m in zip(each, y, strict=True)], keep)

    loss = create_loss("ohem", CHANNELS[task], task=task, **options)
    assert_equal(loss, reference, make_logits(task), make_mask(task))


def test_ohem_shares_among_equals():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = create_loss("ohem", 2, share=0.25)
    value = loss(logits, torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert float(value.detach()) == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient[:, 0], torch.full((1, 2, 2), -0.125))


@pytest.mark.parametrize("task", CHANNELS)
def test_edges_weigh_more_by_their_distance(task):
    def emphasis(mask):
        """By comparing all pairs of pixels."""
        height, width = mask.shape
        cells = [(r, c) for r in range(height) for c in range(width)]
        edges = [
            (r, c)
            for r, c in cells
            for s, d in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1))
            if 0 <= s < height and 0 <= d < width
            if len({int(mask[r, c]), int(mask[s, d])} - {IGNORE}) == 2
        ]
        near = [min((math.hypot(r - s, c - d) for s, d in edges), default=math.inf) for r, c in cells]
        return torch.tensor([1 + 4 * math.exp(-(d**2) / (2 * 2**2)) for d in near]).view(height, width)

    mask = make_mask(task, ignore=0.1)
    mask[..., 5:] = 0  # far from every edge
    mask[0] = 1

    def reference(x, y):
        if task == "multiclass":
            each = F.cross_entropy(x, y, ignore_index=IGNORE, reduction="none")
        else:
            y = y.view(x.shape)
            each = F.binary_cross_entropy_with_logits(x, (y == 1).float(), reduction="none")
        weights = torch.stack([emphasis(m) for m in y.flatten(0, -3)]).view(y.shape)
        return (each * weights)[y != IGNORE].sum() / weights[y != IGNORE].sum()

    loss = create_loss("edge_cross_entropy", CHANNELS[task], task=task, w0=4, sigma=2)
    assert_equal(loss, reference, make_logits(task), mask)
