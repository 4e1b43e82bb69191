"""Blocks that several decoders share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.recipe.networks import Activation, Interpolation

LARGE_KERNEL: Final = 300_000
"""Elements from which a kernel is larger than the maps that it makes; those lie deep in a network."""
_USUAL_HALVINGS: Final = 5
_ACTIVATIONS: Final[dict[Activation, Callable[[], nn.Module]]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "prelu": nn.PReLU,
}


def activation(name: Activation) -> nn.Module:
    """A new activation; it may work in place."""
    return _ACTIVATIONS[name]()


def initialise(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """He initialisation (2015) for a convolution before a rectifier; bias 0."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, activation, as modules 0, 1 and 2.

    While nothing learns, BatchNorm goes into the kernel of the convolution, where that costs less than another map.
    """

    def forward(self, *maps: Tensor, **how: Any) -> Tensor:
        """What the convolution takes -> [N,outputs,H,W]."""
        modules: Iterable[Any] = self
        conv, norm, act = modules
        if _folds(conv, norm):
            weight, bias = _fold(conv, norm)
            if isinstance(conv, nn.ConvTranspose2d):
                y = F.conv_transpose2d(maps[0], weight, bias, conv.stride, conv.padding)  # type: ignore[arg-type]
            elif isinstance(conv, JoinConv | ConcatConv):
                y = conv.convolve(weight, bias, *maps, **how)
            else:
                y = conv._conv_forward(maps[0], weight, bias)
        else:
            y = norm(conv(*maps, **how))
        out: Tensor = act(y)
        return out


def _folds(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module) -> bool:
    if torch.is_grad_enabled() or norm.training or not isinstance(norm, nn.BatchNorm2d):
        return False
    listened = any(m._forward_hooks or m._forward_pre_hooks for m in (conv, norm))
    return not listened and conv.weight.numel() <= LARGE_KERNEL


def _fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    return norms.folded(conv.weight, conv.bias, norm, axis=1 if isinstance(conv, nn.ConvTranspose2d) else 0)


def conv_block(
    inputs: int,
    outputs: int,
    norm: norms.Kind,
    act: Activation = "relu",
    *,
    kernel: int = 3,
    dilation: int = 1,
    pooled: bool = False,
) -> ConvBlock:
    """Convolution that keeps the size, normalisation, activation; `pooled` for maps of 1×1."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=norm == "none")
    initialise(conv)
    layer = norms.pooled if pooled else norms.layer
    return ConvBlock(conv, layer(norm, outputs), activation(act))


class JoinConv(nn.Conv2d):
    """3×3 convolution of a map, doubled, joined with skips of the doubled size: the function of
    `conv(cat([interpolate(x, 2), *skips]))` with the same weights, for less.

    A convolution over a concatenation is the sum of several: nothing is concatenated. Doubling by nearest neighbour
    before a 3×3 convolution is a transposed convolution of stride 2 whose 4×4 kernel holds sums of the nine taps: the
    doubled map is never made, and each output pixel costs four taps instead of nine.
    """

    def __init__(
        self, inputs: int, skip: int, outputs: int, *, bias: bool, interpolation: Interpolation = "nearest"
    ) -> None:
        """Take maps of these widths."""
        super().__init__(inputs + skip, outputs, 3, padding=1, bias=bias)
        initialise(self)
        self.inputs, self.interpolation = inputs, interpolation

    def forward(self, x: Tensor, *skips: Tensor, attention: nn.Module | None = None) -> Tensor:
        """`x` [N,inputs,h,w] and skips [N,...,2h,2w], whose channels add up, -> [N,outputs,2h,2w].

        `attention` wants to see what is joined; it is then made in full.
        """
        return self.convolve(self.weight, self.bias, x, *skips, attention=attention)

    def convolve(
        self, weight: Tensor, bias: Tensor | None, x: Tensor, *skips: Tensor, attention: nn.Module | None = None
    ) -> Tensor:
        """The same with another kernel of the same shape."""
        if attention is not None:
            return F.conv2d(attention(torch.cat([double(x, self.interpolation), *skips], 1)), weight, bias, padding=1)
        first, *rest = torch.split(weight, [self.inputs, *(s.shape[1] for s in skips)], 1)
        if self.interpolation == "nearest":
            out = F.conv_transpose2d(x, doubling_kernel(first), bias, stride=2, padding=1)
        else:
            out = F.conv2d(double(x, self.interpolation), first, bias, padding=1)
        for skip, kernel in zip(skips, rest, strict=True):
            out += F.conv2d(skip, kernel, None, padding=1)
        return out


