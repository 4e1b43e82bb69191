"""A network in other people's loops: a bare one, Lightning's, Ray Train's."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pipeline.model.outputs import Outputs
from tests.model.families import HELPED, network, pixels


def batches():
    return TensorDataset(pixels(4, 4, 64, 64), torch.randint(0, 3, (4, 64, 64)))


def test_a_bare_loop_learns():
    torch.manual_seed(0)
    net = network("unet", norm="group").train()
    assert isinstance(net, nn.Module)
    assert all(isinstance(part, nn.Module) for part in (net.encoder, net.decoder, net.head))
    groups = [
        {"params": net.encoder.parameters(), "lr": 1e-3},
        {"params": [*net.decoder.parameters(), *net.head.parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    image, mask = pixels(1, 4, 64, 64), (pixels(1, 4, 64, 64)[:, 0] > 100).long()
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_copy_is_a_network_of_its_own():
    net = network().eval()
    other = copy.deepcopy(net)
    other.head[1].bias.data += 1
    image = pixels(1, 4, 32, 32)
    torch.testing.assert_close(other(image), net(image) + 1)


@pytest.mark.parametrize("options", [{}, HELPED])
def test_lightning_trains_it(options, tmp_path):
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(**options)

        def training_step(self, batch, index):
            image, mask = batch
            given = self.network(image)
            outputs = given if isinstance(given, Outputs) else Outputs(given)
            return sum(F.cross_entropy(logits, mask) for logits in (outputs.logits, *outputs.auxiliary))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    task = Task()
    before = copy.deepcopy(task.network.state_dict())
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(task, DataLoader(batches(), batch_size=2))
    assert trainer.global_step == 2
    assert not torch.equal(task.network.head[1].weight, before["head.1.weight"])
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=False)["state_dict"]
    plain = {key.removeprefix("network."): value for key, value in saved.items()}
    assert network(**options).load_state_dict(plain).missing_keys == []


RAY = """
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from tests.model.families import network, pixels

def train():
    net = prepare_model(network().train())
    for _ in range(2):
        net(pixels(1, 4, 64, 64)).square().mean().backward()
    inside = getattr(net, "module", net)
    print("gradients", all(p.grad is not None for p in inside.parameters()))

TorchTrainer(train, scaling_config=ScalingConfig(num_workers=0)).fit()  # in this process, without a cluster
"""


def test_ray_train_prepares_it():
    done = subprocess.run([sys.executable, "-c", RAY], capture_output=True, text=True, timeout=240)
    assert "gradients True" in done.stdout, done.stderr[-2000:]
