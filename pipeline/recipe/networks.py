"""Sections about the network: one for each family of decoders."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from pipeline.config import Section

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0)]
Norm = Literal["batch", "group", "instance", "layer", "none"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "hardswish", "mish", "prelu"]
Interpolation = Literal["nearest", "bilinear"]
OutputStride = Literal[8, 16, 32, "auto"]


class LabelHead(Section):
    """A second head that predicts which classes are somewhere in the chip (as SMP's `aux_params`)."""

    pooling: Literal["avg", "max"] = "avg"
    """Over the deepest stage of the encoder."""
    dropout: Share = 0.2
    """Before the linear layer."""
    weight: Weight = 0.2
    """Of its binary cross-entropy in the loss."""


class AuxiliaryHead(Section):
    """A small FCN head on a stage of the encoder that helps it to learn and is not used afterwards (MMSegmentation)."""

    stage: int = -2
    """Position of the stage in the encoder; -1 is the deepest."""
    channels: Positive = 256
    """Width."""
    weight: Weight = 0.4
    """Of its loss."""


class Network(Section):
    """Options of every network."""

    norm: Norm = "batch"
    """Normalisation in the decoder, and in the encoder in place of BatchNorm. `batch` is synchronised over the workers,
    so that the losses do not depend on their number; `layer` is over the channels of each pixel."""
    activation: Activation = "relu"
    """In the decoder."""
    dropout: Share = 0.0
    """Channel dropout before the head."""
    auxiliary: AuxiliaryHead | None = None
    """A helping head on a stage of the encoder; null: none."""
    aux: LabelHead | None = None
    """A helping head that classifies the whole chip; null: none."""


class Encoded(Network):
    """A network on an encoder from timm."""

    encoder: str = "resnet34"
    """Name of a timm model; with `compat: smp` SMP's name."""
    pretrained: bool | str = False
    """false: random weights; true or `imagenet`: timm's own, downloaded by timm; else a weight file, local or s3://
    (safetensors, or a pickle read with weights_only)."""
    depth: Annotated[int, Field(ge=1, le=7)] | None = None
    """Number of encoder stages used, shallowest first; by default all down to a stride of 32."""
    output_stride: OutputStride | None = None
    """Keep the deepest stages at this stride by dilation; auto: as the family likes it; null: as the encoder is."""
    image_size: Positive | None = None
    """Encoders that are made for one image size are built for this one; by default their own. Images of other sizes
    are resized to it inside the encoder."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the encoder, where it has it."""
    freeze: Annotated[int, Field(ge=0)] = 0
    """Number of encoder stages, shallowest first, that do not learn."""
    checkpointing: bool = False
    """Compute the encoder's activations twice instead of keeping them: less memory, more time."""
    compat: Literal["smp"] | None = None
    """smp: the function of segmentation_models_pytorch 0.6 to the last detail, for weights that come from there."""

    @field_validator("pretrained")
    @classmethod
    def _imagenet(cls, value: bool | str) -> bool | str:
        return True if value == "imagenet" else value


class UNet(Encoded):
    """U-Net (Ronneberger et al. 2015) on any encoder."""

    kind: Literal["unet"] = "unet"
    decoder_channels: list[Positive] = [256, 128, 64, 32, 16]
    """Width of the decoder stages, deepest first: one per halving of the size, so five for a stride of 32; of more,
    the first ones are used."""
    attention: Literal["scse"] | None = None
    """Squeeze and excitation in space and channels (Roy et al. 2018) around each block."""
    interpolation: Interpolation = "nearest"
    """How maps are doubled."""
    center: bool = False
    """Two more convolutions on the deepest stage."""


class UNetPlusPlus(Encoded):
    """U-Net++ (Zhou et al. 2018): skips are dense nests of blocks."""

    kind: Literal["unetplusplus"] = "unetplusplus"
    decoder_channels: list[Positive] = [256, 128, 64, 32, 16]
    """Width of the decoder stages, deepest first."""
    attention: Literal["scse"] | None = None
    """Squeeze and excitation in space and channels (Roy et al. 2018) around each block."""
    interpolation: Interpolation = "nearest"
    """How maps are doubled."""
    center: bool = False
    """Two more convolutions on the deepest stage."""
    deep_supervision: Weight | None = None
    """Weight of the mean loss of the nodes of full size before the last one; null: none."""


class UNet3Plus(Encoded):
    """U-Net 3+ (Huang et al. 2020): every decoder stage sees every scale."""

    kind: Literal["unet3plus"] = "unet3plus"
    decoder_channels: Positive = 64
    """Width of each of the branches that a stage joins."""
    deep_supervision: Weight | None = None
    """Weight of the mean loss of the deeper stages; null: none."""


class UNet2015(Network):
    """The U-Net of 2015 from first principles: an encoder of double convolutions, no timm model."""

    kind: Literal["unet2015"] = "unet2015"
    widths: Annotated[list[Positive], Field(min_length=2)] = [64, 128, 256, 512, 1024]
    """Of the levels, shallowest first; each halves the size of the one before."""
    upsampling: Literal["transposed", "nearest", "bilinear"] = "transposed"
    """How maps are doubled: the paper's 2×2 up-convolution, or interpolation and a convolution."""
    bottleneck_dropout: Share = 0.5
    """At the end of the contracting path, as in the paper."""


class MAnet(Encoded):
    """MA-Net (Fan et al. 2020): attention over positions at the deepest stage, over channels at each join."""

    kind: Literal["manet"] = "manet"
    decoder_channels: list[Positive] = [256, 128, 64, 32, 16]
    """Width of the decoder stages, deepest first."""
    attention_channels: Positive = 64
    """Width of keys and queries of the attention over positions; its memory is quadratic in the pixels of the deepest
    stage."""
    interpolation: Interpolation = "nearest"
    """How maps are doubled."""


class LinkNet(Encoded):
    """LinkNet (Chaurasia and Culurciello 2017): light blocks, skips are added."""

    kind: Literal["linknet"] = "linknet"
    last_channels: Positive = 32
    """Width before the head."""


class FPN(Encoded):
    """Feature pyramid network (Lin et al. 2017) with the segmentation branch of Kirillov et al. 2019."""

    kind: Literal["fpn"] = "fpn"
    pyramid_channels: Positive = 256
    """Width of the pyramid."""
    decoder_channels: Positive = 128
    """Width of the segmentation branch."""
    merge: Literal["add", "cat"] = "add"
    """How the scales are joined."""
    dropout: Share = 0.2
    """Channel dropout before the head."""
    interpolation: Interpolation = "nearest"
    """How maps of the pyramid are doubled."""


class PSPNet(Encoded):
    """Pyramid scene parsing network (Zhao et al. 2017)."""

    kind: Literal["pspnet"] = "pspnet"
    depth: Annotated[int, Field(ge=1, le=7)] | None = 3
    """Number of encoder stages used; the decoder works on the deepest."""
    decoder_channels: Positive = 512
    """Width before the head."""
    bins: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 3, 6]
    """Cells per side of each pooling."""
    dropout: Share = 0.2
    """Channel dropout before the head."""


