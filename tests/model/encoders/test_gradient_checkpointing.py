"""Gradient checkpointing: the same losses, gradients and moments, with less to remember."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from pipeline.model.encoders import gradient_checkpointing
from pipeline.model.encoders.encoder import Encoder


def step(encoder, x):
    """Loss, gradients, buffers and bytes kept of one step in training."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(f.square().mean() for f in encoder.train()(x))
    loss.backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}
    return loss.detach(), gradients, dict(encoder.named_buffers()), kept


# Residual blocks, DenseNet's growing lists, blocks behind hooks, none (VGG), transformers, stochastic depth.
NAMES = ["resnet10t", "densenet121", "test_efficientnet", "vgg11_bn", "test_vit", "convnext_atto", "test_mambaout"]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_same_to_the_last_bit(name):
    drop = 0.0 if name in ("densenet121", "vgg11_bn") else 0.2
    plain = Encoder(name, drop_path=drop)
    saving = Encoder(name, drop_path=drop, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 64, 64)
    expected, actual = step(plain, x), step(saving, x)
    for one, other in zip(expected[:3], actual[:3], strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert actual[3] < 0.7 * expected[3]


def test_evaluation_is_as_ever():
    encoder = Encoder("resnet10t", checkpointing=True)
    plain = Encoder("resnet10t")
    plain.load_state_dict(encoder.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for one, other in zip(encoder.eval()(x), plain.eval()(x), strict=True):
        assert torch.equal(one, other)


def test_copies_have_their_own_blocks():
    encoder = Encoder("resnet10t", checkpointing=True)
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        blocks = gradient_checkpointing.blocks(twin.model)
        assert blocks and all(block.forward.block is block for block in blocks)
        assert twin.state_dict().keys() == encoder.state_dict().keys()
