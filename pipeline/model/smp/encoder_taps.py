"""SMP's 76 encoders as timm models: which model, which modules make up each stage, and what is changed in them.

A stage is a run of modules, each with the path that names it; what comes out of the last one is the feature. So the
network holds nothing that no feature needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional as F

Stage = dict[str, nn.Module]
Stages = list[Stage]


@dataclass(frozen=True)
class Source:
    """The timm model of one of SMP's encoders."""

    model: str
    """timm's name."""
    channels: tuple[int, ...]
    """Of the features, shallowest first."""
    cut: Callable[[Any, Source], Stages]
    """The model's modules, stage by stage; it may change them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments for timm."""
    ends: tuple[int, ...] = ()
    """Number of blocks up to the end of each stage but the first, where SMP's stages are not timm's."""
    size: int = 0
    """Image size that the padding is made for."""
    dilates: bool = True
    """Whether SMP can keep its deepest stages at a smaller stride."""
    rectified: bool = False
    """Whether SMP's features are what is positive in timm's."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the features: down to 32, from 2, or from 4 if there are four of them."""
        return (2, 4, 8, 16, 32)[-len(self.channels) :]


def pick(model: nn.Module, *paths: str) -> Stage:
    """Modules by their paths in a timm model, in the order in which they run."""
    return {path: model.get_submodule(path) for path in paths}


def resnet(model: nn.Module, source: Source) -> Stages:
    """The first feature is before the pooling."""
    return [
        pick(model, "conv1", "bn1", "act1"),
        pick(model, "maxpool", "layer1"),
        *(pick(model, f"layer{i}") for i in (2, 3, 4)),
    ]


def senet(model: nn.Module, source: Source) -> Stages:
    """As ResNet, with a stem that is one module."""
    return [pick(model, "layer0"), pick(model, "pool0", "layer1"), *(pick(model, f"layer{i}") for i in (2, 3, 4))]


def vgg(model: nn.Module, source: Source) -> Stages:
    """Each feature is before the next pooling; the one at stride 1, which no decoder takes, is not given."""
    stages: Stages = [{}]
    pools = 0
    for name, module in model.get_submodule("features").named_children():
        pools += isinstance(module, nn.MaxPool2d)
        if isinstance(module, nn.MaxPool2d) and pools > 1:
            stages.append({})
        stages[-1][f"features.{name}"] = module
    return stages


def densenet(model: nn.Module, source: Source) -> Stages:
    """Features are inside the transitions, after the activation; the last one is not rectified."""
    model.get_submodule("features.norm5").act = nn.Identity()
    stages = [pick(model, "features.conv0", "features.norm0")]
    before = ["features.pool0"]
    for i in (1, 2, 3):
        transition = f"features.transition{i}"
        stages.append(pick(model, *before, f"features.denseblock{i}", f"{transition}.norm"))
        before = [f"{transition}.conv", f"{transition}.pool"]
    return [*stages, pick(model, *before, "features.denseblock4", "features.norm5")]


def dpn(model: nn.Module, source: Source) -> Stages:
    """By the number in the names of the blocks; the pooling opens the second stage."""
    stages: Stages = [{} for _ in range(5)]
    for name, module in model.get_submodule("features").named_children():
        number = 2 if name == "conv1_pool" else int(name.removeprefix("conv")[0])
        stages[number - 1][f"features.{name}"] = module
    return stages


def inception_v4(model: nn.Module, source: Source) -> Stages:
    """SMP's stages begin before the reductions; convolutions and poolings of 3×3 keep the size (or halve it)."""
    _pad(model)
    return _runs(pick(model, *(f"features.{i}" for i in range(22))), source.ends)


def inception_resnet_v2(model: nn.Module, source: Source) -> Stages:
    """As above."""
    _pad(model)
    return [
        pick(model, "conv2d_1a", "conv2d_2a", "conv2d_2b"),
        pick(model, "maxpool_3a", "conv2d_3b", "conv2d_4a"),
        pick(model, "maxpool_5a", "mixed_5b", "repeat"),
        pick(model, "mixed_6a", "repeat_1"),
        pick(model, "mixed_7a", "repeat_2", "block8", "conv2d_7b"),
    ]


