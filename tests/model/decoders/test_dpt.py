"""DPT: blocks of a transformer, reassembled at growing strides and fused."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.decoders.dpt import SMP_HEAD_NAMES, SMP_NAMES, DPTDecoder
from pipeline.recipe.networks import DPT
from tests.model.decoders.against import build, check_learns, check_sizes, close, features, move, renamed

SMALL = {"decoder_channels": 16, "intermediate_channels": [8, 12, 16, 16, 16]}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("encoder", "readout"),
    [
        ("tu-vit_tiny_patch16_224", "cat"),
        ("tu-vit_tiny_patch16_224", "ignore"),
        ("tu-vit_tiny_patch16_dinov3_qkvb", "add"),  # four register tokens beside the class's
        ("tu-resnet18", "ignore"),
    ],
)
def test_compat_equals_smp(encoder, readout, train):
    torch.manual_seed(0)
    options = {"decoder_fusion_channels": 16, "decoder_intermediate_channels": (8, 12, 16, 16)}
    theirs = smp.DPT(encoder, encoder_weights=None, classes=3, decoder_readout=readout, **options)
    for part in (theirs.decoder, theirs.segmentation_head):
        move(part).train(train)
    theirs.segmentation_head.head[3].eval()
    with torch.no_grad():
        given = theirs.encoder.eval()(torch.randn(2, 3, 224, 224))
    maps, tokens = given if isinstance(given, tuple) else (given, [None] * 4)
    strides = [224 // m.shape[-1] for m in maps]
    count = tokens[0].shape[1] if tokens[0] is not None else 0
    section = DPT(compat="smp", readout=readout, **SMALL)
    ours = build(DPTDecoder, section, maps, strides, prefix_tokens=count).train(train)
    head = ours.make_head(3).train(train)
    head[1].eval()
    ours.load_state_dict(renamed(theirs.decoder.state_dict(), SMP_NAMES))
    head.load_state_dict(renamed(theirs.segmentation_head.state_dict(), SMP_HEAD_NAMES))
    with torch.no_grad():
        expected = theirs.segmentation_head(theirs.decoder(maps, tokens))
        out = head(ours(maps, tokens) if count else ours(maps))
    # SMP's head doubles its logits, ours leaves that to the network.
    close(F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=True), expected)


def fake_transformer():
    """Four maps of a plain transformer on an image of 64×96, and its class and register tokens."""
    maps = [torch.randn(2, 12, 4, 6) for _ in range(4)]
    return maps, [torch.randn(2, 3, 12) for _ in range(4)]


def test_the_class_token_reaches_every_pixel():
    maps, tokens = fake_transformer()
    for readout, changes in (("cat", True), ("add", True), ("ignore", False)):
        decoder = build(DPTDecoder, DPT(readout=readout, **SMALL), maps, (16,) * 4, prefix_tokens=3).eval()
        assert decoder.wants_tokens == changes
        out = decoder(maps, tokens)
        assert tuple(out.shape) == (2, 16, 32, 48)
        others = [torch.cat([t[:, :1], torch.randn(2, 2, 12)], 1) for t in tokens]
        assert torch.equal(decoder(maps, others), out)  # registers say nothing of the image
        classes = [torch.cat([torch.randn(2, 1, 12), t[:, 1:]], 1) for t in tokens]
        assert ((decoder(maps, classes) != out).flatten(2).any(2).all()) == changes


def test_concatenated_readout_equals_the_plain_way():
    maps, tokens = fake_transformer()
    readout = build(DPTDecoder, DPT(**SMALL), maps, (16,) * 4, prefix_tokens=3).readouts[0]
    pixels = maps[0].flatten(2).transpose(1, 2)
    joined = torch.cat([pixels, tokens[0][:, :1].expand_as(pixels)], 2)
    close(readout(maps[0], tokens[0]), readout.project(joined).transpose(1, 2).view_as(maps[0]))


def test_without_tokens_there_is_no_readout():
    maps, _ = fake_transformer()
    decoder = build(DPTDecoder, DPT(**SMALL), maps, (16,) * 4)
    assert not decoder.wants_tokens
    assert decoder.readouts is None


def test_sizes():
    check_sizes(DPTDecoder, DPT(**SMALL))


@pytest.mark.parametrize(("strides", "cells"), [((4, 8, 16, 32), (2, 2)), ((16,) * 4, (4, 4)), ((2, 4, 8, 16), (4, 4))])
def test_learns_from_one_small_image(strides, cells):
    check_learns(DPTDecoder, lambda norm: DPT(norm=norm, **SMALL), strides, cells)


def test_every_readout_learns():
    maps, tokens = fake_transformer()
    for readout in ("cat", "add"):
        decoder = build(DPTDecoder, DPT(readout=readout, **SMALL), maps, (16,) * 4, prefix_tokens=3).train()
        decoder(maps, tokens).square().mean().backward()
        assert [name for name, p in decoder.named_parameters() if p.grad is None] == []


def test_too_few_widths_are_refused():
    strides = (2, 4, 8, 16, 32)
    with pytest.raises(RecipeError, match=r"4 widths for 5 stages\n  -> give 5 widths"):
        build(DPTDecoder, DPT(), features(strides), strides)
