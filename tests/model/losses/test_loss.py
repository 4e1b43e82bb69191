"""Weighted sums of terms, other people's door to them, and auxiliary outputs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.data.labels.classes import IGNORE
from pipeline.errors import LabelError, RecipeError, SceneError
from pipeline.model.losses import build, create_loss, supervised
from pipeline.model.outputs import Outputs
from pipeline.recipe.losses import CrossEntropy, Dice
from tests.model.losses.batches import CHANNELS, make_logits, make_mask

K = CHANNELS["multiclass"]


@pytest.fixture
def logits():
    return make_logits("multiclass")


@pytest.fixture
def mask():
    return make_mask("multiclass")


def test_a_mix_is_the_weighted_sum_of_its_parts(logits, mask):
    mix = [CrossEntropy(weight=0.7), Dice(weight=2), CrossEntropy(label_smoothing=0.1)]
    loss = build(mix, K)
    sums = loss.sums(logits, mask)
    parts = loss.parts(sums)
    assert list(parts) == ["cross_entropy", "dice", "cross_entropy_2"]
    alone = [float(build([t.model_copy(update={"weight": 1.0})], K)(logits.detach(), mask)) for t in mix]
    assert list(parts.values()) == pytest.approx(alone)
    assert float(loss.value(sums.detach())) == pytest.approx(0.7 * alone[0] + 2 * alone[1] + alone[2])
    assert len(sums) == loss.size


def test_create_loss_takes_names_mappings_and_sections(logits, mask):
    expected = build([CrossEntropy(), Dice(weight=2)], K)(logits, mask)
    for terms in (["cross_entropy", {"kind": "dice", "weight": 2}], [CrossEntropy(), Dice(weight=2)]):
        assert torch.equal(create_loss(terms, K)(logits, mask), expected)
    assert torch.equal(
        create_loss(Dice(absent="count"), K)(logits, mask), create_loss("dice", K, absent="count")(logits, mask)
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("dize", K), {}, "no loss 'dize'\n  -> did you mean dice?"),
        (("dice", K), {"smoth": 1}, "smooth"),
        (("dice", K), {"smooth": -1}, "smooth"),
        ((["dice", "bce"], 1), {"smooth": 1}, "options go with a single kind"),
        (("bce", K), {}, "bce is for binary and multilabel, not multiclass\n  -> use cross_entropy"),
        (("cross_entropy", 1), {"task": "binary"}, "cross_entropy is for multiclass, not binary\n  -> use bce"),
        (("dice", 2), {"task": "binary"}, "one channel, not 2"),
        (("dice", K), {"task": "multi-class"}, "no task 'multi-class'\n  -> did you mean multiclass?"),
        (("dice", 256), {}, "num_classes is 256"),
        (([], K), {}, "at least one term"),
        (("cross_entropy", K), {"class_weights": [1, 2, 3]}, "3 class_weights for 4 classes"),
        (("bce", 3), {"task": "multilabel", "pos_weight": [1, 2]}, "2 pos_weight for 3 classes"),
    ],
)
def test_what_cannot_be_says_what_can(arguments, options, message):
    with pytest.raises(RecipeError) as error:
        create_loss(*arguments, **options)
    assert message in str(error.value)


def test_class_weights_of_a_recipe_must_match_the_classes():
    with pytest.raises(RecipeError, match=r"3 class_weights for 4 classes"):
        build([CrossEntropy(class_weights=[1, 2, 3])], K)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y), "not floating-point \\[N,K,H,W\\]"),
        (lambda x, y: (x.int(), y), "logits are torch.int32"),
        (lambda x, y: (x[:, :3], y), "3 channels, the loss was made for 4"),
        (lambda x, y: (x, y[:, :-1]), "must be \\(4, 9, 7\\)"),
        (lambda x, y: (x, y.float()), "give mask.long\\(\\)"),
        (lambda x, y: (x, y, torch.ones(4, 9)), "pixel_weights are \\(4, 9\\)"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(logits, mask, change, message):
    with pytest.raises(SceneError, match=message):
        create_loss("dice", K)(*change(logits, mask))


@pytest.mark.parametrize(("task", "wrong"), [("multiclass", 4), ("multiclass", -100), ("binary", 2)])
def test_an_unknown_id_is_named(task, wrong):
    mask = make_mask(task).long()
    mask[0, 0, 0] = wrong
    with pytest.raises(LabelError, match=f"the mask holds {wrong}"):
        create_loss("dice", CHANNELS[task], task=task)(make_logits(task), mask)


def test_a_binary_mask_may_be_bool_and_have_a_channel():
    logits, mask = make_logits("binary"), make_mask("binary", ignore=0.0)
    loss = create_loss(["bce", "dice"], 1, task="binary")
    assert torch.equal(loss(logits, mask[:, None].bool()), loss(logits, mask))


class TestSupervised:
    def outputs(self, logits):
        return Outputs(logits, (logits * 0.5, logits.roll(1, 0)), logits.detach().mean((2, 3)).requires_grad_())

    def test_nothing_more_to_say_is_the_loss_itself(self):
        loss = create_loss("dice", K)
        assert supervised(loss) is loss
        assert supervised(loss, (), None) is loss

    def test_it_is_the_sum_of_all_that_the_network_says(self, logits, mask):
        mask[3] = IGNORE
        loss, outputs = create_loss(["cross_entropy", "dice"], K), self.outputs(logits)
        every = supervised(loss, (0.4, 0.1), 0.3)
        valid = [m[m != IGNORE] for m in mask[:3]]
        present = torch.stack([torch.tensor([bool((v == k).any()) for k in range(K)]) for v in valid]).float()
        labels = F.binary_cross_entropy_with_logits(outputs.labels[:3], present)
        auxiliary = [loss(x, mask) for x in outputs.auxiliary]
        expected = loss(logits, mask) + 0.4 * auxiliary[0] + 0.1 * auxiliary[1] + 0.3 * labels
        torch.testing.assert_close(every(outputs, mask), expected)
        parts = every.parts(every.sums(outputs, mask))
        names = [f"{p}{n}" for p in ("", "auxiliary_1.", "auxiliary_2.") for n in ("cross_entropy", "dice")]
        assert list(parts) == [*names, "labels"]
        assert parts["labels"] == pytest.approx(float(labels.detach()))
        assert parts["auxiliary_2.dice"] == pytest.approx(loss.parts(loss.sums(outputs.auxiliary[1], mask))["dice"])

    def test_a_divided_batch_has_the_loss_of_the_whole(self, logits, mask):
        mask[0] = IGNORE
        every, outputs = supervised(create_loss("dice", K), (0.4, 0.1), 0.3), self.outputs(logits)

        def part(chips):
            return Outputs(logits[chips], tuple(a[chips] for a in outputs.auxiliary), outputs.labels[chips])

        sums = sum(every.sums(part(chips), mask[chips]) for chips in (slice(1), slice(1, 4)))
        torch.testing.assert_close(every.value(sums), every(outputs, mask))

    @pytest.mark.parametrize("task", ["binary", "multilabel"])
    def test_labels_of_yes_and_no(self, task):
        logits, mask = make_logits(task), make_mask(task)
        mask[0] = 0
        mask[1] = IGNORE
        labels = logits.detach().mean((2, 3))
        every = supervised(create_loss("dice", CHANNELS[task], task=task), (), 1.0)
        target = (mask.view(logits.shape) == 1).flatten(2).any(2).float()
        expected = F.binary_cross_entropy_with_logits(labels[[0, 2, 3]], target[[0, 2, 3]])
        parts = every.parts(every.sums(Outputs(logits, (), labels), mask))
        assert parts["labels"] == pytest.approx(float(expected))

    def test_nothing_but_ignored_pixels_is_zero(self, logits, mask):
        every, outputs = supervised(create_loss("dice", K), (0.4, 0.1), 0.3), self.outputs(logits)
        value = every(outputs, torch.full_like(mask, IGNORE))
        gradients = torch.autograd.grad(value, (logits, outputs.labels))
        assert value == 0
        assert all((g == 0).all() for g in gradients)

    def test_a_network_that_says_less_is_refused(self, logits, mask):
        every = supervised(create_loss("dice", K), (0.4,), 0.3)
        with pytest.raises(RecipeError, match="gives 0 auxiliary outputs, the loss has weights for 1"):
            every(Outputs(logits), mask)
        with pytest.raises(RecipeError, match="gives no labels"):
            every(Outputs(logits, (logits,)), mask)
