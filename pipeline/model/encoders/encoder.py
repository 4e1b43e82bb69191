"""Encoders: any timm model as a list of features whose sizes are exact fractions of the image's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.model.encoders import dilation, feature_plan, gradient_checkpointing, measure, pretrained_weights, pyramid
from pipeline.model.encoders.deferred_init import Drawing

logger = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A timm model that gives features at powers of two.

    Hierarchical models give their stages. Towers (ViT, mixers and other models with blocks at one stride) give four
    blocks at equal distances, made into a pyramid at strides 4, 8, 16, 32; patches of 14 or 7 pixels are laid 16 or 8
    apart by shrinking the image so much. Models that take one image size only get each image resized to it.

    Attributes:
        name: timm's name.
        bands: channels of the input.
        channels: width of each feature, shallowest first.
        strides: pixels of the input per pixel of each feature: powers of two, growing, but for `output_stride` and
            `flat`, where the last ones may be equal.
        stages: number of features.
        multiple: height and width of the input must be multiples of it.
        nested: whether the deepest feature depends on every parameter that any feature depends on.
        num_prefix_tokens: tokens in addition to those of the image that `forward_tokens` gives; 0 for most.
    """

    def __init__(  # noqa: PLR0913 - each is a field of the recipe
        self,
        name: str,
        *,
        bands: int = 3,
        pretrained: bool | str = False,
        depth: int | None = None,
        norm: norms.Kind = "batch",
        output_stride: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        freeze: int = 0,
        checkpointing: bool = False,
        flat: bool = False,
    ) -> None:
        """Build it.

        Args:
            name: a timm model, with or without the tag of its weights.
            bands: at least 1. Pretrained weights of three bands are summed for one, repeated and scaled for others.
            pretrained: true: timm's weights, downloaded into HF_HOME or found there (HF_HUB_OFFLINE=1 never asks the
                network, HF_ENDPOINT names a mirror); else a weight file, a path or an s3:// URI.
            depth: number of features, shallowest first. By default five, or six where the first is as large as the
                image; of a tower four.
            norm: what takes the place of BatchNorm (see `pipeline.model.norms.replace`). Models that come with another
                normalisation, such as ConvNeXt with LayerNorm, keep it: it does not depend on the batch either.
            output_stride: 8, 16 or 32: no feature is coarser. Stages are dilated instead.
            image_size: build models that take one image size for this one (height, width); others ignore it.
            drop_path: rate of stochastic depth; 0 for none, also where timm has some by default.
            freeze: so many stages do not learn and keep their moments, shallowest first.
            checkpointing: keep no activations inside blocks, but compute them again for the backward pass.
            flat: the blocks of a tower at its own stride, without a pyramid; hierarchical models ignore it.

        Raises:
            RecipeError: an unknown name, a depth, output stride, drop path or number of bands that the model does not
                give, or weights that cannot be had or do not fit.
        """
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        made = feature_plan.plan(feature_plan.Request(name, bands, depth, flat, output_stride, size, drop_path))
        self.name, self.bands = name, bands
        self.channels, self.strides, self.stages = made.channels, made.strides, len(made.strides)
        self.multiple, self.num_prefix_tokens, self.nested = made.multiple, made.prefix_tokens, made.nested
        self._size, self._scale, self._taps, self._reached = made.size, made.scale, made.taps, made.reached
        with Drawing() as drawing:
            self.model = _create(name, made, pretrained=pretrained is True)
            if isinstance(pretrained, str):
                pretrained_weights.load(
                    self.model, pretrained, feature_plan.description(name), timm.models.adapt_input_conv
                )
            if not drop_path:
                _without_drop_path(self.model)
            self.pyramid = pyramid.Pyramid(made.levels, norm) if made.levels else None
            drawing.finish(self)
        dilation.apply(self.model, made.changes)
        norms.replace(self.model, norm, name)
        if checkpointing:
            gradient_checkpointing.install(self.model)
        self.freeze(freeze)
        if self._size:
            logger.warning(
                "%s takes images of %d × %d pixels only: others are resized to that inside the encoder",
                name,
                *self._size,
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x` [N,C,H,W], shallowest first, each exactly [N,channels,H/stride,W/stride]."""
        features = measure.nchw(self.model, self.model(self._fitted(x)))
        features = self._exact(features, x)
        return features if self.pyramid is None else self.pyramid(features)

    def forward_tokens(self, x: Tensor) -> tuple[list[Tensor], list[Tensor] | None]:
        """The features, and for each the prefix tokens [N,num_prefix_tokens,C] of its block; None if there are none."""
        if not self.num_prefix_tokens:
            return self(x), None
        inner: Any = self.model.model
        both = inner.forward_intermediates(
            self._fitted(x),
            indices=self.model.out_indices,
            return_prefix_tokens=True,
            norm=False,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return self._exact([f for f, _ in both], x), [tokens for _, tokens in both]

    def freeze(self, stages: int) -> None:
        """Let the first `stages` stages not learn, and all others do; what is frozen keeps its BatchNorm's moments.

        With as many stages as there are the whole timm model is frozen; a tower's pyramid, which comes with no
        pretrained weights, always learns.
        """
        used = self._reached[-1]
        self._frozen = self._reached[min(stages, len(self._reached)) - 1] if stages else frozenset()
        for name, parameter in self.model.named_parameters():
            # What no feature depends on would never get a gradient, which plain DDP does not forgive.
            parameter.requires_grad_(name in used and name not in self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """As for every module, but for the BatchNorms of frozen stages: they stay as in evaluation."""
        super().train(mode)
        everything = self._frozen == self._reached[-1]
        for name, module in self.model.named_modules():
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if norm and (everything or f"{name}.weight" in self._frozen):
                module.eval()
        return self

    def _fitted(self, x: Tensor) -> Tensor:
        """The image at the size that the model takes."""
        (p, q), (height, width) = self._scale, x.shape[-2:]
        if self._size is not None:
            return pyramid.resample(x, self._size)
        return x if p == q else pyramid.resample(x, (height // q * p, width // q * p))

    def _exact(self, features: Sequence[Tensor], x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        return [
            f if tap.exact else pyramid.resample(f, (height // tap.stride, width // tap.stride))
            for f, tap in zip(features, self._taps, strict=True)
        ]


def _create(name: str, made: feature_plan.FeaturePlan, *, pretrained: bool) -> nn.Module:
    try:
        return feature_plan.draw(name, made.options, pretrained=pretrained)
    except Exception as error:
        if not pretrained:
            raise
        # Hub, proxy, disk and missing weights each raise their own kind; what to do is the same.
        raise RecipeError(
            f"model.pretrained: the weights of {name} cannot be downloaded ({type(error).__name__}: {error})",
            "give the path of a local weight file, or set model.pretrained=false",
        ) from error


def _without_drop_path(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0