def xception(model: nn.Module, source: Source) -> Stages:
    """As above; only the stem is without padding in timm. The last feature is not rectified."""
    _pad(model, ("conv1", "conv2"))
    return [
        pick(model, "conv1", "bn1", "act1", "conv2", "bn2", "act2"),
        pick(model, "block1"),
        pick(model, "block2"),
        pick(model, *(f"block{i}" for i in range(3, 12))),
        pick(model, "block12", "conv3", "bn3", "act3", "conv4", "bn4"),
    ]


def efficientnet(model: Any, source: Source) -> Stages:
    """SMP's own EfficientNet: stages end within timm's, and TensorFlow's padding is frozen for one image size."""
    blocks = [block for stage in model.blocks for block in stage]
    _freeze_padding([model.conv_stem, *blocks], source.size)
    return [pick(model, "conv_stem", "bn1"), *_runs(_numbered(blocks, 0), source.ends)]


def timm_efficientnet(model: nn.Module, source: Source) -> Stages:
    """The first feature is the stem's, not the one of the first stage as in timm."""
    runs = ((0, 1), (2,), (3, 4), (5, 6))
    return [pick(model, "conv_stem", "bn1"), *(pick(model, *(f"blocks.{i}" for i in run)) for run in runs)]


def mobilenet_v2(model: Any, source: Source) -> Stages:
    """The last feature is the one of 1280 channels that the classifier takes."""
    blocks = [block for stage in model.blocks for block in stage]
    first, *others = _runs(_numbered(blocks, 1), source.ends)
    others[-1] |= pick(model, "conv_head", "bn2")
    return [pick(model, "conv_stem", "bn1") | first, *others]


def mobileone(model: nn.Module, source: Source) -> Stages:
    """Stem and four stages."""
    return [{f"stage{i}": model.get_submodule(path)} for i, path in enumerate(("stem", *_STAGES))]


def mix_transformer(model: nn.Module, source: Source) -> Stages:
    """MiT (Xie et al. 2021) is PVT v2 with an equally wide feed-forward network everywhere; nothing at stride 2."""
    stages: Stages = [{f"stage{i}": model.get_submodule(path)} for i, path in enumerate(_STAGES, 1)]
    return [pick(model, "patch_embed") | stages[0], *stages[1:]]


_STAGES: Final = ("stages.0", "stages.1", "stages.2", "stages.3")


def _numbered(blocks: list[nn.Module], first: int) -> Stage:
    """Blocks by their number through all stages; those without an expansion, whose layers count otherwise, apart."""
    kinds = ["blocks" if hasattr(block, "conv_pwl") else "separable" for block in blocks]
    return {f"{kind}.{i}": block for i, (kind, block) in enumerate(zip(kinds, blocks, strict=True), first)}


def _runs(modules: Stage, ends: tuple[int, ...]) -> Stages:
    """Cut after so many modules."""
    items = list(modules.items())
    return [dict(items[a:b]) for a, b in itertools.pairwise((0, *ends, len(items)))]


