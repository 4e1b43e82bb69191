"""SMP's networks with weights that hide nothing, to compare ours with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from pipeline.model.encoders.deferred_init import Drawing
from pipeline.model.networks import Network, build
from pipeline.model.smp import families, weights
from pipeline.model.smp.smp_encoder import build as build_encoder
from pipeline.recipe import networks as recipe

CLASSES = 3


def image(*shape: int) -> Tensor:
    """Normalised pixels, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def stir(module: nn.Module) -> None:
    """Let no scale be 1, no offset and no running mean 0."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.dtype.is_floating_point and tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=generator) - 0.5
            tensor.mul_(1 + noise / 8) if name.endswith("running_var") else tensor.add_(noise / 8)


@torch.no_grad()
def settle(encoder: nn.Module, x: Tensor) -> None:
    """Running moments of a batch, so that features are as large as after training and rounding stays small."""
    kept = {m: m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in kept:
        norm.momentum = 1.0
    encoder.train()(x)
    for norm, momentum in kept.items():
        norm.momentum = momentum
        # A channel that hardly changes in this batch would be blown up in another.
        norm.running_var.clamp_(min=float(norm.running_var.mean()) / 10)


def peer(
    architecture: str, encoder: str, *, shared: Callable[..., nn.Module] | None = None, **options: Any
) -> nn.Module:
    """SMP's network in evaluation mode, with random weights; `shared` is SMP's get_encoder, or takes its place."""
    home = "deeplabv3" if architecture == "deeplabv3plus" else architecture
    get_encoder = f"segmentation_models_pytorch.decoders.{home}.model.get_encoder"
    torch.manual_seed(0)
    with Drawing() as drawing:
        options = {"classes": CLASSES, "encoder_weights": None, **options}
        with mock.patch(get_encoder, shared) if shared else contextlib.nullcontext():
            model: nn.Module = smp.create_model(architecture, encoder, **options)
        drawing.finish(model)
    for name, part in model.named_children():
        if name != "encoder" or shared is None:
            stir(part)
    if architecture == "manet":  # the attention must not be all on one pair of pixels, as with random weights it is
        model.decoder.center.top_conv.weight.data.mul_(0.1)
    return model.eval()


class Peers:
    """SMP's networks and ours on one encoder, which is drawn once on either side."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        self._theirs: dict[tuple[int, int], nn.Module] = {}
        self._ours: dict[tuple[int | None, int | None], nn.Module] = {}

    def pair(self, architecture: str) -> tuple[nn.Module, Network]:
        """SMP's network and ours with its weights; whatever SMP raises where it does not take the encoder."""
        model = peer(architecture, self.encoder, shared=self._their_encoder)
        with mock.patch("pipeline.model.smp.smp_encoder.build", self._our_encoder):
            return model, ours(architecture, self.encoder, model.state_dict())

    def _their_encoder(self, name: str, depth: int = 5, output_stride: int = 32, **options: Any) -> nn.Module:
        key = (depth, output_stride)
        if key not in self._theirs:
            with Drawing() as drawing:
                made = smp.encoders.get_encoder(name, depth=depth, output_stride=output_stride)
                drawing.finish(made)
            # Each for itself: dilated, the same weights give other moments; and at the size that is compared.
            settle(made, image(8, 3, 64, 96))
            stir(made)
            self._theirs[key] = made.eval()
        return self._theirs[key]

    def _our_encoder(self, section: recipe.Encoded, bands: int) -> nn.Module:
        key = (section.depth, section.output_stride)
        if key not in self._ours:
            self._ours[key] = build_encoder(section, bands)
        return self._ours[key]


def ours(architecture: str, encoder: str, state: dict[str, Tensor], **options: Any) -> Network:
    """Our network with SMP's weights, in evaluation mode, without a bundle around it."""
    bands = options.pop("in_channels", 3)
    section = families.section(architecture, encoder, options, CLASSES)
    network = build(section, bands, CLASSES)
    weights.fill(network, state, architecture)
    return network.eval()


@torch.no_grad()
def difference(expected: nn.Module, found: nn.Module, x: Tensor) -> float:
    """Largest difference of logits over the largest logit; their shapes must be equal."""
    a, b = _logits(expected, x), found(x)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max() / a.abs().max())


@torch.no_grad()
def is_as_near_to_exact(expected: nn.Module, found: nn.Module, x: Tensor) -> bool:
    """Whether our logits are no farther from SMP's in float64 than three times SMP's own: then rounding is to blame."""
    a, b = _logits(expected, x), found(x)
    exact = _logits(expected.double(), x.double())
    expected.float()
    return float((b - exact).abs().max()) <= 3 * float((a - exact).abs().max())


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor | tuple[Tensor, ...] = model(x)
    return out[0] if isinstance(out, tuple) else out
