"""clDice against MONAI and the papers' formula."""

from __future__ import annotations

import pytest
import torch
from monai.losses import SoftclDiceLoss
from monai.losses.cldice import soft_skel
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import create_loss
from pipeline.model.losses.skeleton import soft_skeleton
from tests.model.losses.batches import assert_equal, make_logits

SIZE = {"height": 24, "width": 24}


@pytest.fixture
def roads():
    """Two roads of three pixels on 4 chips."""
    mask = torch.zeros(4, 24, 24, dtype=torch.uint8)
    mask[:, 5:8] = 1
    mask[1:, :, 12:15] = 1
    return mask


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_skeleton_equals_monai(roads, iterations):
    image = make_logits("multilabel", **SIZE).detach().sigmoid()
    torch.testing.assert_close(soft_skeleton(image, iterations), soft_skel(image, iterations))
    line = soft_skeleton(roads[:, None].float(), 3)
    assert line[0, 0].sum(0).eq(1).all(), "a straight road becomes a line of one pixel"


def in_monai(smooth):
    """Of one chip: MONAI keeps chips apart."""
    return SoftclDiceLoss(iter_=3, smooth=1e-12, smooth_nr=smooth, smooth_dr=smooth)


@pytest.mark.parametrize("smooth", [1.0, 0.1])
def test_binary_equals_monai(roads, smooth):
    theirs = in_monai(smooth)

    def reference(x, y):
        return theirs(x.sigmoid(), y[:, None].float())

    loss = create_loss("cldice", 1, task="binary", smooth=smooth)
    assert_equal(loss, reference, make_logits("binary", images=1, **SIZE), roads[1:2])


def test_multiclass_is_the_mean_over_the_classes(roads):
    """MONAI adds up the pixels of all classes, so that the largest decides."""
    roads[:, :, 14:] *= 3
    theirs = in_monai(1.0)

    def reference(x, y):
        truth, p = F.one_hot(y, 4).movedim(-1, 1).float(), x.softmax(1)
        return torch.stack([theirs(p[:, k : k + 1], truth[:, k : k + 1]) for k in (0, 1, 3)]).mean()

    assert_equal(create_loss("cldice", 4), reference, make_logits("multiclass", images=1, **SIZE), roads[1:2])


def test_a_gap_in_a_line_costs_more_than_a_thinner_line(roads):
    """What it is for; Dice says the opposite."""

    def logits(mask):
        return torch.where(mask[:, None] == 1, 20.0, -20.0)

    broken, thin = roads.clone(), roads.clone()
    broken[..., 2:6] = 0
    thin[:, 5], thin[:, 7] = 0, 0
    cldice, dice = (create_loss(kind, 1, task="binary") for kind in ("cldice", "dice"))
    roads[:, :, 12:15][roads[:, :, 12:15] == 1] = IGNORE
    assert cldice(logits(broken), roads) > cldice(logits(thin), roads)
    assert dice(logits(broken), roads) < dice(logits(thin), roads)