class FrozenConv2d(nn.Conv2d):
    """A convolution after padding that need not be the same on both sides: left, right, top, bottom."""

    frozen: tuple[int, int, int, int] = (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N,C,H,W]."""
        return F.conv2d(F.pad(x, self.frozen), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _freeze_padding(modules: Iterable[nn.Module], size: int) -> None:
    """Pad each convolution as TensorFlow's "same" does for square images of `size` pixels, whatever comes."""
    for module in modules:
        for conv in [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]:
            stride, kernel = conv.stride[0], conv.kernel_size[0]
            out = -(-size // stride)
            total = max((out - 1) * stride + kernel - size, 0)
            low, high = total // 2, total - total // 2
            if low == high:
                _become(conv, nn.Conv2d)
                conv.padding = (low, low)
            else:
                _become(conv, FrozenConv2d).frozen = (low, high, low, high)
            size = out


def _become(conv: Any, kind: type[nn.Conv2d]) -> Any:
    """Another kind of convolution with the same weights."""
    conv.__class__ = kind
    return conv


def _pad(model: nn.Module, names: Iterable[str] = ("",)) -> None:
    """Padding of 1 for every convolution and max-pooling of 3×3 inside these modules."""
    for name in names:
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.padding = (1, 1)
            elif isinstance(module, nn.MaxPool2d):
                module.padding = 1


def dilate(stage: Stage, dilation: int) -> None:
    """Keep a stage at the size of the one before, as SMP does: no convolution strides, all are dilated alike.

    timm leaves the first convolution with the dilation of the stage before, which is another function.
    """
    for module in stage.values():
        for conv in [m for m in module.modules() if isinstance(m, nn.Conv2d)]:
            _become(conv, nn.Conv2d)
            conv.stride, conv.dilation = (1, 1), (dilation, dilation)
            conv.padding = tuple(k // 2 * dilation for k in conv.kernel_size)


_RESNET, _BOTTLENECK = (64, 64, 128, 256, 512), (64, 256, 512, 1024, 2048)
_VGG = (128, 256, 512, 512, 512)
_LITE = {0: (32, 24, 40, 112, 320), 2: (32, 24, 48, 120, 352), 3: (32, 32, 48, 136, 384), 4: (32, 32, 56, 160, 448)}
_WIDTHS = {
    "b0": (32, 24, 40, 112, 320),
    "b1": (32, 24, 40, 112, 320),
    "b2": (32, 24, 48, 120, 352),
    "b3": (40, 32, 48, 136, 384),
    "b4": (48, 32, 56, 160, 448),
    "b5": (48, 40, 64, 176, 512),
    "b6": (56, 40, 72, 200, 576),
    "b7": (64, 48, 80, 224, 640),
    "b8": (72, 56, 88, 248, 704),
    "l2": (136, 104, 176, 480, 1376),
}
_ENDS = {
    "b0": (3, 5, 9),
    "b1": (5, 8, 16),
    "b2": (5, 8, 16),
    "b3": (5, 8, 18),
    "b4": (6, 10, 22),
    "b5": (8, 13, 27),
    "b6": (9, 15, 31),
    "b7": (11, 18, 38),
}
_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
_SK = {"sk_kwargs": {"rd_ratio": 1 / 8, "rd_divisor": 8, "split_input": True}}
_SK_NEXT = {"sk_kwargs": {"rd_ratio": 1 / 16, "rd_divisor": 8, "split_input": True}}
_MIT = {"mlp_ratios": (4, 4, 4, 4)}

ENCODERS: Final[dict[str, Source]] = {
    "resnet18": Source("resnet18", _RESNET, resnet),
    "resnet34": Source("resnet34", _RESNET, resnet),
    "resnet50": Source("resnet50", _BOTTLENECK, resnet),
    "resnet101": Source("resnet101", _BOTTLENECK, resnet),
    "resnet152": Source("resnet152", _BOTTLENECK, resnet),
    "resnext50_32x4d": Source("resnext50_32x4d", _BOTTLENECK, resnet),
    "resnext101_32x4d": Source("resnext101_32x4d", _BOTTLENECK, resnet),
    "resnext101_32x8d": Source("resnext101_32x8d", _BOTTLENECK, resnet),
    "resnext101_32x16d": Source("resnext101_32x16d", _BOTTLENECK, resnet),
    "resnext101_32x32d": Source("resnext101_32x32d", _BOTTLENECK, resnet),
    "resnext101_32x48d": Source("resnext101_32x32d", _BOTTLENECK, resnet, {"base_width": 48}),
    "dpn68": Source("dpn68", (10, 144, 320, 704, 832), dpn, rectified=True),
    "dpn68b": Source("dpn68b", (10, 144, 320, 704, 832), dpn, rectified=True),
    "dpn92": Source("dpn92", (64, 336, 704, 1552, 2688), dpn, rectified=True),
    "dpn98": Source("dpn98", (96, 336, 768, 1728, 2688), dpn, rectified=True),
    "dpn107": Source("dpn107", (128, 376, 1152, 2432, 2688), dpn, rectified=True),
    "dpn131": Source("dpn131", (128, 352, 832, 1984, 2688), dpn, rectified=True),
    **{name: Source(name, _VGG, vgg, dilates=False) for n in (11, 13, 16, 19) for name in (f"vgg{n}", f"vgg{n}_bn")},
    "senet154": Source("legacy_senet154", (128, 256, 512, 1024, 2048), senet),
    "se_resnet50": Source("legacy_seresnet50", _BOTTLENECK, senet),
    "se_resnet101": Source("legacy_seresnet101", _BOTTLENECK, senet),
    "se_resnet152": Source("legacy_seresnet152", _BOTTLENECK, senet),
    "se_resnext50_32x4d": Source("legacy_seresnext50_32x4d", _BOTTLENECK, senet),
    "se_resnext101_32x4d": Source("legacy_seresnext101_32x4d", _BOTTLENECK, senet),
    "densenet121": Source("densenet121", (64, 256, 512, 1024, 1024), densenet, dilates=False),
    "densenet169": Source("densenet169", (64, 256, 512, 1280, 1664), densenet, dilates=False),
    "densenet201": Source("densenet201", (64, 256, 512, 1792, 1920), densenet, dilates=False),
    "densenet161": Source("densenet161", (96, 384, 768, 2112, 2208), densenet, dilates=False),
    "inceptionresnetv2": Source("inception_resnet_v2", (64, 192, 320, 1088, 1536), inception_resnet_v2, dilates=False),
    "inceptionv4": Source("inception_v4", (64, 192, 384, 1024, 1536), inception_v4, ends=(3, 5, 9, 15), dilates=False),
    **{
        f"efficientnet-{n}": Source(
            f"tf_efficientnet_{n}", _WIDTHS[n], efficientnet, {"bn_eps": 1e-3}, ends=_ENDS[n], size=_SIZES[n]
        )
        for n in _ENDS
    },
    "mobilenet_v2": Source("mobilenetv2_100", (16, 24, 32, 96, 1280), mobilenet_v2, ends=(1, 3, 6, 13)),
    "xception": Source("legacy_xception", (64, 128, 256, 728, 2048), xception, dilates=False),
    **{f"timm-efficientnet-{n}": Source(f"efficientnet_{n}", _WIDTHS[n], timm_efficientnet) for n in _WIDTHS},
    **{
        f"timm-tf_efficientnet_lite{n}": Source(f"efficientnet_lite{n}", _LITE[max(n - (n == 1), 0)], timm_efficientnet)
        for n in range(5)
    },
    "timm-skresnet18": Source("skresnet18", _RESNET, resnet, {"block_args": _SK}),
    "timm-skresnet34": Source("skresnet34", _RESNET, resnet, {"block_args": _SK}),
    "timm-skresnext50_32x4d": Source("skresnext50_32x4d", _BOTTLENECK, resnet, {"block_args": _SK_NEXT}),
    "mit_b0": Source("pvt_v2_b0", (32, 64, 160, 256), mix_transformer, _MIT),
    **{f"mit_b{n}": Source(f"pvt_v2_b{n}", (64, 128, 320, 512), mix_transformer, _MIT) for n in range(1, 6)},
    "mobileone_s0": Source("mobileone_s0", (48, 48, 128, 256, 1024), mobileone),
    "mobileone_s1": Source("mobileone_s1", (64, 96, 192, 512, 1280), mobileone),
    "mobileone_s2": Source("mobileone_s2", (64, 96, 256, 640, 2048), mobileone),
    "mobileone_s3": Source("mobileone_s3", (64, 128, 320, 768, 2048), mobileone),
    "mobileone_s4": Source("mobileone_s4", (64, 192, 448, 896, 2048), mobileone),
}
