"""Pyramid pooling (Zhao et al. 2017), as PSPNet and UPerNet use it.

A map is averaged over a grid of 1×1, 2×2, 3×3, 6×6 cells, each grid goes through a convolution, is enlarged to the map
again and joined with it for one more convolution. All of it but the branches is linear in each map, so neither the
enlarged maps nor their concatenation need be made:

    conv(cat([x, enlarge(p1), ...])) = conv_x(x) + sum over grids and taps of shift(enlarge(w_tap p))

where `w_tap p` has as few pixels as the grid. Averaging and enlarging are products with matrices made from the sizes:
that exports with dynamic sizes (adaptive pooling does not), and its way back is deterministic on GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import norms
from pipeline.model.decoders.blocks import ConcatConv, ConvBlock, activation, conv_block, initialise
from pipeline.recipe import networks as recipe


class PyramidPooling(nn.Module):
    """Branches over grids, and the convolution that joins them with the map."""

    def __init__(
        self,
        inputs: int,
        branch: int,
        section: recipe.PSPNet | recipe.UPerNet,
        *,
        kernel: int,
        map_first: bool,
        join_norm: norms.Kind | None = None,
        single_norm: norms.Kind | None = None,
        align_corners: bool = False,
    ) -> None:
        """Take a map of `inputs` channels; branches are `branch` wide.

        `kernel`: size of the joining convolution. `map_first`: order of its input channels. `join_norm`, `single_norm`:
        other normalisations of the join, and of grids of one cell.
        """
        super().__init__()
        norm, act, outputs, self.bins = section.norm, section.activation, section.decoder_channels, section.bins
        kinds = [(single_norm or norm) if cells == 1 else norm for cells in self.bins]
        self.blocks = nn.ModuleList(
            conv_block(inputs, branch, kind, act, kernel=1, pooled=cells == 1)
            for kind, cells in zip(kinds, self.bins, strict=True)
        )
        joined, last = inputs + len(self.bins) * branch, join_norm or norm
        conv = PyramidConv(joined, outputs, kernel, padding=kernel // 2, bias=last == "none")
        conv.map_first, conv.align_corners = map_first, align_corners
        initialise(conv)
        self.join = ConvBlock(conv, norms.layer(last, outputs), activation(act))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,inputs,H,W] -> [N,outputs,H,W]."""
        cells = (block(cell) for block, cell in zip(self.blocks, grids(x, self.bins), strict=True))
        out: Tensor = self.join(x, *cells)
        return out


class PyramidConv(ConcatConv):
    """Convolution of a map and of grids enlarged to it, side by side."""

    map_first: bool
    align_corners: bool

    def convolve(self, weight: Tensor, bias: Tensor | None, *maps: Tensor) -> Tensor:
        """A map [N,...,H,W] and square grids [N,...,b,b], whose channels add up -> [N,outputs,H,W]."""
        x, *cells = maps
        widths = [cell.shape[1] for cell in cells]
        order = [x.shape[1], *widths] if self.map_first else [*widths, x.shape[1]]
        kernels = list(torch.split(weight, order, 1))
        out = F.conv2d(x, kernels.pop(0 if self.map_first else -1), bias, padding=self.padding)
        taps = torch.cat([tapped(cell, kernel) for cell, kernel in zip(cells, kernels, strict=True)], -1)
        spread = torch.cat([self._spread(x, cell.shape[-1]) for cell in cells])
        spread = spread.to(taps.dtype)
        if out.stride(1) == 1:  # channels last: sums of unlike layouts take twice the time
            added = (spread.T @ taps.transpose(1, 2)).view(out.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        else:
            added = (taps @ spread).view(out.shape)
        out += added
        return out

    def _spread(self, x: Tensor, cells: int) -> Tensor:
        """Contribution of each tap of each cell to each pixel, [k·k·cells·cells,H·W]."""
        rows, columns = (
            shifted(bilinear(cells, size, x, align_corners=self.align_corners), self.kernel_size[0])
            for size in x.shape[-2:]
        )
        return torch.einsum("tih,ujw->tuijhw", rows, columns).flatten(4).flatten(0, 3)


def grids(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """`x` [N,C,H,W] averaged over grids: [N,C,b,b] for each b, equal to `adaptive_avg_pool2d`."""
    rows, columns = ([averages(size, b, x) for b in bins] for size in x.shape[-2:])
    narrow = torch.split(x @ torch.cat(columns).T, list(bins), -1)
    return [row @ part for row, part in zip(rows, narrow, strict=True)]


def averages(size: int, cells: int, like: Tensor) -> Tensor:
    """The matrix [cells,size] that averages over cells, which overlap where `size` is not a multiple of `cells`."""
    pixel, cell = (torch.arange(n, device=like.device) for n in (size, cells))
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = (pixel >= first[:, None]) & (pixel < end[:, None])
    return inside.to(like.dtype) / (end - first).to(like.dtype)[:, None]


def bilinear(cells: int, size: int, like: Tensor, *, align_corners: bool) -> Tensor:
    """The matrix [cells,size] that enlarges a row of cells to `size` pixels as bilinear interpolation does."""
    pixel, cell = (torch.arange(n, device=like.device, dtype=torch.float32) for n in (size, cells))
    if align_corners:
        place = pixel * ((cells - 1) / pixel[-1].clamp(min=1))
    else:
        place = ((pixel + 0.5) * (cells / size) - 0.5).clamp(0, cells - 1)
    return (1 - (place - cell[:, None]).abs()).clamp(min=0)


def shifted(matrix: Tensor, kernel: int) -> Tensor:
    """`matrix` [cells,size] as each of the taps of a convolution over the enlarged row sees it, [kernel,cells,size]."""
    if kernel == 1:
        return matrix[None]
    size, reach = matrix.shape[-1], kernel // 2
    padded = F.pad(matrix, (reach, reach))
    return torch.stack([padded[:, tap : tap + size] for tap in range(kernel)])


def tapped(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution of `x` [N,I,b,b] with `weight` [O,I,k,k] tap by tap, [N,O,k·k·b·b]."""
    outputs, inputs, kernel, _ = weight.shape
    each = F.conv2d(x, weight.permute(2, 3, 0, 1).reshape(-1, inputs, 1, 1))
    return each.view(x.shape[0], kernel * kernel, outputs, -1).transpose(1, 2).flatten(2)
