"""What several decoders are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model import norms
from pipeline.recipe.networks import Activation, Interpolation

SMALL_MAP_STRIDE: Final = 16
"""Maps at this stride or deeper are small: measured at 512² pixels, see `JoinConv`."""
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


def conv_block(
    inputs: int,
    outputs: int,
    norm: norms.Kind,
    act: Activation = "relu",
    *,
    kernel: int = 3,
    dilation: int = 1,
    pooled: bool = False,
) -> nn.Sequential:
    """Convolution that keeps the size, normalisation, activation; `pooled` for maps of 1×1."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=norm == "none")
    initialise(conv)
    layer = norms.pooled if pooled else norms.layer
    return nn.Sequential(conv, layer(norm, outputs), activation(act))


class JoinConv(nn.Conv2d):
    """3×3 convolution of a map, doubled, joined with a skip of the doubled size: the function of
    `conv(cat([interpolate(x, 2), skip]))` with the same weights, for less.

    A convolution over a concatenation is the sum of two: nothing is concatenated. Doubling by nearest neighbour before
    a 3×3 convolution is a transposed convolution of stride 2 whose 4×4 kernel holds sums of the nine taps: the doubled
    map is never made, and each output pixel costs four taps instead of nine.
    """

    def __init__(
        self,
        inputs: int,
        skip: int,
        outputs: int,
        *,
        bias: bool,
        interpolation: Interpolation = "nearest",
        folded: bool = True,
    ) -> None:
        """Take maps of these widths.

        `folded=False` goes the plain way: on the smallest maps, making the kernel costs more than it saves.
        """
        super().__init__(inputs + skip, outputs, 3, padding=1, bias=bias)
        initialise(self)
        self.inputs, self.interpolation, self.folded = inputs, interpolation, folded

    def forward(self, x: Tensor, *skips: Tensor, attention: nn.Module | None = None) -> Tensor:
        """`x` [N,inputs,h,w] and skips [N,...,2h,2w], whose channels add up, -> [N,outputs,2h,2w].

        `attention` wants to see what is joined; it is then made in full.
        """
        if attention is not None or not self.folded:
            joined = torch.cat([double(x, self.interpolation), *skips], 1)
            return super().forward(joined if attention is None else attention(joined))
        widths = [self.inputs, *(s.shape[1] for s in skips)]
        first, *rest = torch.split(self.weight, widths, 1)
        if self.interpolation == "nearest":
            out = F.conv_transpose2d(x, doubling_kernel(first), self.bias, stride=2, padding=1)
        else:
            out = F.conv2d(double(x, self.interpolation), first, self.bias, padding=1)
        for skip, weight in zip(skips, rest, strict=True):
            out = out + F.conv2d(skip, weight, None, padding=1)
        return out


def doubling_kernel(weight: Tensor) -> Tensor:
    """The kernel [I,O,4,4] of the transposed convolution (stride 2, padding 1) that equals nearest doubling followed by
    the 3×3 convolution `weight` [O,I,3,3] (padding 1)."""
    turned = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    rows = turned[:, :, 1:] + turned[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


def double(x: Tensor, mode: Interpolation, *, align_corners: bool = False) -> Tensor:
    """`x` [N,C,h,w] -> [N,C,2h,2w]."""
    return F.interpolate(x, scale_factor=2, mode=mode, align_corners=align_corners if mode == "bilinear" else None)


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
        return x * (self.channel(x) + self.space(x))


SCSE_NAMES: Final = (  # SMP's names inside an attention -> ours
    (r"(.*)attention\.cSE\.(\d)\.(.*)", r"\1channel.\2.\3"),
    (r"(.*)attention\.sSE\.(\d)\.(.*)", r"\1space.\2.\3"),
)


def halvings(strides: Sequence[int], widths: Sequence[int], where: str = "model.decoder_channels") -> int:
    """How often the deepest stage must be doubled to the size of the input.

    Raises:
        RecipeError: fewer widths than that.
    """
    times = strides[-1].bit_length() - 1
    if len(widths) < times:
        raise RecipeError(
            f"{where}: {len(widths)} widths, but this encoder halves the size {times} times",
            f"give {times} widths, deepest first",
        )
    return times


def stage_at(strides: Sequence[int], stride: int) -> int | None:
    """Position of the last stage at a stride, if there is one."""
    found = [position for position, s in enumerate(strides) if s == stride]
    return found[-1] if found else None
