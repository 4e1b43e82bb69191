"""Where docs/losses.md says that SMP or MONAI does something else on purpose or by mistake: still true, and ours right.

A test that fails here because a peer was repaired asks for a change of the documentation.
"""

from __future__ import annotations

import math

import monai.losses
import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import create_loss
from tests.model.losses.batches import make_logits, make_mask

theirs = smp.losses


@pytest.fixture
def logits():
    return make_logits("multiclass").detach()


@pytest.fixture
def mask():
    return make_mask("multiclass", ignore=0.0).long()


@pytest.fixture
def half_ignored(mask):
    return torch.where(torch.arange(4)[:, None, None] < 2, IGNORE, mask)


def hot(mask):
    return F.one_hot(mask, 4).movedim(-1, 1).float()


@pytest.mark.parametrize("kind", ["Dice", "Jaccard", "Tversky"])
def test_half_precision(kind):
    logits = torch.randn(1, 2, 1024, 1024).half()
    mask = torch.randint(0, 2, (1, 1024, 1024))
    assert getattr(theirs, f"{kind}Loss")("multiclass")(logits, mask).isnan()
    assert create_loss(kind.lower(), 2)(logits, mask).isfinite()


def test_an_absent_class_thins_the_mean(logits, mask):
    mask[mask == 2] = 0
    ours = create_loss("dice", 4)(logits, mask)
    torch.testing.assert_close(theirs.DiceLoss("multiclass")(logits, mask), ours * 3 / 4)


def test_an_empty_truth_costs_nothing_whatever_is_predicted():
    everywhere, nowhere = torch.full((1, 1, 8, 8), 20.0), torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert theirs.DiceLoss("binary", smooth=1.0)(everywhere, nowhere.float()) == 0
    loss = create_loss("dice", 1, task="binary", absent="count", smooth=1.0)
    assert loss(everywhere, nowhere) > 0.9


def test_a_mean_over_ignored_pixels_too(logits, half_ignored):
    ours = create_loss("cross_entropy", 4)(logits, half_ignored)
    smps = theirs.SoftCrossEntropyLoss(smooth_factor=0, ignore_index=IGNORE)(logits, half_ignored)
    torch.testing.assert_close(smps, ours / 2)
    yes = torch.where(half_ignored == IGNORE, IGNORE, half_ignored.clamp(max=1))
    ours = create_loss("bce", 1, task="binary")(logits[:, :1], yes)
    smps = theirs.SoftBCEWithLogitsLoss(ignore_index=IGNORE)(logits[:, :1], yes[:, None].float())
    torch.testing.assert_close(smps, ours / 2)


def test_defaults_and_types_that_end_in_errors(logits, mask):
    with pytest.raises(TypeError):
        theirs.SoftCrossEntropyLoss()(logits, mask)
    yes = mask.clamp(max=1)
    with pytest.raises(RuntimeError):
        theirs.SoftBCEWithLogitsLoss()(logits[:, :1], yes[:, None])
    with pytest.raises(IndexError):
        theirs.FocalLoss("multilabel", ignore_index=IGNORE)(logits, hot(mask))
    assert create_loss("bce", 1, task="binary")(logits[:, :1], yes).isfinite()
    assert create_loss("focal", 4, task="multilabel")(logits, hot(mask).byte()).isfinite()


def test_nothing_but_ignored_pixels(logits, mask):
    nothing = torch.full_like(mask, IGNORE)
    assert theirs.FocalLoss("multiclass", ignore_index=IGNORE)(logits, nothing).isnan()
    assert theirs.LovaszLoss("multiclass", ignore_index=IGNORE)(logits, nothing).shape == (0, 4)
    assert create_loss(["focal", "lovasz"], 4)(logits, nothing) == 0


def test_focal_of_several_classes(logits, mask):
    ours = create_loss("focal", 4)(logits, mask)
    one_by_one = create_loss("focal", 4, task="multilabel")(logits, hot(mask).byte())
    smps = theirs.FocalLoss("multiclass")(logits, mask)
    assert not math.isclose(smps, ours, rel_tol=0.1)
    torch.testing.assert_close(smps, one_by_one)
    monais = monai.losses.FocalLoss(use_softmax=True)(logits, hot(mask))
    torch.testing.assert_close(monais * 4, ours)


def test_mcc_takes_probabilities(logits, mask):
    yes = mask.clamp(max=1)
    ours = create_loss("mcc", 1, task="binary")(logits[:, :1], yes)
    by_chance, right = (theirs.MCCLoss()(x, yes[:, None].float()) for x in (logits[:, :1], logits[:, :1].sigmoid()))
    torch.testing.assert_close(right, ours, rtol=1e-3, atol=1e-3)
    assert not math.isclose(by_chance, ours, rel_tol=0.01)


def test_what_is_under_ignored_pixels(logits, half_ignored):
    logits[:2] = math.nan
    assert theirs.DiceLoss("multiclass", ignore_index=IGNORE)(logits, half_ignored).isnan()
    assert create_loss("dice", 4)(logits, half_ignored).isfinite()


def test_chips_apart_or_together(logits, mask):
    """MONAI's means over chips of ratios are not the ratio of the batch; `batch=True` is."""
    made = monai.losses.GeneralizedDiceLoss
    ours = create_loss("generalised_dice", 4)(logits, mask)
    torch.testing.assert_close(made(softmax=True, batch=True)(logits, hot(mask)), ours, rtol=1e-4, atol=1e-4)
    assert not math.isclose(made(softmax=True)(logits, hot(mask)), ours, rel_tol=1e-3)


def test_multilabel_lovasz_of_all_channels_as_one():
    logits, mask = make_logits("multilabel").detach(), make_mask("multilabel", ignore=0.0)
    smps = theirs.LovaszLoss("multilabel", per_image=True)(logits, mask.long())
    tall = create_loss("lovasz", 1, task="binary")(logits.flatten(1, 2)[:, None], mask.flatten(1, 2))
    torch.testing.assert_close(smps, tall)
    assert not math.isclose(smps, create_loss("lovasz", 3, task="multilabel")(logits, mask), rel_tol=1e-3)
