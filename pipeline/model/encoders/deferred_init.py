"""Build models quickly: random initialisation is deferred, done once by all processors, and skipped on meta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Of torch.Tensor and of torch.nn.init alike.
_RANDOM: Final = frozenset({"uniform_", "normal_", "kaiming_uniform_"})
_FILLS: Final = _RANDOM | {"zero_", "fill_", "constant_"}
_ARITHMETIC: Final = frozenset({"add_", "sub_", "mul_", "div_", "clamp_", "erfinv_"})
# What looks at a tensor from outside: building calls these all the time.
_HARMLESS: Final = frozenset({"__get__", "__set__", "_set_grad_enabled", "dim", "size", "numel", "is_contiguous"})
_LARGE: Final = 1 << 14  # elements that are worth a thread
_SKETCHED: Final = frozenset({"batch_norm", "layer_norm", "group_norm", "linear"})
_Call = tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]


class Drawing(TorchFunctionMode):
    """While it is active, initialising a whole tensor waits until something needs its values.

    torch's layers initialise themselves; most models then do so again in their own way, or take their weights from a
    file. Drawing each weight twice, on one processor, is most of the time that building a model takes. Here a draw is
    dropped when the next thing that happens to the tensor is another one, and the rest is done at the end on as many
    processors as torch may use, each tensor with its own seed. Equal seeds give equal weights, however many
    processors, though not those that timm alone would draw.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, list[_Call]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _HARMLESS:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            target = _target(name, args, kwargs)
            if target is not None:
                place = _place(target)
                if name in _FILLS:
                    self._waiting[place] = [(func, args, kwargs)]
                    return target
                if place in self._waiting:
                    self._waiting[place].append((func, args, kwargs))
                    return target
            if name == "copy_" and _whole(args[0]):
                self._waiting.pop(_place(args[0]), None)
            self._settle(_tensors((*args, *kwargs.values())))
        return func(*args, **kwargs)

    def finish(self, module: nn.Module) -> None:
        """Draw what `module` still waits for; what was built and thrown away needs no values."""
        with torch._C.DisableTorchFunction():
            self._settle((*module.parameters(), *module.buffers()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._waiting.clear()

    def _settle(self, tensors: Iterable[Tensor]) -> None:
        large = []
        for tensor in tensors:
            calls = self._waiting.pop(_place(tensor), None)
            if not calls or tensor.is_meta:
                continue
            _seed(calls, tensor.device)
            if tensor.numel() < _LARGE or torch.get_num_threads() == 1:
                _run(calls)
            else:
                large.append(calls)
        if large:
            with ThreadPoolExecutor(min(len(large), torch.get_num_threads())) as pool:
                list(pool.map(_run, large))


class ShapeOnlyInit(TorchFunctionMode):
    """While it is active, tensors of the meta device are not initialised, and running a model on them is quick.

    They have no values; what counts are shapes and what depends on what. torch works those out for normalisations and
    linear layers by going through all of their arithmetic, which takes longer than everything else together.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _SKETCHED and args and args[0].is_meta:
            with torch._C.DisableTorchFunction():
                shape = list(args[0].shape)
                if name == "linear":
                    shape[-1] = (args[1] if len(args) > 1 else kwargs["weight"]).shape[0]
                return _Dependent.apply(shape, *args, *kwargs.values())
        target = _target(name, args, kwargs)
        return func(*args, **kwargs) if target is None or not target.is_meta else target


class _Dependent(torch.autograd.Function):
    """A tensor of some shape that depends on those given, and on no more."""

    @staticmethod
    def forward(ctx: Any, shape: Sequence[int], x: Tensor, *others: Any) -> Tensor:
        return x.new_empty(shape)


def _target(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that a call initialises with plain numbers, as a whole; None for any other call."""
    if name not in _FILLS and name not in _ARITHMETIC:
        return None
    target, *others = (*args, *kwargs.values())
    plain = _whole(target) and not any(isinstance(x, (Tensor, torch.Generator)) for x in others)
    return target if plain else None


def _whole(target: Any) -> bool:
    """It is all there is in its memory."""
    return (
        isinstance(target, Tensor)
        and target.layout == torch.strided
        and target.numel() * target.element_size() == target.untyped_storage().nbytes()
    )


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _place(tensor: Tensor) -> int:
    """Equal for tensors that share memory, as long as one of them lives."""
    return int(tensor.untyped_storage()._cdata)


def _seed(calls: list[_Call], device: torch.device) -> None:
    """The first call is the fill; if random, it gets a generator of its own."""
    func, _, kwargs = calls[0]
    if func.__name__ in _RANDOM:
        seed = int(torch.randint(2**62, (), device="cpu"))
        kwargs["generator"] = torch.Generator(device).manual_seed(seed)


def _run(calls: list[_Call]) -> None:
    with torch.no_grad():
        for func, args, kwargs in calls:
            func(*args, **kwargs)