def doubling_kernel(weight: Tensor) -> Tensor:
    """The kernel [I,O,4,4] of the transposed convolution (stride 2, padding 1) that equals nearest doubling followed by
    the 3×3 convolution `weight` [O,I,3,3] (padding 1)."""
    outputs, inputs = weight.shape[:2]
    # What becomes of each of the nine taps, [9,16]; one product is several times faster than sums of shifted kernels.
    taps = F.pad(torch.eye(9, dtype=weight.dtype, device=weight.device).view(9, 3, 3).flip(1, 2), (1, 1, 1, 1))
    rows = taps[:, 1:] + taps[:, :-1]
    spread = (rows[..., 1:] + rows[..., :-1]).flatten(1)
    return (weight.transpose(0, 1).reshape(-1, 9) @ spread).view(inputs, outputs, 4, 4)


def double(x: Tensor, mode: Interpolation, *, align_corners: bool = False) -> Tensor:
    """`x` [N,C,h,w] -> [N,C,2h,2w]."""
    return F.interpolate(x, scale_factor=2, mode=mode, align_corners=align_corners if mode == "bilinear" else None)


def interleaved(x: Tensor) -> Tensor:
    """`x` in channels_last where that pays: on processors, large maps of few channels are convolved twice as fast so,
    and with less working memory."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def resize(x: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """`x` at the height and width of `like`, bilinear."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


class SCSE(nn.Module):
    """Squeeze and excitation in space and in channels (Roy et al. 2018): x·c(x) + x·s(x)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self.space = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        out: Tensor = x * (self.channel(x) + self.space(x))
        return out


SCSE_NAMES: Final = (  # SMP's names inside an attention -> ours
    (r"(.*)attention\.cSE\.(\d)\.(.*)", r"\1channel.\2.\3"),
    (r"(.*)attention\.sSE\.(\d)\.(.*)", r"\1space.\2.\3"),
)


def decoder_widths(strides: Sequence[int], widths: Sequence[int]) -> list[int]:
    """A width for each doubling from the deepest stage to the size of the input, deepest first.

    Of more widths, the first ones are used. Where an encoder goes down to a stride of 64 the first one is used twice:
    nearly all encoders end at 32, and that is what recipes give widths for.

    Raises:
        RecipeError: fewer widths than that.
    """
    times = strides[-1].bit_length() - 1
    if times > _USUAL_HALVINGS == len(widths):
        widths = [widths[0]] * (times - _USUAL_HALVINGS) + list(widths)
    if len(widths) < times:
        raise RecipeError(
            f"model.decoder_channels: {len(widths)} widths, but this encoder halves the size {times} times",
            f"give {times} widths, deepest first",
        )
    return list(widths[:times])


def stage_at(strides: Sequence[int], stride: int) -> int | None:
    """Position of the last stage at a stride, if there is one."""
    found = [position for position, s in enumerate(strides) if s == stride]
    return found[-1] if found else None


def climb(
    features: Sequence[Tensor], center: nn.Module, blocks: Iterable[nn.Module], joins: Sequence[int | None], spend: bool
) -> Tensor:
    """Apply `center` to the deepest stage, then one block after the other, each with the stage that it joins.

    `spend`: `features` is a list that is not used afterwards. It is emptied, and each stage is dropped when it has
    served.
    """
    left = list(features)
    if spend and isinstance(features, list):
        features.clear()
    x: Tensor = center(left.pop())
    for block, join in zip(blocks, joins, strict=True):
        x = block(x) if join is None else block(x, left[join])
        del left[len(left) if join is None else join :]
    return x


class ConcatConv(nn.Conv2d):
    """Convolution of maps side by side: the function of `conv(cat(maps, 1))` with the same weights, and nothing is
    concatenated, neither in passing nor for the way back. With a kernel of 1×1 all but the first map may be of one
    pixel, which then counts for all."""

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps [N,...,H,W], whose channels add up -> [N,outputs,H,W]."""
        return self.convolve(self.weight, self.bias, *maps)

    def convolve(self, weight: Tensor, bias: Tensor | None, *maps: Tensor) -> Tensor:
        """The same with another kernel of the same shape."""
        first, *rest = torch.split(weight, [m.shape[1] for m in maps], 1)
        out: Tensor = self._conv_forward(maps[0], first, bias)
        for m, kernel in zip(maps[1:], rest, strict=True):
            out += self._conv_forward(m, kernel, None)
        return out


