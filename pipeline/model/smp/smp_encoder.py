"""SMP's encoders, feature by feature and weight by weight, on timm's models."""

from __future__ import annotations

import difflib
import functools
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.encoders import feature_plan, gradient_checkpointing
from pipeline.model.encoders.deferred_init import Drawing, ShapeOnlyInit
from pipeline.model.encoders.encoder import Encoder
from pipeline.model.smp.encoder_names import smp_key
from pipeline.model.smp.encoder_taps import ENCODERS, Source, dilate
from pipeline.recipe import networks as recipe

DEEPEST: Final = 5
_TIMM: Final = "tu-"
# Layers behind the last feature that SMP keeps though nothing uses them.
_BEHIND: Final = re.compile(r"(_conv_head|_bn1|_fc|conv_head|bn2|classifier|last_linear|fc|head)\..*")


def build(section: recipe.Encoded, bands: int) -> SMPEncoder | TimmEncoder:
    """The encoder that SMP means by the name in a section: one of its own, or timm's behind `tu-`.

    It keeps its own normalisation: `norm` is of the decoder, as in SMP.

    Raises:
        RecipeError: SMP has no such encoder or cannot use it so; pretrained weights are wanted.
    """
    if section.pretrained:
        raise RecipeError(
            "model.pretrained: a network of compat=smp gets its weights from a checkpoint of SMP",
            "use pipeline.from_smp, or set model.compat=null for timm's weights",
        )
    name = current_name(section.encoder)
    options: dict[str, Any] = {
        "bands": bands,
        "depth": section.depth,
        "output_stride": section.output_stride,
        "drop_path": section.drop_path,
        "freeze": section.freeze,
        "checkpointing": section.checkpointing,
    }
    if name.startswith(_TIMM):
        flat = isinstance(section, recipe.DPT)
        return TimmEncoder(name, flat=flat, image_size=section.image_size, **options)
    if isinstance(section, recipe.DPT):
        raise RecipeError(f"model.encoder: SMP's DPT takes timm's models only, not {name}", "they begin with tu-")
    return SMPEncoder(name, **options)


def current_name(name: str) -> str:
    """The name that SMP 0.6 gives to an encoder: what older versions called `timm-` is `tu-` unless it is its own."""
    if not name.startswith("timm-") or name in ENCODERS:
        return name
    model = name.removeprefix("timm-")
    return _TIMM + ("tf_" if model.startswith("mobilenetv3") else "") + model


class SMPEncoder(nn.Module):
    """One of the 76 encoders of segmentation_models_pytorch 0.6: the same function with the same weights.

    Attributes:
        name: SMP's name.
        bands: channels of the input.
        channels, strides: of each feature, shallowest first. SMP's empty features, and its features at stride 1, which
            no decoder takes, are left out.
        stages: number of features.
        multiple: heights and widths must be multiples of this.
        num_prefix_tokens: 0.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        name: str,
        *,
        bands: int = 3,
        depth: int | None = None,
        output_stride: int | None = None,
        drop_path: float = 0.0,
        freeze: int = 0,
        checkpointing: bool = False,
    ) -> None:
        """Build it with random weights.

        Args:
            name: as SMP spells it, such as `resnet34` or `timm-efficientnet-b0`.
            bands: channels of the input.
            depth: number of halvings, as SMP counts them: 3 ends at stride 8.
            output_stride: keep the deepest stages at this stride by dilation, in SMP's way.
            drop_path: stochastic depth, where the model has it.
            freeze: number of stages, shallowest first, that do not learn and stay in evaluation mode.
            checkpointing: compute activations twice instead of keeping them.

        Raises:
            RecipeError: SMP has no such encoder, no such stage, or refuses to dilate it.
        """
        super().__init__()
        source = _source(name)
        count = _count(source, name, depth)
        limit = min(output_stride or 2**DEEPEST, source.strides[count - 1])
        if limit < source.strides[count - 1] and not source.dilates:
            raise RecipeError(f"model.output_stride: SMP cannot dilate {name}", "choose another encoder")
        with Drawing() as drawing:
            stages = source.cut(_create(source, name, bands, drop_path), source)
            drawing.finish(nn.ModuleList(module for stage in stages[:count] for module in stage.values()))
        for stride, stage in zip(source.strides, stages[:count], strict=False):
            if stride > limit:
                dilate(stage, stride // limit)
        self.steps = nn.ModuleList(_sequence(stage) for stage in stages[:count])
        self._paths = {path.replace(".", "_"): path for stage in stages for path in stage}
        self._rectified, self._frozen = source.rectified, freeze
        self.name, self.bands, self.stages = name, bands, count
        self.channels, self.multiple = source.channels[:count], limit
        self.strides = tuple(min(stride, limit) for stride in source.strides[:count])
        deeper = nn.ModuleList(_sequence(stage) for stage in stages[count:])
        self._deeper = frozenset(self.smp_key_of(f"steps.{key}") for key in deeper.state_dict())
        self.steps[:freeze].requires_grad_(False)
        if checkpointing:
            gradient_checkpointing.install(self)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` [N,C,H,W], shallowest first, each [N,channels,H/stride,W/stride]."""
        features = []
        for step in self.steps:
            x = step(x)
            features.append(F.relu(x) if self._rectified else x)
        return features

    def forward_tokens(self, x: Tensor) -> tuple[list[Tensor], None]:
        """The features, and that there are no prefix tokens."""
        return self(x), None

    def train(self, mode: bool = True) -> SMPEncoder:
        """As for every module, but frozen stages stay in evaluation mode."""
        super().train(mode)
        self.steps[: self._frozen].eval()
        return self

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """Our keys of the state dict -> SMP's, of those that are among `keys` (without `encoder.`)."""
        given = set(keys)
        names = {key: self.smp_key_of(key) for key in self.state_dict()}
        return {ours: theirs for ours, theirs in names.items() if theirs in given}

    def is_unused(self, key: str) -> bool:
        """Whether SMP's encoder has this tensor (without `encoder.`) and no feature depends on it."""
        return key in self._deeper or _BEHIND.fullmatch(key) is not None

    def smp_key_of(self, key: str) -> str:
        """SMP's name (without `encoder.`) of one of our tensors."""
        _, _, child, rest = key.split(".", 3)
        return smp_key(self.name, f"{self._paths[child]}.{rest}")


