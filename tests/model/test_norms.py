"""Normalisation: by groups, none, and BatchNorm over the batches of all workers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.model.encoders.encoder import Encoder

PARTS = [3, 1]  # workers may have unequal batches


def encoder():
    torch.manual_seed(0)
    return Encoder("mobilenetv3_small_050", bands=2, depth=3).train()


def images():
    return torch.randn(sum(PARTS), 2, 32, 48, generator=torch.Generator().manual_seed(1)) * 3 + 5


def test_synchronised_moments_are_those_of_the_whole_batch(tmp_path):
    alone = encoder()
    expected = alone(images())[-1]
    expected.square().sum().backward()
    mp.spawn(worker, (str(tmp_path),), nprocs=len(PARTS))
    out, grads, states = zip(*(torch.load(tmp_path / f"{r}.pt") for r in range(len(PARTS))), strict=True)
    torch.testing.assert_close(torch.cat(out), expected.detach(), rtol=1e-4, atol=1e-5)
    largest = max(float(p.grad.abs().max()) for p in alone.parameters())
    for name, parameter in alone.named_parameters():
        total = sum(g[name] for g in grads)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-3, atol=1e-6 * largest)
    for name, value in alone.state_dict().items():
        assert all(torch.equal(s[name], states[0][name]) for s in states)
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(PARTS))
    network = norms.synchronise(encoder())
    out = network(images().split(PARTS)[rank])[-1]
    out.square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    torch.save((out.detach(), grads, network.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0"])  # the second with an activation inside its norms
def test_alone_a_synchronised_network_computes_what_it_did(name):
    plain = Encoder(name, depth=2)
    other = norms.synchronise(copy.deepcopy(plain))
    assert list(other.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 3, 32, 32)
    for mode in (True, False):
        torch.testing.assert_close(other.train(mode)(image)[-1], plain.train(mode)(image)[-1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0"])
def test_none_keeps_what_trained_moments_compute(name):
    plain = Encoder(name, depth=3)
    for _ in range(3):
        plain(torch.randn(4, 3, 32, 32))
    plain.eval()
    other = copy.deepcopy(plain)
    norms.replace(other, "none", name)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(image)[-1], plain(image)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (16, 1), (24, 3), (10, 5), (17, 17), (1, 1)])
def test_groups_divide_any_number_of_channels(channels, groups):
    layer = norms.group_norm(channels)
    assert layer.num_groups == groups
    assert layer(torch.randn(1, channels, 2, 2)).shape == (1, channels, 2, 2)


def test_a_batch_norm_over_vectors_cannot_be_replaced():
    with pytest.raises(RecipeError, match=r"'group' cannot replace the BatchNorm1d in mine"):
        norms.replace(nn.Sequential(nn.BatchNorm1d(3)), "group", "mine")