class ConcatBlock(ConvBlock):
    """`conv_block` of maps side by side; same names, same weights."""

    def __init__(self, inputs: int, outputs: int, norm: norms.Kind, act: Activation = "relu", kernel: int = 3) -> None:
        """`inputs` is the width of all maps together."""
        conv = ConcatConv(inputs, outputs, kernel, padding=kernel // 2, bias=norm == "none")
        initialise(conv)
        super().__init__(conv, norms.layer(norm, outputs), activation(act))


class SeparableConv(nn.Sequential):
    """3×3 convolution of each channel alone, then 1×1 over the channels (Chollet 2017), of one or more maps side by
    side."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dilation: int = 1) -> None:
        """`inputs` is the width of all maps together."""
        depthwise = nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False)
        pointwise = ConcatConv(inputs, outputs, 1, bias=bias)
        initialise(depthwise)
        initialise(pointwise)
        super().__init__(depthwise, pointwise)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps [N,...,H,W], whose channels add up -> [N,outputs,H,W]."""
        depthwise, pointwise = self
        assert isinstance(depthwise, nn.Conv2d)
        reach = depthwise.dilation  # 3×3: the padding that keeps the size
        kernels = torch.split(depthwise.weight, [m.shape[1] for m in maps])
        alone = (
            F.conv2d(m, kernel, None, 1, reach, reach, m.shape[1]) for m, kernel in zip(maps, kernels, strict=True)
        )
        out: Tensor = pointwise(*alone)
        return out


class SeparableBlock(nn.Sequential):
    """`SeparableConv`, normalisation, activation."""

    def __init__(
        self, inputs: int, outputs: int, norm: norms.Kind, act: Activation = "relu", *, dilation: int = 1
    ) -> None:
        """`inputs` is the width of all maps together."""
        conv = SeparableConv(inputs, outputs, bias=norm == "none", dilation=dilation)
        super().__init__(conv, norms.layer(norm, outputs), activation(act))

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps [N,...,H,W], whose channels add up -> [N,outputs,H,W]."""
        conv, norm, act = self
        out: Tensor = act(norm(conv(*maps)))
        return out


def enlarge(x: Tensor, times: int, *, align_corners: bool = False) -> Tensor:
    """`x` [N,C,h,w] -> [N,C,times·h,times·w], bilinear."""
    if times == 1:
        return x
    size = (times * x.shape[-2], times * x.shape[-1])
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def global_mean(x: Tensor) -> Tensor:
    """`x` [N,C,H,W] -> [N,C,1,1]."""
    return x.mean((2, 3), keepdim=True)


def stages_from(strides: Sequence[int], least: int) -> list[int]:
    """Positions of the stages at a stride of `least` or deeper; of the deepest where there is none."""
    return [i for i, stride in enumerate(strides) if stride >= least] or [len(strides) - 1]
