"""Plan how a timm model gives features at powers of two, found on torch's meta device without computation."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import timm
import torch
from torch import nn

from pipeline.errors import RecipeError
from pipeline.model.encoders import dilation, measure, pyramid
from pipeline.model.encoders.deferred_init import ShapeOnlyInit

Kind = Literal["conv", "hierarchical", "flat"]
Size = tuple[int, int]
OUTPUT_STRIDES: Final = (8, 16, 32)
_MOST_STAGES: Final = 5  # by default; one more where the first is as large as the image
_FEWEST_STRIDES: Final = 3  # a model with fewer is a tower
_LEVELS: Final = 4  # of a tower's pyramid


@dataclass(frozen=True)
class Request:
    """Arguments of `Encoder` that the shape of a model depends on."""

    name: str
    bands: int = 3
    depth: int | None = None
    flat: bool = False
    output_stride: int | None = None
    image_size: Size | None = None
    drop_path: float = 0.0


@dataclass(frozen=True)
class FeaturePlan:
    """How to build a model, and its features."""

    kind: Kind
    """Stages that begin at stride 1 or 2; that begin later; or a tower of blocks at one stride or two."""
    options: Mapping[str, Any]
    """Arguments of timm.create_model in addition to the name."""
    taps: tuple[measure.Tap, ...]
    """The outputs of the timm model."""
    levels: tuple[pyramid.PyramidLevel, ...] = ()
    """The pyramid over them; none: the taps are the features."""
    multiple: int = 1
    size: Size | None = None
    """The one image size that the model takes: every image is resized to it."""
    scale: Size = (1, 1)
    """(p, q): each q pixels of the image are made p, so that patches of p pixels lie q apart."""
    changes: Mapping[str, dilation.Change] = field(default_factory=dict)
    """Layers that are replaced."""
    reached: tuple[frozenset[str], ...] = ()
    """Names of the parameters that the first 1, 2, ... features depend on."""
    nested: bool = True
    """The deepest feature depends on all of them; in HRNet, whose stages have heads of their own, it does not."""
    prefix_tokens: int = 0
    parameters: int = 0
    """Number of the weights used, those of the pyramid not counted."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each feature, shallowest first."""
        return tuple(x.channels for x in self.levels or self.taps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each feature."""
        return tuple(x.stride for x in self.levels or self.taps)


@functools.lru_cache(maxsize=256)
def plan(request: Request) -> FeaturePlan:
    """Draw the model without weights, run it on an image without pixels, and see.

    Raises:
        RecipeError: an unknown name, a depth, output stride or number of bands that the model does not give, or a model
            that gives no features at all.
    """
    _check(request)
    try:
        return _find(request)
    except measure.NotHeldError as error:
        others = (replace(request, output_stride=s) for s in OUTPUT_STRIDES if s != request.output_stride)
        given = [other.output_stride for other in others if possible(other)]
        raise RecipeError(
            f"model.output_stride: {request.name} cannot be held at stride {request.output_stride}",
            f"it gives {' or '.join(map(str, given))}" if given else "leave it out",
        ) from error


def possible(request: Request) -> bool:
    """True if the model gives features so."""
    try:
        _find(request)
    except (RecipeError, measure.NotHeldError):
        return False
    return True


def description(name: str) -> dict[str, Any]:
    """timm's description of a model: image size, names of the first convolution and the classifier."""
    config = timm.get_pretrained_cfg(name)
    return {} if config is None else dict(config.to_dict())


def draw(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """timm's model as a list of features, without what lies behind the last of them."""
    model: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    # timm's EfficientNet and MobileNet keep and compute the blocks behind the last stage used.
    used = getattr(model, "_stage_out_idx", None)
    blocks = getattr(model, "blocks", None)
    if isinstance(used, dict) and isinstance(blocks, nn.Sequential):
        model.blocks = blocks[: max(used)]
    return model


def _check(request: Request) -> None:
    name = request.name
    if request.bands < 1:
        raise RecipeError(f"an encoder of {request.bands} bands", "an image has at least 1")
    if request.depth is not None and request.depth < 1:
        raise RecipeError(f"model.depth: {request.depth} stages", "use 1 or more")
    if request.output_stride not in (None, *OUTPUT_STRIDES):
        raise RecipeError(f"model.output_stride: {request.output_stride}", "use 8, 16 or 32")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or any(c in name for c in "/\\:"):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3, 0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them all"
        raise RecipeError(f"model.encoder: timm has no model {name!r}", hint)
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")] if tag else []
    if tag and tag not in tags:
        raise RecipeError(
            f"model.encoder: {architecture} has no weights {tag!r}", f"it has {', '.join(tags) or 'none'}"
        )


def _find(request: Request) -> FeaturePlan:
    # Drawing must not advance the random numbers that the real weights are drawn from.
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.device("meta"), ShapeOnlyInit():
        problems: list[Exception] = []
        for extra, size in _ways(request):
            try:
                return _probe(request, extra, size)
            except (RecipeError, measure.NotHeldError):
                raise
            except Exception as error:  # whatever a foreign model raises: if nothing works, the error below says so
                problems.append(error)
    if request.drop_path and any("drop_path" in str(error) for error in problems):
        raise RecipeError(f"model.drop_path: {request.name} has no stochastic depth", "set model.drop_path=0")
    said = f"{type(problems[-1]).__name__}: {problems[-1]}".splitlines()[0]
    raise RecipeError(
        f"model.encoder: {request.name} gives no features ({said})",
        "choose another, such as resnet34, convnext_tiny or vit_small_patch16_224",
    ) from problems[-1]


def _ways(request: Request) -> Iterator[tuple[dict[str, Any], Size | None]]:
    """(options, the one size or None) to try in turn: images of every size, of the size wanted, of the model's."""
    built = {"img_size": request.image_size}
    if not description(request.name).get("fixed_input_size"):
        yield {}, None
    else:
        yield {"dynamic_img_size": True}, None
        yield {"strict_img_size": False}, None
        if request.image_size:
            yield built, None  # windows of a share of that size
        yield {}, None
    if request.image_size:
        yield built, request.image_size
    yield {}, _made_for(request)


def _made_for(request: Request) -> Size:
    _, height, width = description(request.name).get("input_size") or (3, 224, 224)
    return height, width


def _probe(request: Request, extra: dict[str, Any], size: Size | None) -> FeaturePlan:
    options: dict[str, Any] = {"in_chans": request.bands, **extra}
    if request.drop_path:
        options["drop_path_rate"] = request.drop_path
    model: Any = draw(request.name, options)
    # Models that have no output at the first stride say so with an empty name.
    given = {i: output["reduction"] for i, output in enumerate(model.feature_info.info) if output["module"]}
    kind, scale, taps = _layout(request, given)
    indices = tuple(tap.index for tap in taps)
    if indices != tuple(model.feature_info.out_indices):
        options["out_indices"] = indices
        model = draw(request.name, options)
    image = measure.Image(request.bands, size, (1, 1) if size else scale)
    limit = request.output_stride
    if limit and kind != "flat" and taps[-1].stride > limit:
        measured, options, changes = _held(request, kind, options, model, image, taps)
    else:
        measured, changes = _measured(request, kind, model, image, taps)
    levels: tuple[pyramid.PyramidLevel, ...] = ()
    if kind == "flat" and not request.flat:
        levels = pyramid.levels([(t.channels, t.stride) for t in measured.taps], request.depth or _LEVELS, limit)
    return FeaturePlan(
        kind,
        options,
        measured.taps,
        levels,
        multiple=max(measured.multiple, *(level.stride for level in levels)) if levels else measured.multiple,
        size=image.size,
        scale=image.scale,
        changes=changes,
        reached=measured.reached,
        nested=measured.nested,
        prefix_tokens=measure.prefix_tokens(model) if kind == "flat" and request.flat else 0,
        parameters=measured.parameters,
    )


def _layout(request: Request, given: Mapping[int, int]) -> tuple[Kind, Size, tuple[measure.Tap, ...]]:
    """timm's outputs to use (number -> stride): the last at each stride, or of a constant stride some, evenly."""
    scale = _scale(list(given.values()))
    taps = [measure.Tap(i, 1 << round(math.log2(r * scale[1] / scale[0]))) for i, r in given.items()]
    last = {tap.stride: tap for tap in taps}
    kind: Kind
    if len(last) < _FEWEST_STRIDES:
        kind, most, count = "flat", len(taps) if request.flat else _LEVELS, request.depth or _LEVELS
        chosen = [taps[i] for i in sorted({max(0, len(taps) * (i + 1) // count - 1) for i in range(count)})]
    else:
        kind, most = "conv" if min(last) <= 2 else "hierarchical", len(last)
        count = request.depth or min(most, _MOST_STAGES + (1 in last))
        chosen = list(last.values())[:count]
    if count > most:
        raise RecipeError(f"model.depth: {request.name} has {most} stages, not {count}", f"use 1 to {most}")
    return kind, scale, tuple(chosen)


def _scale(strides: Sequence[int]) -> Size:
    """(p, q) so that pixels p/q as small make powers of two of strides such as 14, or 7 and 14."""
    nearest = 1 << round(math.log2(strides[0]))
    whole = all(r * nearest % strides[0] == 0 for r in strides)
    if not whole or any((r * nearest // strides[0]).bit_count() > 1 for r in strides):
        return (1, 1)
    divisor = math.gcd(strides[0], nearest)
    return strides[0] // divisor, nearest // divisor


def _measured(
    request: Request, kind: Kind, model: nn.Module, image: measure.Image, taps: tuple[measure.Tap, ...]
) -> tuple[measure.Measured, dict[str, dilation.Change]]:
    """Features of the model as it is; padded at the edges where that makes their sizes exact."""
    deepest = taps[-1].stride
    if image.size:
        return measure.run(model, image, taps, deepest), {}
    multiples = [deepest, 2 * deepest]
    if kind != "flat":
        # Attention in windows wants whole windows, and the size that the model is made for is a number of them.
        windows = math.lcm(deepest, *(request.image_size or _made_for(request)))
        multiples = [1 << i for i in range(9) if deepest <= 1 << i] + [windows]
    as_is = measure.first(model, image, taps, dict.fromkeys(multiples))
    if as_is.exact or taps[0].stride > 2:
        return as_is.measured(), {}
    changes = dilation.padded(model)
    dilation.apply(model, changes)
    padded = measure.first(model, image, taps, [deepest, 2 * deepest])
    if padded.exact:
        return padded.measured(), changes
    rough = as_is.measured()
    return replace(rough, multiple=2 * rough.multiple), {}  # smaller images might not fill the unpadded layers


_Found = tuple[measure.Measured, dict[str, Any], dict[str, dilation.Change]]


def _held(
    request: Request,
    kind: Kind,
    options: dict[str, Any],
    model: nn.Module,
    image: measure.Image,
    taps: tuple[measure.Tap, ...],
) -> _Found:
    """Features no coarser than the output stride, by timm's own option or else by changing layers."""
    limit = request.output_stride or taps[-1].stride
    wanted = tuple(replace(tap, stride=min(tap.stride, limit)) for tap in taps)
    multiples = [limit << i for i in range(3)]

    def by_timm() -> _Found:
        own = {**options, "output_stride": limit}
        return measure.first(draw(request.name, own), image, wanted, multiples).measured(), own, {}

    def by_layers() -> _Found:
        before, padded = _measured(request, kind, model, image, taps)  # it must work as it is, and may need padding
        # Layers behind features that are fine enough stay, such as those that shrink the keys of attention.
        fine = [names for tap, names in zip(taps, before.reached, strict=True) if tap.stride <= limit]
        held = dilation.held(model, image.of(4 * taps[-1].stride), limit, fine[-1] if fine else frozenset())
        dilation.apply(model, held)
        return measure.first(model, image, wanted, multiples).measured(), options, padded | held

    for way in (by_timm, by_layers):
        try:
            found = way()
        except Exception:  # whatever a foreign model raises when it cannot do it
            continue
        if found[0].exact:
            return found
    raise measure.NotHeldError
