"""Optimise a network for prediction: fold BatchNorm, choose precision and memory layout.

Three steps, none of which needs training:

1. BatchNorm behind a convolution becomes part of its weights (Jacob et al. 2018, section 3.2). Which belong together is
   seen in a run, not guessed from names, so it holds for any encoder; each pair is checked by its numbers.
2. The kernels of joins (`JoinConv`) are made once instead of at every call.
3. Memory layout is chosen by rule, precision by a short measurement on the very processor.

Pixels are normalised in float32, and logits are float32 from the head on.
"""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.model.decoders.blocks import JoinConv, double, doubling_kernel
from pipeline.model.networks import Network
from pipeline.model.tracing import Readers

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
TOLERANCE: Final = 1e-4
"""What folding may change, relative to the largest value."""
_MEASURED_SIDE: Final = 256
_MEASURED_TIMES: Final = 3
_TOO_SLOW_SECONDS: Final = 2.0
"""A first pass that takes longer is the measurement."""
_WORTH: Final = 0.9
"""Half precision must take less than this share of the time of float32."""
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def optimised(network: Network, *, precision: Precision = "auto") -> Optimised:
    """A copy of a network for prediction on the device that it is on; the network itself is not changed.

    The copy takes and gives what the network does in eval mode. It cannot be trained: its norms are gone.

    Args:
        network: in any mode; the copy is in eval mode.
        precision: `auto` is the faster of `fp32` and `bf16` on this processor, by a measurement of this network that
            takes about a second; on GPUs `bf16` since Ampere and `fp16` on older ones. Half precision moves logits by
            some percent of their scale, which changes the class of few pixels.

    Raises:
        RecipeError: an unknown precision.
    """
    if precision not in ("auto", *_DTYPES):
        raise RecipeError(f"precision: there is no {precision!r}", f"use auto, {', '.join(_DTYPES)}")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(network).eval().requires_grad_(False)
        copied.auxiliary = copied.labels = None  # they only help to learn
        fold(copied)
    layout = layout_of(copied)
    chosen = faster_precision(copied, layout) if precision == "auto" else precision
    return Optimised(copied, _DTYPES[chosen], layout)


def faster_precision(network: Network, layout: torch.memory_format) -> Literal["fp32", "bf16", "fp16"]:
    """The precision in which a folded network predicts fastest on its device.

    That a processor has instructions for bfloat16 does not decide: on some that have AVX512-BF16 and no AMX it is the
    slower one. Where there are none, it is not tried.
    """
    device = network.mean.device
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    can: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.11
    if device.type != "cpu" or not any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return "fp32"
    seconds = {
        name: _seconds(Optimised(copy.deepcopy(network), dtype, layout))
        for name, dtype in _DTYPES.items()
        if name != "fp16"
    }
    return "bf16" if seconds["bf16"] < _WORTH * seconds["fp32"] else "fp32"


@torch.inference_mode()
def _seconds(network: Network) -> float:
    """Shortest time of a forward pass of one chip, after one that pays for what happens once."""
    side = -(-_MEASURED_SIDE // network.multiple) * network.multiple
    image = torch.zeros(1, network.bands, side, side) + network.mean
    taken = []
    for _ in range(1 + _MEASURED_TIMES):
        begin = time.perf_counter()
        network(image)
        taken.append(time.perf_counter() - begin)
        if taken[0] > _TOO_SLOW_SECONDS:
            return taken[0]
    return min(taken[1:])


def layout_of(network: nn.Module) -> torch.memory_format:
    """channels_last where there are convolutions over neighbours of many channels at once.

    They are several times faster so, on processors and GPUs; 1×1 and depthwise convolutions and attention are not,
    and pay for the change between layouts.
    """
    weights = Counter[bool]()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | Join):
            for weight in module.parameters(recurse=False):
                dense = weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[-1] > 1
                weights[dense] += weight.numel()
        elif isinstance(module, nn.Linear):
            weights[False] += module.weight.numel()
    return torch.channels_last if weights[True] > weights[False] else torch.contiguous_format


class Optimised(Network):
    """A network that only predicts, in a precision and memory layout of its own; pixels come in and logits go out as
    before."""

    def __init__(self, network: Network, dtype: torch.dtype, layout: torch.memory_format) -> None:
        """Take over the parts of a network, which are changed."""
        nn.Module.__init__(self)
        self.__dict__.update(network.__dict__)
        self.dtype, self.layout = dtype, layout
        for part in (self.encoder, self.decoder, self.head):
            part.to(dtype).to(memory_format=layout)

    def train(self, mode: bool = True) -> Optimised:
        """Refused: with its norms folded it would learn something else.

        Raises:
            RecipeError: `mode` is true.
        """
        if mode:
            raise RecipeError("an optimised network does not learn", "train the network that it was made from")
        super().train(mode)
        return self

    def _encode(self, x: Tensor) -> tuple[Any, ...]:
        return super()._encode(x.to(dtype=self.dtype, memory_format=self.layout))

    def _whole(self, logits: Tensor, size: Sequence[int], image: Tensor) -> Tensor:
        return super()._whole(logits.float(), size, image)


