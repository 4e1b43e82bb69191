"""Normalisation: over groups, images, channels, nothing, or BatchNorm over all workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RecipeError
from pipeline.recipe.networks import Norm

Kind = Norm
_GROUP = 16  # channels in a group; Wu & He (2018) find it as good as any


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu & He 2018) in groups of 16 channels, or as many as divide both 16 and `channels`."""
    return nn.GroupNorm(channels // math.gcd(channels, _GROUP), channels)


def layer(kind: Kind, channels: int) -> nn.Module:
    """A new normalisation layer for maps [N,channels,H,W]; Identity for `none`."""
    made: dict[Kind, Callable[[], nn.Module]] = {
        "batch": lambda: nn.BatchNorm2d(channels),
        "group": lambda: group_norm(channels),
        "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
        "layer": lambda: ChannelNorm(channels),
        "none": nn.Identity,
    }
    return made[kind]()


def pooled(kind: Kind, channels: int) -> nn.Module:
    """A new normalisation layer for globally pooled maps [N,channels,1,1].

    There BatchNorm of a single chip has one value per channel to learn moments from, and InstanceNorm always has:
    the first then takes its running moments, the second is done over the channels.
    """
    if kind == "batch":
        return PooledBatchNorm(channels)
    return layer("layer" if kind == "instance" else kind, channels)


def replace(module: nn.Module, kind: Kind, name: str) -> None:
    """Replace every BatchNorm inside `module`; its scale and offset live on.

    `group`, `instance` and `layer` normalise by groups, per image or over channels instead. `none` keeps scale and
    offset with the running moments folded in, so that pretrained weights compute what they did in evaluation and
    residual branches that begin at zero still do.

    Raises:
        RecipeError: `name` has a BatchNorm of another kind than over images.
    """
    if kind == "batch":
        return
    for parent in list(module.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, key, _instead(child, kind))
            elif isinstance(child, nn.modules.batchnorm._BatchNorm):
                raise RecipeError(
                    f"model.norm: {kind!r} cannot replace the {type(child).__name__} in {name}",
                    "set model.norm=batch or choose another encoder",
                )


def synchronise(module: nn.Module) -> nn.Module:
    """Make every BatchNorm2d inside `module` take its moments over all workers; state-dict keys stay the same.

    For any device and backend (torch's own needs a GPU, and drops the activation that timm fuses into some). With one
    worker, and in evaluation, it is an ordinary BatchNorm. Returns `module`, changed in place.
    """
    for parent in list(module.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNorm):
                setattr(parent, key, SyncBatchNorm(child))
    return module


class ChannelNorm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016) over the channels of each pixel of a map [N,C,H,W]."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PooledBatchNorm(nn.BatchNorm2d):
    """BatchNorm that takes its running moments where there is one value per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        return _batch_norm(self, x)


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if norm.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return nn.BatchNorm2d.forward(norm, x)


class Affine(nn.Module):
    """Scale and offset per channel, and nothing else."""

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(scale), nn.Parameter(offset)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Normalise(torch.autograd.Function):
    """BatchNorm with the moments of all workers (Chan's parallel variance), by torch's fused kernels; one sum over
    the workers on the way there and one on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        here = x.numel() // x.shape[1]
        var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        # Combined in float64, where the mean of squares less the square of the mean loses nothing that matters.
        mean, var = mean.double(), var.double()
        total = torch.cat([mean * here, (var + mean * mean) * here, mean.new_tensor([here])])
        dist.all_reduce(total)
        count = total[-1]
        mean, square = (total[:-1] / count).chunk(2)
        var = square - mean * mean
        ctx.save_for_backward(x, weight, mean.float(), var.float(), count)
        ctx.eps = eps
        out = functional.batch_norm(x, mean.float(), var.float(), weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        # With given moments these are the sums of grad * normalised x and of grad, on this worker.
        _, by_scale, by_offset = torch.ops.aten.native_batch_norm_backward(
            grad, x, scale, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        total = torch.cat([by_scale, by_offset]).double()
        dist.all_reduce(total)
        over_scale, over_offset = (total / count).float().chunk(2)
        inverse = (var + ctx.eps).rsqrt()
        slope = -scale * inverse * inverse * over_scale
        offset = -slope * mean - scale * inverse * over_offset
        wide = (slice(None), None, None)
        out = torch.addcmul(offset[wide], x, slope[wide]).addcmul_(grad, (scale * inverse)[wide])
        given = (None, None) if weight is None else (by_scale, by_offset)
        return out.to(x.dtype), *given, None


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose moments are those of the batches of all workers together."""

    def __init__(self, source: nn.BatchNorm2d) -> None:
        super().__init__(source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats)
        self.weight, self.bias = source.weight, source.bias
        self.running_mean, self.running_var = source.running_mean, source.running_var
        self.num_batches_tracked = source.num_batches_tracked
        self.drop, self.act = _tail(source)
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        out = _batch_norm(self, x) if alone or not self.training else self._normalise(x)
        tail: Tensor = self.act(self.drop(out))
        return tail

    def _normalise(self, x: Tensor) -> Tensor:
        out, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._remember(mean, var * count / (count - 1).clamp(min=1))
        return out  # type: ignore[no-any-return]

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(var.to(self.running_var.dtype), rate)


class _Tailed(nn.Module):
    """A norm that carries dropout and activation along, as timm's BatchNormAct2d does; its parameters keep their
    names."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W], same shape out."""
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


class GroupNormAct(_Tailed, nn.GroupNorm):
    """GroupNorm and an activation."""


class InstanceNormAct(_Tailed, nn.InstanceNorm2d):
    """InstanceNorm and an activation."""


class ChannelNormAct(_Tailed, ChannelNorm):
    """`ChannelNorm` and an activation."""


class AffineAct(_Tailed, Affine):
    """`Affine` and an activation."""


_WITH_TAIL: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: GroupNormAct,
    nn.InstanceNorm2d: InstanceNormAct,
    ChannelNorm: ChannelNormAct,
    Affine: AffineAct,
}


def _instead(norm: nn.BatchNorm2d, kind: Kind) -> nn.Module:
    scale, offset = _scale_offset(norm)
    new: nn.Module
    if kind != "none":
        new = layer(kind, norm.num_features)
        new.weight, new.bias = nn.Parameter(scale), nn.Parameter(offset)
    else:
        if norm.running_var is not None:
            scale, offset = (t.detach() for t in _eval_affine(norm, norm.running_var.dtype))
        new = Affine(scale, offset)
    new.requires_grad_(not norm.affine or norm.weight.requires_grad)
    drop, act = _tail(norm)
    if not (isinstance(act, nn.Identity) and isinstance(drop, nn.Identity)):
        new.__class__ = _WITH_TAIL[type(new)]
        new.drop, new.act = drop, act
    return new


def folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d, *, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with the BatchNorm behind it, in eval mode (Jacob et al. 2018, section 3.2).

    Args:
        weight: kernel, whose dtype the result has.
        bias: bias of the convolution, if it has one.
        norm: with running moments.
        axis: of the kernel, along which the output channels are.
    """
    scale, offset = _eval_affine(norm, weight.dtype)
    if bias is not None:
        offset = offset + bias * scale
    return weight * scale.view([-1 if i == axis else 1 for i in range(weight.ndim)]), offset


def _eval_affine(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and offset [C] that a BatchNorm with running moments is in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.to(dtype)
    offset = -norm.running_mean.to(dtype) * scale
    return scale, offset + norm.bias.to(dtype) if norm.affine else offset


def _scale_offset(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if not norm.affine:
        return torch.ones(norm.num_features), torch.zeros(norm.num_features)
    return norm.weight.detach().clone(), norm.bias.detach().clone()


def _tail(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Dropout and activation that timm's own BatchNorm carries along."""
    return getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
