"""FCN: convolutions on the deepest stage."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.decoders.fcn import FCNDecoder
from pipeline.recipe.networks import FCN
from tests.model.decoders.against import build, check_learns, check_sizes, close, features


@pytest.mark.parametrize(("num_convs", "concat_input"), [(1, False), (2, True), (3, True)])
def test_equals_the_plain_way(num_convs, concat_input):
    maps = features((4, 8), batch=2, cells=(5, 7))
    section = FCN(decoder_channels=10, num_convs=num_convs, concat_input=concat_input)
    decoder = build(FCNDecoder, section, maps, (4, 8)).train()
    weights = [p for name, p in decoder.named_parameters() if p.ndim == 4]
    assert len(weights) == num_convs + concat_input
    x = maps[-1]
    for i, weight in enumerate(weights):
        last = concat_input and i == num_convs
        x = F.conv2d(torch.cat([maps[-1], x], 1) if last else x, weight, padding=1)
        x = F.relu(F.batch_norm(x, None, None, training=True))
    close(decoder(maps), x)


def test_sizes():
    check_sizes(FCNDecoder, FCN(decoder_channels=8))


def test_learns_from_one_small_image():
    check_learns(FCNDecoder, lambda norm: FCN(norm=norm, decoder_channels=8), (2, 4, 8, 8))
