"""Losses of regions against SMP, MONAI, scikit-learn and plain loops."""

from __future__ import annotations

import monai.losses
import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn.metrics import matthews_corrcoef
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses import create_loss
from tests.model.losses.batches import CHANNELS, assert_equal, evaluate, make_logits, make_mask

WEIGHTS = [0.5, 2.0, 0.25, 1.5]
TVERSKY = {"alpha": 0.2, "beta": 0.8}
PEERS = {
    "dice": (smp.losses.DiceLoss, {}),
    "jaccard": (smp.losses.JaccardLoss, {}),
    "tversky": (smp.losses.TverskyLoss, TVERSKY),
}


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("options", [{}, {"smooth": 3.0}, {"class_weights": True}, {"absent": "count"}])
def test_equal_to_smp_where_every_class_is_present(kind, task, options):
    if options.get("class_weights") and task == "binary":
        pytest.skip("SMP has none for binary")
    if options.get("class_weights"):
        options = {"class_weights": WEIGHTS[: CHANNELS[task]]}
    peer, own = PEERS[kind]
    theirs = peer(task, ignore_index=IGNORE, **own, **{k: v for k, v in options.items() if k != "absent"})
    loss = create_loss(kind, CHANNELS[task], task=task, **own, **options)
    assert_equal(loss, theirs, make_logits(task), make_mask(task))


def plain(kind, absent):
    """One class after the other."""

    def reference(x, y):
        p, terms = x.softmax(1), []
        for k in range(4):
            inside = p[:, k][y != IGNORE]
            truth = (y[y != IGNORE] == k).float()
            tp, fp, fn = (inside * truth).sum(), (inside * (1 - truth)).sum(), ((1 - inside) * truth).sum()
            if absent == "skip" and not truth.any():
                continue
            terms.append(
                {
                    "dice": 1 - 2 * tp / (2 * tp + fp + fn),
                    "jaccard": 1 - tp / (tp + fp + fn),
                    "tversky": 1 - tp / (tp + 0.3 * fp + 0.7 * fn),
                    "focal_tversky": (1 - tp / (tp + 0.3 * fp + 0.7 * fn)) ** 0.75,
                }[kind]
            )
        return torch.stack(terms).mean()

    return reference


@pytest.mark.parametrize("kind", ["dice", "jaccard", "tversky", "focal_tversky"])
@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("there", [True, False])
def test_equal_to_a_plain_loop_where_a_class_is_absent(kind, absent, there):
    mask = make_mask("multiclass")
    if not there:
        mask[mask == 2] = 0
    assert_equal(create_loss(kind, 4, absent=absent), plain(kind, absent), make_logits("multiclass"), mask)


@pytest.mark.parametrize("kind", ["dice", "jaccard", "tversky"])
def test_smoothing_pulls_an_absent_class_down(kind):
    """Without it a ratio of nothing has no slope: all that can be done for an absent class is to leave it out."""
    logits, mask = make_logits("binary"), torch.zeros(4, 9, 7, dtype=torch.uint8)
    for options, moves in (({}, False), ({"absent": "count"}, False), ({"absent": "count", "smooth": 1.0}, True)):
        value, gradient = evaluate(create_loss(kind, 1, task="binary", **options), logits, mask)
        assert (gradient > 0).all() == moves
        assert (float(value) > 0) == ("absent" in options)


@pytest.mark.parametrize("absent", ["skip", "count"])
def test_generalised_dice_equals_monai(absent):
    mask = make_mask("multiclass", ignore=0.0)
    if absent == "count":
        mask[mask == 2] = 0
    theirs = monai.losses.GeneralizedDiceLoss(softmax=True, batch=True, smooth_nr=0, smooth_dr=0)

    def reference(x, y):
        return theirs(x, F.one_hot(y, 4).movedim(-1, 1).float())

    assert_equal(create_loss("generalised_dice", 4, absent=absent), reference, make_logits("multiclass"), mask)


def test_generalised_dice_of_ignored_pixels_is_that_without_them():
    logits, mask = make_logits("multiclass"), make_mask("multiclass")
    loss = create_loss("generalised_dice", 4)
    there = mask != IGNORE
    row = logits.movedim(1, -1)[there].T[None, :, None]
    torch.testing.assert_close(loss(logits, mask), loss(row, mask[there][None, None]))


def test_mcc_equals_smp_in_binary():
    """SMP takes probabilities where its other losses take logits."""
    theirs = smp.losses.MCCLoss(eps=0)
    mask = make_mask("binary", ignore=0.0)

    def reference(x, y):
        return theirs(x.sigmoid(), y[:, None].float())

    assert_equal(create_loss("mcc", 1, task="binary"), reference, make_logits("binary"), mask)


def test_mcc_of_hard_predictions_is_that_of_their_labels():
    logits, mask = make_logits("multiclass").detach().mul(1e3), make_mask("multiclass")
    valid = mask != IGNORE
    guess, truth = logits.argmax(1)[valid], mask[valid]
    expected = 1 - sum(matthews_corrcoef(truth == k, guess == k) for k in range(4)) / 4
    assert float(create_loss("mcc", 4)(logits, mask)) == pytest.approx(expected, abs=1e-4)


def test_mcc_leaves_out_what_is_everywhere_or_nowhere():
    logits, mask = make_logits("multilabel"), make_mask("multilabel")
    mask[:, 0][mask[:, 0] != IGNORE] = 1
    mask[:, 1][mask[:, 1] != IGNORE] = 0
    value, gradient = evaluate(create_loss("mcc", 3, task="multilabel"), logits, mask)
    alone = create_loss("mcc", 1, task="binary")(logits[:, 2:], mask[:, 2])
    torch.testing.assert_close(value, alone.detach())
    assert (gradient[:, :2] == 0).all()


def test_a_rare_class_that_is_found_costs_nothing():
    """A few pixels in a million: squares and products of sizes must not leave the range of float32."""
    mask = torch.zeros(1, 1024, 1024, dtype=torch.uint8)
    mask[0, 0, :3] = 1
    logits = torch.where(mask[:, None] == torch.arange(2)[:, None, None], 25.0, -25.0).requires_grad_()
    for kind in ("dice", "jaccard", "generalised_dice", "tversky", "mcc"):
        value, gradient = evaluate(create_loss(kind, 2), logits, mask)
        assert float(value) == pytest.approx(0, abs=1e-4), kind
        assert gradient.isfinite().all()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_mcc_keeps_its_digits_where_a_class_is_nearly_everywhere(task):
    """Five pixels of a million are of the other class: float32 gives what float64 gives, value and gradient."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(1, 1024, 1024, dtype=torch.uint8)
    mask[0, 0, :5] = 0
    logit = torch.randn(1, 1, 1024, 1024, generator=generator) * 1.5 + 6
    logit[0, 0, 0, :5] = -3
    logits = logit if task == "binary" else torch.cat([torch.zeros_like(logit), logit], 1)
    loss = create_loss("mcc", logits.shape[1], task=task)
    value, gradient = evaluate(loss, logits.clone().requires_grad_(), mask)
    exact, exact_gradient = evaluate(loss, logits.double().requires_grad_(), mask)
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 1e-5
    p = logit.double().sigmoid()
    tp, fp, fn, tn = (p * mask).sum(), (p * (1 - mask)).sum(), ((1 - p) * mask).sum(), ((1 - p) * (1 - mask)).sum()
    correlation = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()
    assert float(value) == pytest.approx(1 - float(correlation), rel=1e-6)
