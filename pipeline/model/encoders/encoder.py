"""Encoders: any timm model that gives features at growing strides. The only file that knows timm.

A model is first drawn on torch's meta device, which costs no memory and no arithmetic: that tells its stages, whether
it takes images of any size, and which of its parameters no feature depends on.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import logging
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.model.encoders import weights

logger = logging.getLogger(__name__)

DEFAULT_DEPTH = 5
# Models that are made for one image size take others with one of these; the first that works is used.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class Encoder(nn.Module):
    """The first `depth` stages of a timm model.

    Attributes:
        name: timm's name.
        bands: channels of the input.
        channels: width of each stage, shallowest first.
        strides: pixels of the input per pixel of each stage, powers of two, growing.
        stages: number of stages.
    """

    def __init__(
        self,
        name: str,
        *,
        bands: int = 3,
        pretrained: bool | str = False,
        depth: int | None = None,
        norm: Literal["batch", "group", "none"] = "batch",
    ) -> None:
        """Build it; `norm` replaces BatchNorm where the model has any (see `pipeline.model.norms.replace`).

        Models that come with another normalisation, such as ConvNeXt with LayerNorm, keep it: it does not depend on
        the batch either.

        Raises:
            RecipeError: an unknown name, a model without features at growing strides, more stages than it has, a model
                for one image size only, or weights that cannot be had or do not fit.
        """
        super().__init__()
        plan = _plan(name, bands, depth)
        self.name, self.bands = name, bands
        self.channels, self.strides, self.stages = plan.channels, plan.strides, len(plan.strides)
        self.model = _create(name, plan, pretrained=pretrained is True)
        self._channels_last_output = _channels_last_output(self.model)
        if isinstance(pretrained, str):
            weights.load(self.model, pretrained, _description(name), timm.models.adapt_input_conv)
        for key, parameter in self.model.named_parameters():
            if key in plan.unreached:
                parameter.requires_grad_(False)
        norms.replace(self.model, norm, name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` [N,C,H,W], shallowest first, each [N,channels,H/stride,W/stride]."""
        features: list[Tensor] = self.model(x)
        if self._channels_last_output:
            return [f.permute(0, 3, 1, 2) for f in features]
        return features


@dataclass(frozen=True)
class _Plan:
    """What the drawing on the meta device told."""

    options: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    unreached: frozenset[str]
    """Parameters that no feature depends on: without a gradient, which plain DDP does not forgive."""


@functools.lru_cache(maxsize=64)
def _plan(name: str, bands: int, depth: int | None) -> _Plan:
    _check_name(name)
    # Drawing must not advance the random numbers that the real weights are drawn from.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        info: Any = _draw(name, bands, {}).feature_info
        strides = [stage["reduction"] for stage in info.info]
        _check_stages(name, strides, depth)
        count = depth or min(len(strides), DEFAULT_DEPTH)
        options: dict[str, Any] = {"in_chans": bands, "out_indices": tuple(range(count))}
        return _probe(name, bands, tuple(strides[:count]), options)


def _probe(name: str, bands: int, strides: tuple[int, ...], options: dict[str, Any]) -> _Plan:
    """Run the drawing on an image that is neither square nor of the model's own size."""
    fixed = _description(name).get("fixed_input_size", False)
    problem: Exception | None = None
    for extra in _ANY_SIZE if fixed else ({},):
        try:
            model = _draw(name, bands, {**options, **extra}).eval()
            features = model(torch.zeros(1, bands, 2 * strides[-1], 3 * strides[-1]))
        except Exception as error:  # whatever a foreign model raises: the name is refused below, with its words
            if isinstance(error, RecipeError):
                raise
            problem = error
            continue
        axis = 3 if _channels_last_output(model) else 1
        names, parameters = zip(*(x for x in model.named_parameters() if x[1].requires_grad), strict=True)
        gradients = torch.autograd.grad(sum(f.sum() for f in features), parameters, allow_unused=True)
        unreached = frozenset(n for n, g in zip(names, gradients, strict=True) if g is None)
        channels = tuple(f.shape[axis] for f in features)
        return _Plan({**options, **extra}, channels, strides, unreached)
    raise RecipeError(
        f"model.encoder: {name} does not take images of every size ({type(problem).__name__}: {problem})",
        "choose an encoder without a fixed image size, such as resnet34, convnext_tiny or efficientnet_b0",
    ) from problem


def _description(name: str) -> dict[str, Any]:
    """What timm says of a model: image size, names of the first convolution and the classifier."""
    config = timm.get_pretrained_cfg(name)
    return {} if config is None else dict(config.to_dict())


def _draw(name: str, bands: int, options: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, features_only=True, **{"in_chans": bands, **options})
    except (RuntimeError, NotImplementedError, AttributeError, AssertionError, KeyError) as error:
        raise RecipeError(
            f"model.encoder: {name} gives no features ({error})", "choose a convolutional or hierarchical encoder"
        ) from error
    _trim(model)
    return model


def _create(name: str, plan: _Plan, *, pretrained: bool) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, **plan.options)
    except Exception as error:
        if not pretrained:
            raise
        # Hub, proxy, disk and missing weights each raise their own kind; what to do is the same.
        raise RecipeError(
            f"model.pretrained: the weights of {name} cannot be downloaded ({type(error).__name__}: {error})",
            "give the path of a local weight file, or set model.pretrained=false",
        ) from error
    _trim(model)
    return model


def _trim(model: nn.Module) -> None:
    """Drop the blocks behind the last stage used, which timm's EfficientNet and MobileNet keep and compute."""
    used = getattr(model, "_stage_out_idx", None)
    blocks = getattr(model, "blocks", None)
    if isinstance(used, dict) and isinstance(blocks, nn.Sequential):
        model.blocks = blocks[: max(used)]


def _channels_last_output(model: nn.Module) -> bool:
    return str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or any(c in name for c in "/\\:"):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3, 0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them all"
        raise RecipeError(f"model.encoder: timm has no model {name!r}", hint)
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise RecipeError(
            f"model.encoder: {architecture} has no weights {tag!r}", f"it has {', '.join(tags) or 'none'}"
        )


def _check_stages(name: str, strides: list[int], depth: int | None) -> None:
    if depth is not None and depth > len(strides):
        raise RecipeError(f"model.depth: {name} has {len(strides)} stages, not {depth}", f"use 1 to {len(strides)}")
    growing = all(a < b for a, b in itertools.pairwise(strides))
    if not growing or any(s & (s - 1) for s in strides):
        shown = ", ".join(map(str, strides))
        raise RecipeError(
            f"model.encoder: {name} gives no features at growing scales (strides {shown})",
            "choose an encoder whose stages halve the image, such as resnet34 or convnext_tiny",
        )