@torch.no_grad()
def fold(network: Network) -> int:
    """Fold BatchNorms into convolutions and prepare joins, in place; returns the number of norms that went.

    A norm stays where the fold would not compute the same: behind something else than a convolution, behind one whose
    result has other readers, or whose weights are recomputed at each call (standardised, spectral).
    """
    image = _example(network)
    before = network.logits(image)
    untouched = copy.deepcopy(network)
    seen = _watch(network, image)
    gone = {conv for conv, norm in seen.pairs() if _fold_pair(network, seen, conv, norm)}
    for name, widths in seen.joins.items():
        siblings = network.get_submodule(name.rpartition(".")[0]).children()
        if not any(isinstance(module, nn.BatchNorm2d) for module in siblings):  # which `ConvBlock` would fold itself
            join = network.get_submodule(name)
            network.set_submodule(name, Join(join, widths))  # type: ignore[arg-type]
    change = difference(network.logits(image), before)
    if change > TOLERANCE:
        logger.warning("folding changes the logits by %.1e of their scale: the network stays as it is", change)
        for name in ("encoder", "decoder", "head"):
            setattr(network, name, getattr(untouched, name))
        return 0
    return len(gone)


class Join(nn.Module):
    """A `JoinConv` of known skips whose kernels are made once."""

    def __init__(self, join: JoinConv, widths: Sequence[int]) -> None:
        """`widths` of the skips, in their order."""
        super().__init__()
        first, *rest = torch.split(join.weight.detach(), [join.inputs, *widths], 1)
        self.nearest = join.interpolation == "nearest"
        self.first = nn.Parameter(doubling_kernel(first) if self.nearest else first.clone(), requires_grad=False)
        self.rest = nn.ParameterList(nn.Parameter(w.clone(), requires_grad=False) for w in rest)
        self.bias = join.bias

    def forward(self, x: Tensor, *skips: Tensor, attention: None = None) -> Tensor:
        """As `JoinConv`; `attention` is always None."""
        if self.nearest:
            out = F.conv_transpose2d(x, self.first, self.bias, stride=2, padding=1)
        else:
            out = F.conv2d(double(x, "bilinear"), self.first, self.bias, padding=1)
        for skip, weight in zip(skips, self.rest, strict=True):
            out = out.add_(F.conv2d(skip, weight, None, padding=1))
        return out


def _example(network: Network) -> Tensor:
    """Pixels as common as the statistics say, of a small and uneven size."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(2, network.bands, 2 * network.multiple, 3 * network.multiple, generator=draw)
    return noise.to(network.mean.device) * network.std + network.mean


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value of `b`."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


@dataclass
class _Seen:
    """Observations of one run. Tensors are kept, so that no id is used twice."""

    inputs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    """Convolution -> what it was called with last."""
    results: list[tuple[str, Tensor]] = field(default_factory=list)
    """Convolution, what it gave."""
    normed: list[tuple[str, Tensor]] = field(default_factory=list)
    """Norm, what it was given."""
    expected: dict[str, Tensor] = field(default_factory=dict)
    """Norm -> what it gave last."""
    joins: dict[str, list[int]] = field(default_factory=dict)
    """Join that the fast way can take -> widths of its skips."""
    readers: Counter[int] = field(default_factory=Counter)

    def pairs(self) -> list[tuple[str, str]]:
        """Convolution and the norm behind it, where neither ever works with anyone else."""
        givers = {id(result): conv for conv, result in self.results}
        norms: dict[str, set[str]] = {conv: set() for conv, _ in self.results}
        convs: dict[str, set[str]] = {norm: set() for norm, _ in self.normed}
        for conv, result in self.results:
            if self.readers[id(result)] != 1:
                norms[conv].add("")
        for norm, given in self.normed:
            giver = givers.get(id(given), "")
            convs[norm].add(giver)
            norms.setdefault(giver, set()).add(norm)
        return [
            (conv, norm)
            for norm, before in convs.items()
            for conv in before
            if conv and len(before) == 1 and norms[conv] == {norm}
        ]


def _watch(network: Network, image: Tensor) -> _Seen:
    seen = _Seen()
    readers = Readers()
    seen.readers = readers.counts
    with _hooks(network, seen), readers:
        network.logits(image)
    return seen


@contextmanager
def _hooks(network: Network, seen: _Seen) -> Iterator[None]:
    def convolved(name: str, module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        seen.inputs[name] = (tuple(arg.clone() for arg in args), kwargs)  # what comes later may work in place
        seen.results.append((name, out))
        seen.readers[id(out)] = 0  # what it has read itself, in making it
        if isinstance(module, JoinConv) and kwargs.get("attention") is None:
            seen.joins[name] = [skip.shape[1] for skip in args[1:]]

    def normed(name: str, module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        seen.normed.append((name, args[0]))
        seen.expected[name] = out.clone()

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            hook = functools.partial(convolved, name)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_var is not None:
            hook = functools.partial(normed, name)
        else:
            continue
        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fold_pair(network: Network, seen: _Seen, conv_name: str, norm_name: str) -> bool:
    """Fold one norm, if the pair then computes what it did."""
    conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
    folded = _folded(conv, norm)  # type: ignore[arg-type]
    if folded is None:
        return False
    tail = nn.Sequential(*(m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if m is not None))
    args, kwargs = seen.inputs[conv_name]
    if difference(tail(folded(*args, **kwargs)), seen.expected[norm_name]) > TOLERANCE:
        return False
    network.set_submodule(conv_name, folded)
    network.set_submodule(norm_name, tail if len(tail) else nn.Identity())
    return True


def _folded(conv: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, norm: nn.BatchNorm2d) -> nn.Module | None:
    """A copy of the convolution that does the norm's work too."""
    if isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1:
        return None
    # In float64, where nothing is lost that float32 could show.
    bias = None if conv.bias is None else conv.bias.double()
    axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    weight, offset = norms.folded(conv.weight.double(), bias, norm, axis=axis)
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    new.bias = nn.Parameter(offset.to(conv.weight.dtype), requires_grad=False)
    return new
