"""The objects in other people's loops: a bare one, Lightning's, and beside torchmetrics' own."""

from __future__ import annotations

import copy
import pickle

import lightning
import pytest
import torch
import torchmetrics
from torch import nn

from pipeline import metrics
from pipeline.metrics import METRICS, Counts, FBeta, IoU, Metric, confusion_of_logits, count
from pipeline.metrics.ratios import reduced
from tests.metrics.batches import K, images

OBJECTS = {cls.name: cls for cls in Metric.__subclasses__() if cls is not FBeta}


def test_there_is_one_for_every_metric():
    assert set(OBJECTS) == set(METRICS)
    assert all(getattr(metrics, cls.__name__) is cls and cls.__doc__.startswith(f"`{n}`") for n, cls in OBJECTS.items())


@pytest.mark.parametrize("name", METRICS)
class TestEveryObject:
    @pytest.mark.parametrize("reduction", ["micro", "macro", "weighted", "none", "micro_imagewise", "none_imagewise"])
    def test_batches_and_epochs(self, name, reduction):
        logits, mask = images("multiclass")
        metric = OBJECTS[name](K, reduction=reduction, zero_division=0.5)
        for part in (slice(0, 3), slice(3, None)):
            batch = reduced(METRICS[name], count(logits[part], mask[part]), reduction=reduction, zero_division=0.5)
            assert torch.equal(metric(logits[part], mask[part]), batch)
        whole = reduced(METRICS[name], count(logits, mask), reduction=reduction, zero_division=0.5)
        assert torch.equal(metric.compute(), whole)
        assert torch.equal(metric.compute(), whole), "compute changed the counts"
        metric.reset()
        assert metric.update(logits, mask) is None
        assert torch.equal(metric.compute(), whole)

    def test_is_copied_and_pickled_with_its_counts(self, name):
        metric = OBJECTS[name](K)
        metric.update(*images("multiclass"))
        for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
            assert torch.equal(other.compute(), metric.compute())
            other.reset()
        assert metric.tally.confusion.any()


def test_f_beta_object():
    metric = FBeta(K, beta=2, reduction="micro")
    metric(*images("multiclass"))
    expected = metrics.f_beta(count(*images("multiclass")), beta=2, reduction="micro")
    assert torch.equal(copy.deepcopy(metric).compute(), expected)
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    with pytest.raises(ValueError, match="beta"):
        FBeta(K, beta=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "macros"}, "did you mean 'macro'"),
        ({"reduction": "weighted", "class_weights": [1, 2]}, r"\(2,\) for 3 classes"),
        ({"class_weights": [1, 2, 3]}, "does not use them"),
        ({"task": "binary"}, "num_classes"),
    ],
)
def test_wrong_options_show_themselves_before_the_first_batch(options, message):
    with pytest.raises(ValueError, match=message):
        IoU(K, **options)


def test_tasks_and_thresholds_arrive():
    logits, mask = images("binary")
    metric = IoU(task="binary", threshold=0.7)
    expected = metrics.iou(count(logits, mask, task="binary", threshold=0.7))
    assert torch.equal(metric(logits, mask), expected)
    assert repr(IoU(K, reduction="micro")) == "IoU(3, task='multiclass', reduction='micro')"


def test_equals_torchmetrics_in_the_same_loop():
    logits, mask = images("multiclass")
    ours = IoU(K)
    theirs = torchmetrics.JaccardIndex(task="multiclass", num_classes=K, ignore_index=255)
    for image in range(len(mask)):
        for metric in (ours, theirs):
            metric.update(logits[image : image + 1], mask[image : image + 1])
    torch.testing.assert_close(ours.compute().float(), theirs.compute())


def test_a_model_that_holds_one_stays_as_it_was():
    """No buffers: DistributedDataParallel would overwrite those of all ranks by those of the first."""
    model = nn.ModuleDict({"net": nn.Conv2d(3, K, 1), "iou": IoU(K)})
    model["iou"].update(*images("multiclass"))
    assert set(model.state_dict()) == {"net.weight", "net.bias"}
    assert not list(model["iou"].buffers()) and not list(model["iou"].parameters())
    model.double()
    assert model["iou"].tally.confusion.dtype == torch.int64
    model.to("meta")
    assert model["iou"].tally.device.type == "meta"


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, K, 1)
        self.train_iou, self.val_iou = IoU(K), IoU(K, reduction="none")
        self.found = []

    def training_step(self, batch, index):
        logits = self.net(batch[0])
        self.log("train_iou", self.train_iou(logits, batch[1]))
        return nn.functional.cross_entropy(logits, batch[1])

    def on_train_epoch_end(self):
        self.log("train_iou_epoch", self.train_iou.compute())
        self.train_iou.reset()

    def validation_step(self, batch, index):
        self.val_iou.update(self.net(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        values = self.val_iou.compute()
        self.log_dict({f"val_iou_{k}": value for k, value in enumerate(values)})
        self.found.append(values)
        self.val_iou.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)  # stays, so that all can be computed again below


def test_inside_a_lightning_module(tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(2, 3, 8, 8), torch.randint(0, K, (2, 8, 8))) for _ in range(3)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    module = Module()
    options = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **dict.fromkeys(options, False)
    )
    trainer.fit(module, loader, loader)
    counts = Counts.from_tables(sum(confusion_of_logits(module.net(image), mask) for image, mask in batches)[None])
    first, *epochs = module.found  # the first is Lightning's sanity check, of fewer batches
    assert len(epochs) == 2 and not torch.equal(first, epochs[0])
    assert all(torch.equal(values, metrics.iou(counts, reduction="none")) for values in epochs)
    assert float(trainer.callback_metrics["train_iou_epoch"]) == pytest.approx(float(metrics.iou(counts)))
    assert float(trainer.callback_metrics["val_iou_0"]) == pytest.approx(float(epochs[0][0]))


def test_torchmetrics_collections_take_only_their_own():
    """Duck typing ends here; a `Tally` computes several from one count."""
    with pytest.raises(ValueError, match="not an instance"):
        torchmetrics.MetricCollection({"iou": IoU(K)})
