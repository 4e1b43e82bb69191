"""What a network is said to cost is what it costs."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model import cost
from tests.model.families import HELPED, network


def allocated(step):
    """The most bytes that torch's allocator gave out above what it had given before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    now = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(("kind", "encoder"), [("unet", "conv"), ("segformer", "from_stride_4"), ("dpt", "plain_vit")])
def test_memory_is_near_what_is_allocated(kind, encoder):
    net = network(kind, encoder, **HELPED)
    found = cost.measure(net, (128, 96), 2)
    image = torch.rand(2, 4, 128, 96)
    weights = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    moments = 2 * sum(p.numel() * p.element_size() for p in net.parameters())

    def inference():
        with torch.no_grad():
            net.eval()(image)

    assert found.inference_bytes == pytest.approx(weights + allocated(inference), rel=0.25)
    training = allocated(lambda: cost._objective(net.train()(image)).backward())
    assert found.training_bytes == pytest.approx(weights + moments + training, rel=0.25)


def test_flops_are_those_of_a_real_run():
    net = network("fpn").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(3, 4, 64, 96))
    assert cost.measure(net, (64, 96), 3).flops == counter.get_total_flops()


def test_every_weight_is_counted_once():
    net = network("unet", **HELPED)
    parts = cost.measure(net, (64, 64)).parameters
    assert sum(parts.values()) == sum(p.numel() for p in net.parameters())
    assert parts["head"] == 8 * 3 * 9 + 3
    assert parts["helpers"] > 0


def test_stages_know_what_they_are_made_of():
    nodes = {node.name: node for node in cost.measure(network("unet"), (64, 96)).nodes}
    assert list(nodes)[:5] == [f"encoder.{i}" for i in range(5)]
    assert list(nodes)[-1] == "head"
    block = nodes["decoder.blocks.1"]
    assert (block.channels, block.stride, block.height, block.width) == (16, 8, 8, 12)
    assert set(block.sources) == {"decoder.blocks.0", "encoder.2"}
    assert nodes["decoder.blocks.4"].sources == ("decoder.blocks.3",)  # no stage of the encoder is as large


def test_stages_of_an_encoder_that_gives_tokens_too():
    nodes = {node.name: node for node in cost.measure(network("dpt", "plain_vit"), (64, 64)).nodes}
    assert {name for node in nodes.values() for name in node.sources} >= {f"encoder.{i}" for i in range(4)}


def test_the_network_stays_as_it_is():
    net = network().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cost.measure(net, (64, 64))
    assert net.training
    assert net.mean.device.type == "cpu"
    assert not net.head._forward_hooks
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
