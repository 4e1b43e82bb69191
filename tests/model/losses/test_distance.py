"""Losses of distances against scipy's transform, the papers' formulas and MONAI."""

from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import create_loss
from pipeline.model.losses.distance import distance_to_edges
from tests.model.losses.batches import CHANNELS, assert_equal, evaluate, make_logits, make_mask


def patches(task, size=24):
    """Masks of regions rather than of single pixels."""
    mask = make_mask(task, height=size // 4, width=size // 4, ignore=0.0)
    return mask.repeat_interleave(4, -1).repeat_interleave(4, -2)


def hot(mask, task):
    if task == "multiclass":
        return F.one_hot(mask.long(), 4).movedim(-1, 1).float()
    return mask.view(len(mask), -1, *mask.shape[-2:]).float()


def probabilities(logits, task):
    return logits.softmax(1) if task == "multiclass" else logits.sigmoid()


def signed(region):
    """Kervadec's map: distances outside, less by one inside; 0 where there is no edge."""
    if not region.any() or region.all():
        return np.zeros(region.shape)
    return distance_transform_edt(~region) * ~region - (distance_transform_edt(region) - 1) * region


@pytest.mark.parametrize("task", CHANNELS)
def test_boundary_is_probability_by_signed_distance(task):
    def reference(x, y):
        truth = hot(y, task)
        flat = truth.bool().numpy().reshape(-1, *truth.shape[-2:])
        phi = torch.from_numpy(np.stack([signed(r) for r in flat])).float().view(truth.shape)
        return (probabilities(x, task) * phi).mean()

    logits = make_logits(task, height=24, width=24)
    assert_equal(create_loss("boundary", CHANNELS[task], task=task), reference, logits, patches(task))


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_hausdorff_equals_monai(task, alpha):
    made = monai.losses.HausdorffDTLoss
    theirs = made(alpha=alpha, include_background=True, softmax=task == "multiclass", sigmoid=task != "multiclass")

    def reference(x, y):
        return theirs(x, hot(y, task))

    logits = make_logits(task, height=24, width=24)
    loss = create_loss("hausdorff", CHANNELS[task], task=task, alpha=alpha)
    assert_equal(loss, reference, logits, patches(task), atol=1e-5)


@pytest.mark.parametrize("kind", ["boundary", "hausdorff", "edge_cross_entropy"])
def test_the_rim_of_what_is_ignored_is_no_edge(kind):
    """A class up to nodata costs what it costs if the same class went on below it."""
    mask = torch.zeros(4, 24, 24, dtype=torch.uint8)
    mask[..., 12:] = 1
    noise = make_logits("multiclass", height=24, width=24).detach() / 10
    logits = (noise + 3 * hot(mask, "multiclass")).requires_grad_()
    cut = mask.clone()
    cut[:, 18:] = IGNORE
    loss = create_loss(kind, 4)
    weights = torch.ones(4, 24, 24)
    weights[:, 18:] = 0
    torch.testing.assert_close(evaluate(loss, logits, cut)[1], evaluate(loss, logits, mask, weights)[1])


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
def test_a_class_without_an_edge_pulls_nowhere_by_the_truth(kind):
    logits = torch.full((1, 1, 6, 6), 3.0, requires_grad=True)
    value, gradient = evaluate(create_loss(kind, 1, task="binary"), logits, torch.ones(1, 6, 6, dtype=torch.uint8))
    assert value == 0
    assert (gradient == 0).all()


def test_class_weights_choose_the_classes():
    logits, mask = make_logits("multiclass", height=24, width=24), patches("multiclass")
    one = create_loss("boundary", 4, class_weights=[0, 1, 0, 0])(logits, mask)
    phi = torch.from_numpy(np.stack([signed(r) for r in (mask == 1).numpy()])).float()
    torch.testing.assert_close(one, (logits.softmax(1)[:, 1] * phi).mean())


def test_distance_to_edges_is_that_of_scipy():
    mask = patches("multiclass")
    edge = np.zeros(mask.shape, bool)
    ids = mask.numpy()
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[..., 1:] |= ids[..., 1:] != ids[..., :-1]
    edge[..., :-1] |= ids[..., 1:] != ids[..., :-1]
    expected = np.stack([distance_transform_edt(~e) for e in edge])
    np.testing.assert_allclose(distance_to_edges(mask).numpy(), expected, rtol=1e-5)
    assert distance_to_edges(torch.zeros(1, 3, 3, dtype=torch.uint8)).isinf().all()