class DeepLabV3(Encoded):
    """DeepLabV3 (Chen et al. 2017): atrous spatial pyramid pooling on a dilated encoder."""

    kind: Literal["deeplabv3"] = "deeplabv3"
    output_stride: OutputStride | None = "auto"
    """Keep the deepest stages at this stride by dilation; auto: 8 where the encoder can be dilated; null: as it is."""
    decoder_channels: Positive = 256
    """Width."""
    rates: Annotated[list[Positive], Field(min_length=1)] = [12, 24, 36]
    """Dilation of the branches."""
    separable: bool = False
    """Depthwise separable convolutions in the branches."""
    branch_dropout: Share = 0.5
    """Dropout where the branches are joined."""


class DeepLabV3Plus(Encoded):
    """DeepLabV3+ (Chen et al. 2018): DeepLabV3 refined by a shallow stage."""

    kind: Literal["deeplabv3plus"] = "deeplabv3plus"
    output_stride: OutputStride | None = "auto"
    """Keep the deepest stages at this stride by dilation; auto: 16 where the encoder can be dilated; null: as it is."""
    decoder_channels: Positive = 256
    """Width."""
    rates: Annotated[list[Positive], Field(min_length=1)] = [12, 24, 36]
    """Dilation of the branches."""
    separable: bool = True
    """Depthwise separable convolutions in the branches."""
    branch_dropout: Share = 0.5
    """Dropout where the branches are joined."""
    low_level_channels: Positive = 48
    """Width to which the stage at stride 4 is reduced."""


