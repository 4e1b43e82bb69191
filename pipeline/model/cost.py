"""Cost of a network: parameters, multiplications and memory, found on torch's meta device without computation."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model.networks import Network
from pipeline.model.outputs import Outputs
from pipeline.model.tracing import Sources, tensors

_MOMENTS: Final = 2  # that AdamW keeps of each weight


@dataclass(frozen=True)
class Node:
    """A step of the network: a stage of the encoder, or a module of the decoder."""

    name: str
    channels: int
    stride: float
    """Pixels of the input per pixel; below 1 if there are more."""
    height: int
    width: int
    sources: tuple[str, ...]
    """Names of the nodes that it takes in."""


@dataclass(frozen=True)
class Cost:
    """Cost of one size and batch."""

    nodes: tuple[Node, ...]
    """In the order in which they are computed; the encoder's stages are named encoder.0, ..."""
    parameters: dict[str, int]
    """Of the encoder, decoder, head, and of the heads that only help to learn."""
    flops: int
    """Of one forward pass in evaluation, two for each multiplication with addition."""
    inference_bytes: int
    """Estimate of the peak in evaluation, float32: weights and maps."""
    training_bytes: int
    """Estimate of the peak of a training step, float32: weights, gradients, AdamW's moments and maps."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def measure(network: Network, size: tuple[int, int], batch: int = 1) -> Cost:
    """Cost of a network for images of `size` (height, width); it may be on the meta device or not.

    What convolution libraries take as scratch space is not in the estimates.

    Raises:
        NotImplementedError, RuntimeError: an encoder asks for values of tensors, which there are none of.
    """
    drawn = copy.deepcopy(network).to("meta")
    image = torch.empty(batch, network.bands, *size, device="meta")
    weights = sum(t.numel() * t.element_size() for t in (*drawn.parameters(), *drawn.buffers()))
    trained = sum(p.numel() * p.element_size() for p in drawn.parameters() if p.requires_grad)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        drawn.eval()(image)
    with _Peak() as inference, torch.no_grad():
        drawn.eval()(image)
    with _Peak() as training:
        _objective(drawn.train()(image)).backward()  # type: ignore[no-untyped-call]
    return Cost(
        nodes=tuple(_nodes(drawn.eval(), image)),  # last: it leaves hooks
        parameters=count(network),
        flops=counter.get_total_flops(),
        inference_bytes=weights + inference.peak,
        training_bytes=weights + _MOMENTS * trained + training.peak,
    )


def count(network: Network) -> dict[str, int]:
    """Number of weights of the parts of a network."""
    parts: dict[str, nn.Module] = {"encoder": network.encoder, "decoder": network.decoder, "head": network.head}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return sizes | {"helpers": sum(p.numel() for p in network.parameters()) - sum(sizes.values())}


def _objective(given: Tensor | Outputs) -> Tensor:
    """A cross-entropy, which takes about the memory that losses take."""
    outputs = given if isinstance(given, Outputs) else Outputs(given)
    logits = outputs.logits
    truth = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.long, device=logits.device)
    total = sum((F.cross_entropy(x, truth) for x in (logits, *outputs.auxiliary)), logits.new_zeros(()))
    return total if outputs.labels is None else total + outputs.labels.sum()


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of tensors that were made inside are alive, also while gradients are computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(t.untyped_storage()) for t in tensors((args, tuple((kwargs or {}).values())))}
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def _freed(self, size: int) -> None:
        self.alive -= size


def _nodes(network: Network, image: Tensor) -> list[Node]:
    """The stages of the encoder and the modules of the decoder, as one run shows them; the network is used up."""
    nodes: list[Node] = []
    width = image.shape[-1]

    def note(name: str, out: Tensor, sources: tuple[str, ...]) -> None:
        wide = width + (-width % network.multiple)
        nodes.append(Node(name, out.shape[1], wide / out.shape[3], out.shape[2], out.shape[3], sources))

    sources = Sources({})

    def enter(*_: Any) -> None:
        sources.inside += 1

    def leave(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        sources.inside -= 1
        if not sources.inside:
            before = sources.of((args, tuple(kwargs.values())))
            maps = [t for t in tensors(out) if t.ndim == 4]
            for number, map_ in enumerate(maps):
                own = name if len(maps) == 1 and name != "encoder" else f"{name}.{number}"
                note(own, map_, before)
                sources.learn(map_, (own,))

    parts = {"encoder": network.encoder, **_modules(network.decoder, "decoder"), "head": network.head}
    for name, module in parts.items():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(partial(leave, name), with_kwargs=True)
    with_tokens: Any = getattr(network.encoder, "forward_tokens", None)

    def watched(x: Tensor) -> Any:
        enter()
        both = with_tokens(x)
        leave("encoder", network.encoder, (x,), {}, both[0])
        return both

    network.encoder.forward_tokens = watched  # type: ignore[assignment]  # the other way into an encoder, where there are no hooks
    with torch.no_grad(), sources:
        network.logits(image)
    return nodes


def _modules(parent: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """The modules that a decoder consists of, lists opened, and those that do nothing left out."""
    found: dict[str, nn.Module] = {}
    for name, child in parent.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            found |= _modules(child, f"{prefix}.{name}")
        elif not isinstance(child, nn.Identity):
            found[f"{prefix}.{name}"] = child
    return found
