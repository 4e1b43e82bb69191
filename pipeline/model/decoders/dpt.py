"""The decoder of the dense prediction transformer (Ranftl, Bochkovskiy and Koltun 2021) on any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import RecipeError
from pipeline.model.decoders.blocks import activation, conv_block, double, initialise
from pipeline.recipe import networks as recipe


class Readout(nn.Module):
    """Put the class token into every pixel: joined with it and projected (`cat`), or added."""

    def __init__(self, channels: int, section: recipe.DPT) -> None:
        """Take tokens of `channels`."""
        super().__init__()
        self.mean = section.compat == "smp" and section.readout == "add"
        self.project = nn.Sequential(nn.Linear(2 * channels, channels), nn.GELU()) if section.readout == "cat" else None

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """`x` [N,C,h,w], prefix tokens [N,T,C], of which the first is the class's -> [N,C,h,w]."""
        token = tokens.mean(1) if self.mean else tokens[:, 0]  # SMP adds the mean of all, registers too
        if self.project is None:
            return x + token[:, :, None, None]
        linear, act = self.project
        assert isinstance(linear, nn.Linear)
        # A linear layer on two things side by side is a sum; the token's part is the same for all pixels.
        pixels, readout = linear.weight.chunk(2, 1)
        same = F.linear(token, readout, linear.bias)
        out: Tensor = act(F.conv2d(x, pixels[:, :, None, None]) + same[:, :, None, None])
        return out


class Reassemble(nn.Module):
    """Bring a stage to the width and stride of its level of the fusion."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, target: int) -> None:
        """Take a map at `stride` to `target`."""
        super().__init__()
        self.project = nn.Conv2d(inputs, middle, 1)
        self.resize: nn.Module = nn.Identity()
        if stride > target:
            self.resize = nn.ConvTranspose2d(middle, middle, stride // target, stride // target)
        elif stride < target:
            self.resize = nn.Conv2d(middle, middle, 3, target // stride, padding=1)
        self.conv = nn.Conv2d(middle, outputs, 3, padding=1, bias=False)
        initialise(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,inputs,h,w] -> [N,outputs,...]."""
        out: Tensor = self.conv(self.resize(self.project(x)))
        return out


class Residual(nn.Module):
    """Two convolutions around which the map goes unchanged, activation first."""

    def __init__(self, channels: int, section: recipe.DPT) -> None:
        """Take a map of `channels`."""
        super().__init__()
        self.conv1, self.conv2 = (conv_block(channels, channels, section.norm, section.activation) for _ in range(2))
        self.act = _not_in_place(section)
        self.conv2[2] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        out: Tensor = self.conv2(self.conv1(self.act(x)))
        return out.add_(x)


class Fusion(nn.Module):
    """Join a level with what comes from deeper ones, refine, double."""

    def __init__(self, channels: int, section: recipe.DPT) -> None:
        """Take maps of `channels`."""
        super().__init__()
        self.align_corners = section.compat == "smp"
        self.residual1, self.residual2 = Residual(channels, section), Residual(channels, section)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, deeper: Tensor | None) -> Tensor:
        """`x` and `deeper` [N,C,H,W] -> [N,C,2H,2W]."""
        x = self.residual1(x)
        if deeper is not None:
            x = x + deeper
        # A convolution of 1×1 commutes with interpolation, and before it has a quarter of the pixels.
        return double(self.project(self.residual2(x)), "bilinear", align_corners=self.align_corners)


class DPTDecoder(nn.Module):
    """Stages at strides 4, 8, 16, 32, whatever strides they come at, fused from the deepest to the shallowest.

    Attributes:
        channels, stride: of the map that comes out.
        multiple: heights and widths of the input must be multiples of it.
        wants_tokens: whether `forward` takes the encoder's prefix tokens.
        auxiliary_weights: none.
    """

    stride = 2
    auxiliary_weights: tuple[float, ...] = ()
    flat = True
    wants_tokens = True

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        section: recipe.DPT,
        classes: int,
        *,
        prefix_tokens: int = 0,
    ) -> None:
        """Take stages of these widths and strides; without prefix tokens there is nothing to read out.

        Raises:
            RecipeError: fewer intermediate widths than stages.
        """
        super().__init__()
        widths, fused = section.intermediate_channels, section.decoder_channels
        if len(widths) < len(channels):
            raise RecipeError(
                f"model.intermediate_channels: {len(widths)} widths for {len(channels)} stages",
                f"give {len(channels)} widths, shallowest first",
            )
        self.section, self.channels = section, fused
        targets = [4 * 2**level for level in range(len(strides))]
        self.multiple = max(*targets, *strides)
        self.wants_tokens = bool(prefix_tokens) and section.readout != "ignore"
        self.readouts = nn.ModuleList(Readout(c, section) for c in channels) if self.wants_tokens else None
        self.reassembles = nn.ModuleList(
            Reassemble(c, w, fused, s, t) for c, w, s, t in zip(channels, widths, strides, targets, strict=False)
        )
        self.fusions = nn.ModuleList(Fusion(fused, section) for _ in channels)  # deepest first

    def forward(self, features: Sequence[Tensor], tokens: Sequence[Tensor] | None = None) -> Tensor:
        """Stages, shallowest first, and the prefix tokens [N,T,C] of each -> [N,channels,H/2,W/2]."""
        maps = list(features)
        if self.readouts is not None and tokens is not None:
            maps = [readout(x, t) for readout, x, t in zip(self.readouts, maps, tokens, strict=True)]
        out: Tensor | None = None
        for reassemble, fusion, x in zip([*self.reassembles][::-1], self.fusions, maps[::-1], strict=True):
            out = fusion(reassemble(x), out)
        assert out is not None
        return out

    def make_head(self, classes: int) -> nn.Sequential:
        """The paper's head: a convolution, dropout, and a convolution of 1×1."""
        block = conv_block(self.channels, self.channels, self.section.norm, self.section.activation)
        last = nn.Conv2d(self.channels, classes, 1)
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        return nn.Sequential(block, nn.Dropout(self.section.dropout), last)


def _not_in_place(section: recipe.DPT) -> nn.Module:
    act = activation(section.activation)
    if hasattr(act, "inplace"):
        setattr(act, "inplace", False)  # noqa: B010
    return act


SMP_NAMES: Final = (
    (r"projection_blocks\.(\d+)\.(.*)", r"readouts.\1.\2"),
    (r"reassemble_blocks\.(\d+)\.project_to_out_channel\.(.*)", r"reassembles.\1.project.\2"),
    (r"reassemble_blocks\.(\d+)\.upsample\.(.*)", r"reassembles.\1.resize.\2"),
    (r"reassemble_blocks\.(\d+)\.project_to_feature_dim\.(.*)", r"reassembles.\1.conv.\2"),
    (r"fusion_blocks\.(\d+)\.residual_conv_block(\d)\.conv_(\d)\.(.*)", r"fusions.\1.residual\2.conv\3.0.\4"),
    (r"fusion_blocks\.(\d+)\.residual_conv_block(\d)\.batch_norm_(\d)\.(.*)", r"fusions.\1.residual\2.conv\3.1.\4"),
    (r"fusion_blocks\.(\d+)\.project\.(.*)", r"fusions.\1.project.\2"),
)
SMP_HEAD_NAMES: Final = ((r"head\.([01])\.(.*)", r"0.\1.\2"), (r"head\.4\.(.*)", r"2.\1"))
"""Of the head's keys without `segmentation_head.`."""