class PAN(Encoded):
    """Pyramid attention network (Li et al. 2018)."""

    kind: Literal["pan"] = "pan"
    output_stride: OutputStride | None = "auto"
    """Keep the deepest stages at this stride by dilation; auto: 16 where the encoder can be dilated; null: as it is."""
    decoder_channels: Positive = 32
    """Width."""
    interpolation: Interpolation = "bilinear"
    """How maps are enlarged."""


class UPerNet(Encoded):
    """Unified perceptual parsing (Xiao et al. 2018): pyramid pooling on top of a feature pyramid."""

    kind: Literal["upernet"] = "upernet"
    decoder_channels: Positive = 256
    """Width."""
    bins: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 3, 6]
    """Cells per side of each pooling."""


class SegFormer(Encoded):
    """The all-MLP decoder of SegFormer (Xie et al. 2021) on any encoder."""

    kind: Literal["segformer"] = "segformer"
    decoder_channels: Positive = 256
    """Width."""
    dropout: Share = 0.1
    """Channel dropout before the head."""


class DPT(Encoded):
    """Dense prediction transformer (Ranftl et al. 2021)."""

    kind: Literal["dpt"] = "dpt"
    encoder: str = "vit_base_patch16_224"
    """Name of a timm model; a plain vision transformer is what it is made for."""
    depth: Annotated[int, Field(ge=1, le=7)] | None = 4
    """Number of blocks, spread evenly, or of encoder stages."""
    decoder_channels: Positive = 256
    """Width of the fusion."""
    intermediate_channels: Annotated[list[Positive], Field(min_length=1)] = [256, 512, 1024, 1024]
    """Width to which each block is projected first; of more, the first ones are used."""
    readout: Literal["cat", "add", "ignore"] = "cat"
    """What becomes of the class token."""
    dropout: Share = 0.1
    """Inside the head."""


class FCN(Encoded):
    """Fully convolutional network (Long et al. 2015), as MMSegmentation's FCN head on a dilated encoder."""

    kind: Literal["fcn"] = "fcn"
    output_stride: OutputStride | None = "auto"
    """Keep the deepest stages at this stride by dilation; auto: 8 where the encoder can be dilated; null: as it is."""
    decoder_channels: Positive = 256
    """Width."""
    num_convs: Positive = 2
    """Convolutions before the head."""
    concat_input: bool = True
    """Join what they give with the stage for one more."""
    dropout: Share = 0.1
    """Channel dropout before the head."""


class OCRNet(Encoded):
    """Object-contextual representations (Yuan et al. 2020): a coarse map, refined by what its classes look like."""

    kind: Literal["ocrnet"] = "ocrnet"
    output_stride: OutputStride | None = "auto"
    """Keep the deepest stages at this stride by dilation; auto: 8 where the encoder can be dilated; null: as it is."""
    decoder_channels: Positive = 512
    """Width."""
    key_channels: Positive = 256
    """Width of keys and queries."""
    coarse_weight: Weight = 0.4
    """Of the coarse head's loss."""
    dropout: Share = 0.05
    """Channel dropout before the head."""


Model = Annotated[
    UNet
    | UNetPlusPlus
    | UNet3Plus
    | UNet2015
    | MAnet
    | LinkNet
    | FPN
    | PSPNet
    | PAN
    | DeepLabV3
    | DeepLabV3Plus
    | UPerNet
    | SegFormer
    | DPT
    | FCN
    | OCRNet,
    Field(discriminator="kind"),
]

_ADAPTER: TypeAdapter[Network] = TypeAdapter(Model)


def parse(tree: Any) -> Network:
    """The section that a plain mapping with a `kind` describes.

    Raises:
        ValidationError: it describes none.
    """
    return _ADAPTER.validate_python(tree)


def without_download(section: Network) -> Network:
    """The section without `pretrained`: the weights are available, none are downloaded."""
    return section.model_copy(update={"pretrained": False}) if isinstance(section, Encoded) else section
