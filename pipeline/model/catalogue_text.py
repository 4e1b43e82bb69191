"""The catalogue as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.model.catalogue import Listing, Model, Overview, Shown
from pipeline.model.cost import Node

_BAR: Final = 24


def overview(catalogue: Overview) -> str:
    """The architectures in a line each, the number of encoders, and what to type next."""
    width = max(map(len, catalogue.architectures))
    lines = [f"{name:<{width}}  {text}" for name, text in catalogue.architectures.items()]
    lines += [
        "",
        f"on {catalogue.encoders} of timm's {catalogue.looked_at} models; with any number of bands, on images of "
        "any size.",
        "",
        "next: segpipe models list --encoder 'convnext*' --max-params 30e6     encoders, and what takes them",
        "      segpipe models list --architecture dpt                           what one architecture takes",
        "      segpipe models show unet resnet34 --size 512                     stages, weights, FLOPs, memory",
    ]
    return "\n".join(lines)


def listing(found: Listing) -> str:
    """A table of encoders and, below, why some do not fit."""
    whole = any(model.whole for model in found.models)
    head = ("encoder", "kind", "Mparams", "strides", "channels", "fits")
    rows = [
        (
            model.name,
            model.kind or "-",
            f"{model.parameters / 1e6:.1f}" if model.parameters else "-",
            ",".join(map(str, model.strides)) or "-",
            ",".join(map(str, model.channels)) or "-",
            _fits(model, found.architectures),
        )
        for model in found.models
    ]
    lines = [*_table(head, rows, right={2}), ""]
    counted = f"Mparams are those of the whole {found.architectures[0]}" if whole else "Mparams are the encoder's"
    lines.append(f"{len(rows)} encoder{'s' * (len(rows) != 1)}. {counted}.")
    if any(not model.any_size for model in found.models):
        lines.append("resized: made for one image size; each image is resized to it inside the encoder.")
    if found.not_looked_at:
        lines.append(f"{found.not_looked_at} more are newer than the table: narrow the pattern to see them.")
    lines += _notes(found)
    return "\n".join(lines)


def _notes(found: Listing) -> list[str]:
    """Why some do not fit, each reason once."""
    who: dict[str, list[str]] = {}
    for model in found.models:
        for architecture, why in model.refused.items():
            who.setdefault(why if why == model.problem else f"{architecture}: {why}", []).append(model.name)
        if model.problem and not model.refused:
            who.setdefault(model.problem, []).append(model.name)
        if model.undilated:
            who.setdefault(f"cannot be dilated, stays coarse in {', '.join(model.undilated)}", []).append(model.name)
    lines = []
    for why, names in who.items():
        names = list(dict.fromkeys(names))
        some = ", ".join(names) if len(names) < len(found.models) or len(names) == 1 else "all of them"
        lines.append(f"- {some}: {why}")
    return lines


def _fits(model: Model, asked: Sequence[str]) -> str:
    size = "" if model.any_size else " (resized)"
    if model.problem:
        return "nothing"
    if not asked:
        return "yes" + size
    taken = [name for name in asked if name not in model.refused]
    if not taken:
        return "no"
    if len(asked) == 1:
        return "yes" + size
    if len(taken) == len(asked):
        return f"all {len(asked)}{size}"
    left = [name for name in asked if name in model.refused]
    return f"all but {', '.join(left)}{size}" if len(left) <= len(taken) else f"{', '.join(taken)}{size}"


def show(shown: Shown) -> str:
    """Stages with bars as long as their maps are large, and what they cost."""
    cost = shown.cost
    head = ("", "channels", "stride", "map", "")
    largest = max(_area(node) for node in cost.nodes)
    rows = [
        (
            node.name,
            str(node.channels),
            f"{node.stride:g}",
            f"{node.height}×{node.width}",
            "█" * max(1, round(_BAR * (_area(node) / largest) ** 0.5)) + _joins(node),
        )
        for node in cost.nodes
    ]
    parts = {part: number for part, number in cost.parameters.items() if number}
    total = sum(parts.values())
    of_parts = ", ".join(f"{part} {number / 1e6:.2f} M" for part, number in parts.items())
    return "\n".join(
        [
            shown.title,
            "",
            *_table(head, rows, right={1, 2, 3}),
            "",
            f"weights         {total / 1e6:.2f} M ({of_parts})",
            f"forward pass    {cost.flops / 1e9:.1f} GFLOP (two for each multiplication with addition)",
            f"memory          {_bytes(cost.inference_bytes)} for inference",
            f"                {_bytes(cost.training_bytes)} for a training step with AdamW",
            "                (estimates for float32, without the scratch space of convolution libraries)",
        ]
    )


def _area(node: Node) -> int:
    return node.channels * node.height * node.width


def _joins(node: Node) -> str:
    """Inputs of a node other than the node before it."""
    own = [source.removeprefix("encoder.") for source in node.sources if source.startswith("encoder.")]
    return f" ← {', '.join(own)}" if own else ""


def _bytes(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: set[int]) -> list[str]:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
