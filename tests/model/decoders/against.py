"""What the tests of decoders share: SMP's decoders to compare with, and features of every kind of encoder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, get_args

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from pipeline.model.heads import segmentation_head
from pipeline.recipe.networks import Norm

NORMS = get_args(Norm)
# A common encoder, one that begins at 4, at 8, at 16, dilated ones, a plain transformer, and hardly an encoder.
PATTERNS = [(2, 4, 8, 16, 32), (4, 8, 16, 32), (8, 16, 32), (16, 32, 64), (2, 4, 8, 8, 8), (4, 8, 16, 16), (16,) * 4]
PATTERNS += [(2, 4), (2,), (32,)]


def features(strides: Sequence[int], *, batch: int = 1, cells: tuple[int, int] = (2, 3)) -> list[Tensor]:
    """One map of each stride, of widths 6, 7, 8...; the deepest is `cells` large."""
    made = torch.Generator().manual_seed(0)
    height, width = (n * strides[-1] for n in cells)
    return [torch.randn(batch, 6 + i, height // s, width // s, generator=made) for i, s in enumerate(strides)]


def build(
    decoder: Callable[..., Any], section: Any, maps: Sequence[Tensor], strides: Sequence[int], **more: Any
) -> Any:
    """A decoder for maps of these strides."""
    torch.manual_seed(0)
    return decoder([m.shape[1] for m in maps], strides, section, 3, **more)


def check_sizes(decoder: Callable[..., Any], section: Any) -> None:
    """The map that comes out is as large as it says, for every pattern of strides."""
    for strides in PATTERNS:
        maps = features(strides)
        made = build(decoder, section, maps, strides).eval()
        multiple = max(strides[-1], getattr(made, "multiple", 1))
        if multiple > strides[-1]:
            times = multiple // strides[-1]
            maps = features(strides, cells=(2 * times, 3 * times))
        out = made(maps)
        height, width = (n * multiple // made.stride for n in (2, 3))
        assert tuple(out.shape) == (1, made.channels, height, width), strides


def check_learns(
    decoder: Callable[..., Any], section: Callable[..., Any], strides: Sequence[int], cells=(2, 2)
) -> None:
    """Every norm learns from one image whose deepest map is 2×2: a finite gradient for every parameter and feature."""
    for norm in NORMS:
        maps = [m.requires_grad_() for m in features(strides, cells=cells)]
        made = build(decoder, section(norm=norm), maps, strides).train()
        head = made.make_head(3) if hasattr(made, "make_head") else segmentation_head(made.channels, 3, 0.1)
        if made.auxiliary_weights:
            out, auxiliary = made.forward_all(maps)
            assert len(auxiliary) == len(made.auxiliary_weights)
            loss = head(out).square().mean() + sum(a.square().mean() for a in auxiliary)
        else:
            loss = head(made(maps)).square().mean()
        loss.backward()
        for name, parameter in (*made.named_parameters(), *head.named_parameters()):
            assert parameter.grad is not None, (norm, name)
            assert parameter.grad.isfinite().all(), (norm, name)
        assert maps[-1].grad is not None, norm


def check_equals_smp(
    decoder: Callable[..., Any],
    names: Sequence[tuple[str, str]],
    section: Any,
    architecture: str,
    *,
    encoder: str = "resnet18",
    size: tuple[int, int] = (64, 96),
    train: bool = False,
    **options: Any,
) -> None:
    """The same map as SMP's decoder, and the same gradients of the features, from the same features and weights.

    In double precision: in single, rounding decides on which side of zero some pixel before a rectifier lies.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(smp, architecture)(encoder, encoder_weights=None, **options).double()
    move(theirs.decoder)
    with torch.no_grad():
        image, *maps = theirs.encoder.eval()(torch.randn(2, 3, *size).double())
    real = [m for m in maps if m.shape[1]]
    strides = [size[0] // m.shape[-2] for m in real]
    ours = decoder([m.shape[1] for m in real], strides, section, 3).double()
    ours.load_state_dict(renamed(theirs.decoder.state_dict(), names))
    for made in (theirs.decoder, ours):
        made.train(train)
        for module in made.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.eval()
    given, own = ([m.clone().requires_grad_() for m in ms] for ms in (maps, real))
    expected, out = theirs.decoder([image, *given]), ours(own)
    close(out, expected)
    weights = torch.randn_like(expected)
    for each in (expected, out):
        (each * weights).sum().backward()
    for ours_grad, theirs_grad in zip((m.grad for m in own), (m.grad for m in given if m.shape[1]), strict=True):
        assert (ours_grad is None) == (theirs_grad is None)
        if ours_grad is not None:
            assert theirs_grad is not None
            close(ours_grad, theirs_grad)
    with torch.no_grad():  # where a norm may be part of its convolution
        close(ours(real), expected)


def close(out: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal, but for `tolerance` of the largest value."""
    assert out.shape == expected.shape
    assert (out - expected).abs().max() <= tolerance * expected.abs().max()


def move(module: nn.Module) -> nn.Module:
    """Take every weight and every running moment away from where it begins."""
    made = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=made) + 0.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=made))
    return module


def renamed(state: dict[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """SMP's tensors under our names; the first pattern that matches a name as a whole counts."""
    found = {}
    for key, tensor in state.items():
        match, replacement = next((m, new) for old, new in names if (m := re.fullmatch(old, key)))
        found[match.expand(replacement)] = tensor
    return found