class TimmEncoder(Encoder):
    """SMP's `tu-NAME`: timm's model NAME, without a feature at stride 1 if it has one."""

    def __init__(
        self,
        name: str,
        *,
        bands: int = 3,
        depth: int | None = None,
        output_stride: int | None = None,
        flat: bool = False,
        **options: Any,
    ) -> None:
        """Build it with random weights.

        Args:
            name: `tu-` and a timm model.
            bands: channels of the input.
            depth: number of halvings, as SMP counts them; of the blocks of a tower, with `flat`.
            output_stride: keep the deepest stages at this stride by dilation, in timm's way.
            flat: the blocks of a tower at its own stride, which only DPT takes.
            options: `image_size`, `drop_path`, `freeze`, `checkpointing`, as of `Encoder`.

        Raises:
            RecipeError: there is no such model, no such depth, or SMP cannot use the model so.
        """
        model = name.removeprefix(_TIMM)
        known = feature_plan.plan(feature_plan.Request(model, bands, flat=flat))
        if known.kind == "flat" and not flat:
            raise RecipeError(
                f"model.encoder: {name} has blocks at one stride only, which SMP gives to DPT alone",
                "no checkpoint of another architecture can be from there; set model.compat=null for a new network",
            )
        first = known.strides.count(1)
        if not flat:
            depth = sum(stride <= 2 ** (depth or DEEPEST) for stride in known.strides)
        super().__init__(model, bands=bands, depth=depth, output_stride=output_stride, flat=flat, **options)
        self.name, self._first = name, first
        self.channels, self.strides = self.channels[first:], self.strides[first:]
        self.stages = len(self.strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` [N,C,H,W], shallowest first, each exactly [N,channels,H/stride,W/stride]."""
        return super().forward(x)[self._first :]

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """Our keys of the state dict -> SMP's, of those that are among `keys` (without `encoder.`)."""
        given = {_plain(key): key for key in keys}
        return {ours: given[_plain(ours)] for ours in self.state_dict() if _plain(ours) in given}

    def smp_key_of(self, key: str) -> str:
        """SMP's name (without `encoder.`) of one of our tensors."""
        return f"model.{_plain(key)}"

    def is_unused(self, key: str) -> bool:
        """Whether timm's whole model has this tensor, though no feature depends on it."""
        return _plain(key) in _whole(self.name.removeprefix(_TIMM))


def _plain(key: str) -> str:
    """Wrappers put `model.` before a key, and timm writes `stages_0` where it cuts a model into features."""
    return re.sub(r"^(model\.)+", "", key).replace("_", ".")


@functools.lru_cache(maxsize=8)
def _whole(model: str) -> frozenset[str]:
    with torch.device("meta"), ShapeOnlyInit():
        return frozenset(_plain(key) for key in timm.create_model(model).state_dict())


def _sequence(stage: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((path.replace(".", "_"), module) for path, module in stage.items()))


def _source(name: str) -> Source:
    if name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, 3, 0.6)
        hint = f"timm's are {_TIMM}{name}" if timm.is_model(name.partition(".")[0]) else ""
        hint = f"did you mean {' or '.join(near)}?" if near else hint
        raise RecipeError(f"model.encoder: SMP has no encoder {name!r}", hint)
    return ENCODERS[name]


def _count(source: Source, name: str, depth: int | None) -> int:
    """Features down to a stride of 2**depth."""
    depth = depth or DEEPEST
    count = sum(stride <= 1 << depth for stride in source.strides)
    if count == 0 or depth > DEEPEST:
        least = source.strides[0].bit_length() - 1
        raise RecipeError(f"model.depth: {name} cannot have a depth of {depth}", f"use {least} to {DEEPEST}")
    return count


def _create(source: Source, name: str, bands: int, drop_path: float) -> nn.Module:
    options = {**source.options, **({"drop_path_rate": drop_path} if drop_path else {})}
    try:
        model: nn.Module = timm.create_model(source.model, in_chans=bands, num_classes=0, **options)
    except TypeError as error:
        if not drop_path:
            raise
        raise RecipeError(f"model.drop_path: {name} has no stochastic depth", "set model.drop_path=0") from error
    return model
