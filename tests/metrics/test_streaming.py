"""A tally is what one count of everything would be: over batches, merges, ranks and restarts."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.labels.classes import IGNORE
from pipeline.metrics import METRICS, IoU, Tally, confusion_of_logits, count, iou
from pipeline.metrics.ratios import reduced
from tests.metrics.batches import OF, TASKS, K, N, equal, images, same, tallied

SHARES = [[[0, 1, 2, 3], [4, 5, 6]], [[0, 1, 2, 3, 4, 5, 6], []]]  # images of the ranks; once one of them has none


@pytest.mark.parametrize("task", TASKS)
class TestEveryTask:
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, N), max_size=4).map(sorted), imagewise=st.booleans())
    def test_any_batches_give_one_count(self, task, seed, cuts, imagewise):
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, N], strict=True)]
        tally = tallied(task, parts, imagewise, seed)
        once = count(*images(task, seed), task=task)
        assert same(tally.counts(), once if imagewise else once.pooled())
        for name in METRICS:
            value = tally.compute(name, reduction="macro_imagewise" if imagewise else "macro")
            expected = reduced(METRICS[name], once, reduction="macro_imagewise" if imagewise else "macro")
            assert torch.equal(value, expected) or (value.isnan() and expected.isnan())

    def test_confusion_is_the_sum_of_tables(self, task):
        tally = tallied(task, [slice(0, 3), slice(3, N)])
        if task == "multiclass":
            assert torch.equal(tally.confusion, confusion_of_logits(*images(task)))
        tp, fp, fn, tn = tally.counts().pooled()
        table = tally.confusion
        if task != "multiclass":
            assert torch.equal(table, torch.stack([tn, fp, fn, tp], 1).view(-1, 2, 2))
        assert int(table.sum()) == int((images(task)[1] != IGNORE).sum())

    @settings(max_examples=10, deadline=None)
    @given(order=st.permutations(range(N)), cut=st.integers(0, N))
    def test_merging_is_exact_in_any_order(self, task, order, cut):
        a, b = tallied(task, [order[:cut]], False), tallied(task, [order[cut:]], False)
        before = a.state_dict()
        whole = tallied(task, [slice(None)], False)
        assert equal(a + b, whole)
        assert equal(b + a, whole)
        assert all(torch.equal(part, before[name]) for name, part in a.state_dict().items())
        assert a.merge(b) is a
        assert equal(a, whole)

    @pytest.mark.parametrize("imagewise", [False, True])
    def test_goes_on_from_a_saved_state(self, task, imagewise, tmp_path):
        first = tallied(task, [slice(0, 2), slice(2, 4)], imagewise)
        torch.save(first.state_dict(), tmp_path / "state.pt")
        other = Tally(OF[task], task=task, imagewise=imagewise)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert equal(other, first)
        logits, mask = images(task)
        other.update(logits[4:], mask[4:])
        assert equal(other, tallied(task, [slice(None)], imagewise))
        assert equal(first, tallied(task, [slice(0, 4)], imagewise)), "the saved one grew with it"


def test_a_refused_batch_adds_nothing():
    tally = tallied("multiclass", [slice(None)])
    before = tally.state_dict()
    logits, mask = images("multiclass")
    mask[0, 0, 0] = K
    with pytest.raises(ValueError, match="mask holds 3"):
        tally.update(logits, mask)
    assert all(torch.equal(part, before[name]) for name, part in tally.state_dict().items())


def test_reset_and_empty():
    tally = tallied("multiclass", [slice(None)])
    tally.reset()
    assert equal(tally, Tally(K, imagewise=True))
    assert tally.compute().isnan()
    assert float(tally.compute("f1", reduction="micro_imagewise", zero_division=1.0)) == 1


def test_batches_inside_and_outside_inference_mode():
    tally = Tally(K)
    logits, mask = images("multiclass")
    with torch.inference_mode():
        tally.update(logits[:3], mask[:3])
    tally.update(logits[3:], mask[3:])
    assert equal(tally, tallied("multiclass", [slice(None)], False))
    tally.reset()


def test_memory_does_not_grow_unless_asked():
    tally = tallied("multiclass", [slice(None)] * 5, imagewise=False)
    assert sum(part.numel() for part in tally.state_dict().values()) == K * K
    kept = tallied("multiclass", [slice(None)] * 5).state_dict()["images"]
    assert tuple(kept.shape) == (4, 5 * N, K)


def test_moves():
    tally = tallied("multiclass", [slice(None)])
    assert tally.to("meta") is tally
    assert tally.device.type == tally.counts().tp.device.type == "meta"


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {}, "num_classes: None for the task multiclass"),
        ((2,), {"task": "binary"}, "num_classes: 2 for the task binary"),
        ((3,), {"task": "multi_class"}, "did you mean 'multiclass'"),
        ((3,), {"threshold": 2}, "threshold"),
    ],
)
def test_wrong_settings_are_refused(args, options, message):
    with pytest.raises(ValueError, match=message):
        Tally(*args, **options)


def test_tallies_and_states_of_another_kind_are_refused():
    tally = Tally(K)
    for other in (Tally(4), Tally(K, task="multilabel"), Tally(K, imagewise=True)):
        with pytest.raises(ValueError, match="different kinds"):
            tally.merge(other)
        with pytest.raises(ValueError, match="does not belong"):
            tally.load_state_dict(other.state_dict())
        with pytest.raises(ValueError, match="does not belong"):
            other.load_state_dict(tally.state_dict())
    with pytest.raises(ValueError, match="did you mean 'kappa'"):
        tally.compute("kapp")


def test_ranks_add_up_exactly(tmp_path):
    assert equal(Tally(K).over_ranks(), Tally(K))
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    expected = {
        (task, imagewise): tallied(task, [slice(None)], imagewise).state_dict()
        for task in TASKS
        for imagewise in (False, True)
    }
    value = iou(count(*images("multiclass")), reduction="macro_imagewise")
    for rank in range(2):
        for states, computed in torch.load(tmp_path / f"{rank}.pt"):
            for kind, wanted in expected.items():
                assert states[kind].keys() == wanted.keys()
                assert all(torch.equal(states[kind][name], part) for name, part in wanted.items())
            assert torch.equal(computed, value)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    out = []
    for shares in SHARES:
        parts = [shares[rank]] if shares[rank] else []
        states = {}
        for task in TASKS:
            for imagewise in (False, True):
                tally = tallied(task, parts, imagewise)
                states[task, imagewise] = tally.over_ranks().state_dict()
                assert equal(tally, tallied(task, parts, imagewise)), "it changed the counts of this rank"
        metric = IoU(K, reduction="macro_imagewise")
        logits, mask = images("multiclass")
        for part in parts:
            metric.update(logits[part], mask[part])
        out.append((states, metric.compute()))
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
