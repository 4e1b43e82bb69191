"""The U-Net of 2015, with an encoder of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.model.decoders.unet2015 import UNet2015Decoder, UNet2015Encoder
from pipeline.model.networks import create_model
from pipeline.recipe.networks import UNet2015
from tests.model.decoders.against import NORMS, close, move


def parts(**options):
    torch.manual_seed(0)
    section = UNet2015(**{"widths": [4, 6, 8], **options})
    encoder = UNet2015Encoder(section, 2)
    return encoder, UNet2015Decoder(encoder.channels, encoder.strides, section, 3)


def test_it_is_that_of_the_paper():
    """Figure 1 of Ronneberger et al. 2015, counted by hand; without norms, convolutions have a bias."""
    network = create_model("unet2015", bands=1, classes=2, norm="none")
    down = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024)]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    threes = sum(9 * i * o + o for i, o in [*down, (1024, 1024), *up])
    doublings = sum(4 * i * i // 2 + i // 2 for i in (1024, 512, 256, 128))
    assert sum(p.numel() for p in network.parameters()) == threes + doublings + 64 * 2 + 2
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23
    assert network.encoder.channels == (64, 128, 256, 512, 1024)
    assert network.encoder.strides == (1, 2, 4, 8, 16)
    assert network.encoder.multiple == 16


@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
def test_it_computes_what_the_paper_draws(upsampling):
    encoder, decoder = (move(part).eval() for part in parts(upsampling=upsampling))

    def twice(pair, x):
        for conv, norm, act in pair:
            x = act(norm(F.conv2d(x, conv.weight, padding=1)))
        return x

    def up(made, x):
        if upsampling == "transposed":
            return F.conv_transpose2d(x, made.weight, made.bias, stride=2)
        return F.conv2d(F.interpolate(x, scale_factor=2, mode=upsampling), made.weight, made.bias, padding=1)

    image = torch.randn(2, 2, 12, 16)
    first = twice(encoder.levels[0], image)
    second = twice(encoder.levels[1], F.max_pool2d(first, 2))
    third = twice(encoder.levels[2], F.max_pool2d(second, 2))
    x = twice(decoder.blocks[0], torch.cat([second, up(decoder.ups[0], third)], 1))
    x = twice(decoder.blocks[1], torch.cat([first, up(decoder.ups[1], x)], 1))
    close(decoder(encoder(image)), x)


def test_dropout_ends_the_contracting_path():
    encoder, _ = parts(bottleneck_dropout=0.5, norm="none")
    image = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        *shallow, deep = encoder.train()(image)
        *also, other = encoder(image)
        assert all(torch.equal(a, b) for a, b in zip(shallow, also, strict=True))
        assert not torch.equal(deep, other)
        assert torch.equal(encoder.eval()(image)[-1], encoder(image)[-1])


@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
def test_learns_from_one_small_image(upsampling):
    for norm in NORMS:
        for part in (network := nn.Sequential(*parts(norm=norm, upsampling=upsampling, activation="mish"))).train():
            assert list(part.parameters())
        network(torch.randn(1, 2, 8, 8)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()), norm
