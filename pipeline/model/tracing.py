"""Trace a run: which functions of torch read a tensor, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor
from torch.overrides import TorchFunctionMode

# They look at a tensor's outside only.
_LOOKS: Final = frozenset({"__get__", "size", "dim", "numel", "stride", "is_contiguous"})


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in lists and tuples of any depth."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)


class Readers(TorchFunctionMode):
    """Counts how often each tensor is read by a function of torch.

    It keeps what it counts: a tensor that took the place of another would be taken for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _LOOKS:
            found = list(tensors((args, tuple(kwargs.values()))))
            self.counts.update(map(id, found))
            self.kept += found
        return func(*args, **kwargs)


class Sources(TorchFunctionMode):
    """Follows which nodes a tensor was made from by functions between them."""

    def __init__(self, known: dict[int, tuple[str, ...]]) -> None:
        super().__init__()
        self.known, self.inside = known, 0
        self._kept: list[Tensor] = []  # a tensor that took the place of another would be taken for it

    def of(self, tree: Any) -> tuple[str, ...]:
        """Names of the nodes behind some tensors, in the order in which they come."""
        return tuple(dict.fromkeys(name for t in tensors(tree) for name in self.known.get(id(t), ())))

    def learn(self, tree: Any, names: tuple[str, ...]) -> None:
        """Tensors and the nodes that they come from."""
        for tensor in tensors(tree):
            self._kept.append(tensor)
            self.known[id(tensor)] = names

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.inside:
            self.learn(out, self.of((args, tuple(kwargs.values()))))
        return out
