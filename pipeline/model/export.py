"""Export of a network to ONNX or torch's exported program.

The file takes raw pixels, float32 [N,C,H,W], of any batch, height and width, and gives logits, float32 [N,K,H,W]:
normalisation, padding and cropping are inside. BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from pipeline.errors import RecipeError
from pipeline.model.networks import Network
from pipeline.model.optimise import difference, fold

logger = logging.getLogger(__name__)

Format = Literal["onnx", "pt2"]
OPSET: Final = 18
"""Of ONNX; the first whose Resize has all that is needed here."""
TOLERANCE: Final = 1e-4
"""What the file may differ from the network by, relative to the largest logit."""
_NEEDS: Final = ("onnx", "onnxscript", "onnxruntime")


def export(
    network: Network,
    path: str | Path,
    format: Format | None = None,
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = True,
    verify: bool = True,
) -> None:
    """Write a network as ONNX (for ONNX Runtime, OpenVINO, TensorRT) or as torch.export's `pt2`.

    Args:
        network: in any mode; what is written is its evaluation.
        path: local file.
        format: by default from the ending of `path`.
        size: height and width to trace it with; the only ones that the file takes if not `dynamic`. By default five
            times what the network pads to.
        dynamic: take any batch, height and width; otherwise one image of `size`. Where a decoder pools its deepest map
            further (PAN), `pt2` refuses images whose deepest map has fewer than four pixels.
        verify: run the file, at other sizes and batches too if it is dynamic, and compare with the network.

    Raises:
        RecipeError: another format, packages are missing, the network cannot be exported, or the file does not compute
            what the network does.
    """
    path = Path(path)
    format = format or path.suffix.removeprefix(".")  # type: ignore[assignment]
    if format not in ("onnx", "pt2"):
        raise RecipeError(f"{path}: there is no format {format!r}", "name the file NAME.onnx or NAME.pt2")
    if format == "onnx":
        _need_onnx(_NEEDS if verify else _NEEDS[:2])
    height, width = size or (5 * network.multiple, 5 * network.multiple)
    plain = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    plain.auxiliary = plain.labels = None  # they only help to learn
    with torch.no_grad():
        folded = copy.deepcopy(plain)
        fold(folded)
        try:
            program = _program(folded, height, width, dynamic=dynamic)
            _WRITERS[format](program, path, network)
        except Exception as error:  # whatever the tracer stumbles over; its last word says most
            said = str(error).strip().splitlines() or [""]
            raise RecipeError(
                f"{_name(network)} cannot be exported to {format}: {type(error).__name__}: {said[0]}",
                "try dynamic=False, the other format, or another encoder",
            ) from error
        if verify:
            _verify(plain, _READERS[format](path), _images(network, height, width, dynamic=dynamic), path)


class AnySize(nn.Module):
    """A network whose padding and cropping are said without asking for sizes, so that they can be symbols."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """`image` [N,C,H,W] -> logits [N,K,H,W]."""
        x, multiple = image, self.network.multiple
        for dim in (2, 3):
            size = x.shape[dim]
            at = torch.arange(max((size + multiple - 1) // multiple, 2) * multiple, device=x.device)
            inside = (at < size).unsqueeze(1) if dim == 2 else at < size
            # The mean is what becomes zero.
            x = torch.where(inside, x.index_select(dim, at.clamp(max=size - 1)), self.network.mean)
        logits = self.network.logits(x)
        for dim in (2, 3):
            logits = logits.index_select(dim, torch.arange(image.shape[dim], device=x.device))
        return logits


def _program(network: Network, height: int, width: int, *, dynamic: bool) -> ExportedProgram:
    if not dynamic:
        return torch.export.export(network, (torch.rand(1, network.bands, height, width),))
    # Neither equal nor multiples of anything, so that nothing is taken for a rule.
    image = torch.rand(2, network.bands, height - 1, width + 1)
    # What encoders ask of sizes cannot always be proven for all of them; it is then asked again whenever the file runs.
    dims = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    return torch.export.export(AnySize(network), (image,), dynamic_shapes=(dims,))


def _write_onnx(program: ExportedProgram, path: Path, network: Network) -> None:
    written: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=["image"], output_names=["logits"], verbose=False
    )
    written.model.metadata_props.update(
        {"bands": str(network.bands), "classes": str(network.classes), "network": _name(network)}
    )
    written.save(str(path))


def _write_pt2(program: ExportedProgram, path: Path, network: Network) -> None:
    _without_ceil(program)
    torch.export.save(program, str(path), extra_files={"network": _name(network)})


def _without_ceil(program: ExportedProgram) -> None:
    """Write ceil(a / b) of sizes as -(-a // b): the file format has no ceil, which timm's `same` padding asks for."""
    graph = program.graph_module.graph

    def compute(function: Callable[..., Any], *args: Any) -> Any:
        made = graph.call_function(function, args)
        made.meta["val"] = function(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
        return made

    for node in graph.nodes:
        quotient = node.args[0] if node.target is math.ceil else None
        if isinstance(quotient, Node) and quotient.target is operator.truediv:
            with graph.inserting_before(node):
                negative = compute(operator.neg, quotient.args[0])
                rounded = compute(operator.neg, compute(operator.floordiv, negative, quotient.args[1]))
            node.replace_all_uses_with(rounded)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    session: Any = importlib.import_module("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _read_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(str(path)).module()


_WRITERS: Final = {"onnx": _write_onnx, "pt2": _write_pt2}
_READERS: Final = {"onnx": _read_onnx, "pt2": _read_pt2}


def _images(network: Network, height: int, width: int, *, dynamic: bool) -> Iterator[Tensor]:
    """Pixels to compare with, in the range that the statistics say."""
    draw = torch.Generator().manual_seed(0)
    mean, std = network.mean.cpu(), network.std.cpu()
    multiple = network.multiple
    others = [(3, 4 * multiple + 1, 5 * multiple), (1, 5 * multiple + 5, 6 * multiple - 1)] if dynamic else []
    for batch, h, w in [(1, height, width), *others]:
        yield torch.randn(batch, network.bands, h, w, generator=draw) * std + mean


def _verify(network: Network, run: Callable[[Tensor], Tensor], images: Iterator[Tensor], path: Path) -> None:
    for image in images:
        expected = network.logits(image)
        try:
            found = run(image)
        except Exception as error:
            raise RecipeError(
                f"{path} was written, but does not run on {tuple(image.shape)}: {str(error).splitlines()[0]}",
                "try dynamic=False, or the other format",
            ) from error
        if found.shape != expected.shape or difference(found, expected) > TOLERANCE:
            what = (
                f"its logits differ by {difference(found, expected):.1e} of their scale"
                if found.shape == expected.shape
                else f"it gives {tuple(found.shape)} instead of {tuple(expected.shape)}"
            )
            raise RecipeError(f"{path} was written, but {what}", "do not use it; try dynamic=False or the other format")
    logger.info("%s gives what the network gives, within %.0e of the scale of its logits", path, TOLERANCE)


def _need_onnx(names: tuple[str, ...]) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"ONNX needs {', '.join(missing)}, not installed here", "pip install 'segpipe[onnx]'")


def _name(network: Network) -> str:
    encoder = getattr(network.section, "encoder", "")
    return f"{network.section.kind} on {encoder}" if encoder else str(network.section.kind)  # type: ignore[attr-defined]
