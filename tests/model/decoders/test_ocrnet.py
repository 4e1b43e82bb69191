"""OCRNet: a coarse map, refined by what its classes look like."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.model.decoders.ocrnet import OCRNetDecoder, objects
from pipeline.recipe.networks import OCRNet
from tests.model.decoders.against import build, check_learns, check_sizes, close, features

SMALL = {"decoder_channels": 12, "key_channels": 8}


def test_equals_the_plain_way():
    """Pixel by pixel and class by class, as the paper's equations 1 to 3 say."""
    strides = (4, 8, 8)
    maps = features(strides, batch=2, cells=(3, 4))
    decoder = build(OCRNetDecoder, OCRNet(**SMALL), maps, strides).eval()
    out, (coarse,) = decoder.forward_all(maps)
    assert torch.equal(coarse, decoder.coarse(maps[1]))
    x, context = decoder.reduce(maps[2]), decoder.context
    query = context.query(x)
    seen = torch.zeros_like(query)
    for n in range(2):
        regions = []
        for k in range(3):
            share = coarse[n, k].exp() / coarse[n, k].exp().sum()
            regions.append(sum(share[i, j] * x[n, :, i, j] for i in range(3) for j in range(4)))
        grid = torch.stack(regions, 1)[None, :, :, None]
        key, value = context.key(grid)[0, :, :, 0], context.value(grid)[0, :, :, 0]
        for i in range(3):
            for j in range(4):
                alike = torch.stack([(query[n, :, i, j] * key[:, k]).sum() / math.sqrt(8) for k in range(3)])
                relation = alike.exp() / alike.exp().sum()
                seen[n, :, i, j] = sum(relation[k] * value[:, k] for k in range(3))
    conv, norm, act = context.fuse
    expected = act(norm(torch.conv2d(torch.cat([context.out(seen), x], 1), conv.weight)))
    close(out, expected)


def test_eval_gives_the_same_map_without_the_coarse_logits():
    maps = features((8, 8))
    decoder = build(OCRNetDecoder, OCRNet(**SMALL), maps, (8, 8)).eval()
    assert torch.equal(decoder(maps), decoder.forward_all(maps)[0])


@pytest.mark.parametrize(("strides", "position"), [((4, 8, 8), -2), ((4, 8, 16), -1), ((8,), -1)])
def test_where_the_coarse_head_looks(strides, position):
    decoder = build(OCRNetDecoder, OCRNet(**SMALL), features(strides), strides)
    assert decoder.at == position
    assert decoder.auxiliary_weights == (0.4,)


def test_one_class_makes_two_objects():
    x, coarse = torch.randn(1, 5, 2, 3), torch.randn(1, 1, 2, 3)
    both = objects(x, coarse)
    assert tuple(both.shape) == (1, 5, 2, 1)
    weights = coarse.flatten().softmax(0), (-coarse).flatten().softmax(0)
    for k, weight in enumerate(weights):
        close(both[0, :, k, 0], x[0].flatten(1) @ weight)


def test_sizes():
    check_sizes(OCRNetDecoder, OCRNet(**SMALL))


@pytest.mark.parametrize("strides", [(2, 4, 8, 8), (16,) * 4, (4, 8)])
def test_learns_from_one_small_image(strides):
    check_learns(OCRNetDecoder, lambda norm: OCRNet(norm=norm, **SMALL), strides)
