"""Networks: encoder, decoder and head as one module that takes raw pixel values and gives logits."""

from __future__ import annotations

import copy
import difflib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import config
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.errors import BundleError, RecipeError, SceneError
from pipeline.model import weights_io
from pipeline.model.decoders import (
    deeplab,
    dpt,
    fcn,
    fpn,
    linknet,
    manet,
    ocrnet,
    pan,
    pspnet,
    segformer,
    unet,
    unet3plus,
    unet2015,
    unetplusplus,
    upernet,
)
from pipeline.model.encoders.encoder import Encoder
from pipeline.model.encoders.measure import reached
from pipeline.model.heads import auxiliary_head, label_head, segmentation_head
from pipeline.model.input_normalisation import KINDS, Normalise, column
from pipeline.model.outputs import Outputs
from pipeline.model.smp import smp_encoder
from pipeline.recipe import networks as recipe

logger = logging.getLogger(__name__)

NETWORK_VERSION: Final = 1
NETWORK_META: Final = "network.json"


class Stages(Protocol):
    """Interface of an encoder that decoders need."""

    bands: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int


class Network(nn.Module):
    """Normalise, encode, decode, classify each pixel.

    Attributes:
        encoder, decoder, head: the parts.
        section: what it was built from.
        bands, classes: channels in and out.
        multiple: heights and widths that are multiples of this are not padded.
        auxiliary_weights: of the losses of `Outputs.auxiliary`, in their order.
        label_weight: of the loss of `Outputs.labels`; None without that head.
        mean, std: buffers [1,C,1,1] in units of the raw pixels: what becomes zero, and how far from it values lie; 0
            and 1 until `set_statistics` or `set_normalisation`.
        normalisation: what `set_normalisation` was given.
        normalise: of the kinds that mean and std do not cover, what does it instead.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, head: nn.Module, section: recipe.Network, *, classes: int
    ) -> None:
        """Join the parts; the section says which further heads help it to learn.

        Raises:
            RecipeError: an auxiliary head on a stage that the encoder does not have.
        """
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.section, self.bands, self.classes = section, int(encoder.bands), classes  # type: ignore[arg-type]
        self.multiple = math.lcm(int(encoder.multiple), getattr(decoder, "multiple", 1))  # type: ignore[arg-type]
        self.align_corners = isinstance(section, recipe.Encoded) and section.compat == "smp"
        channels: tuple[int, ...] = encoder.channels  # type: ignore[assignment]
        self.auxiliary_weights: tuple[float, ...] = tuple(decoder.auxiliary_weights)  # type: ignore[arg-type]
        self.auxiliary: nn.Module | None = None
        if section.auxiliary is not None:
            self.stage = _stage(section.auxiliary.stage, len(channels))
            self.auxiliary = auxiliary_head(channels[self.stage], classes, section.auxiliary, section.norm)
            self.auxiliary_weights += (section.auxiliary.weight,)
        self.labels = label_head(channels[-1], classes, section.aux) if section.aux is not None else None
        self.label_weight = section.aux.weight if section.aux is not None else None
        self.register_buffer("mean", torch.zeros(1, self.bands, 1, 1))
        self.register_buffer("std", torch.ones(1, self.bands, 1, 1))
        self.normalisation: Normalisation | None = None
        self.normalise: Normalise | None = None
        if not getattr(encoder, "nested", True):
            _still_unreached(self)

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the band statistics that raw pixels are normalised with; a constant band (std 0) is only centred.

        Raises:
            SceneError: another number of bands than the network has.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != self.bands:
                raise SceneError(f"{name} of {len(values)} bands for a network of {self.bands}")
        self.mean.copy_(torch.tensor(mean, dtype=torch.float64).view_as(self.mean))
        scale = torch.tensor(std, dtype=torch.float64).view_as(self.std)
        self.std.copy_(torch.where(scale > 0, scale, 1.0))

    def set_normalisation(self, normalisation: Normalisation) -> None:
        """Take what raw pixels are normalised with; it is saved with the weights.

        Raises:
            SceneError: another number of bands than the network has.
        """
        if len(normalisation.shift) != self.bands:
            raise SceneError(f"a normalisation of {len(normalisation.shift)} bands for a network of {self.bands}")
        self.normalisation = normalisation
        kind = KINDS.get(normalisation.kind)
        self.normalise = kind(normalisation).to(self.mean.device) if kind is not None else None
        self.mean.copy_(column(normalisation.shift if kind is None else normalisation.fill))
        self.std.copy_(column(normalisation.scale if kind is None else normalisation.spread))

    def save(self, uri: str | Path) -> None:
        """Write the network alone to a directory or s3:// prefix, for `pipeline.load_model`.

        Raises:
            BundleError: its layers are not those that its section describes.
            StorageError: it cannot be written.
        """
        save_model(self, uri)

    def forward(self, image: Tensor) -> Tensor | Outputs:
        """Logits [N,K,H,W] of raw pixels [N,C,H,W] of any integer or float type and any size.

        In training mode a network with auxiliary heads gives `Outputs`.

        Raises:
            SceneError: another number of bands than the network has.
        """
        return self.outputs(image) if self.training and self.helped else self.logits(image)

    @property
    def helped(self) -> bool:
        """Whether there are heads that only help to learn."""
        return bool(self.auxiliary_weights) or self.labels is not None

    def logits(self, image: Tensor) -> Tensor:
        """Logits [N,K,H,W] of raw pixels, in any mode."""
        return self._whole(*self._decoded(image), image)

    def _decoded(self, image: Tensor) -> tuple[Tensor, torch.Size]:
        """Logits of the head, and the padded image's size; intermediate maps are freed."""
        x = self._prepare(image)
        features, *tokens = self._encode(x)
        size = x.shape[-2:]
        del x
        if getattr(self.decoder, "spends", False):
            # A copy is emptied on the way, not what a hook on the encoder may hold.
            features = [*features]
            return self.head(self.decoder(features, spend=True)), size
        return self.head(self.decoder(features, *tokens)), size

    def outputs(self, image: Tensor) -> Outputs:
        """Everything that the network has to say of raw pixels, in any mode."""
        x = self._prepare(image)
        features, *tokens = self._encode(x)
        helpers: list[Tensor] = []
        if self.decoder.auxiliary_weights:
            decoded, auxiliary = self.decoder.forward_all(features)  # type: ignore[operator]
            helpers += auxiliary
        else:
            decoded = self.decoder(features, *tokens)
        if self.auxiliary is not None:
            helpers.append(self.auxiliary(features[self.stage]))
        labels = self.labels(features[-1]) if self.labels is not None else None
        size = x.shape[-2:]
        return Outputs(
            self._whole(self.head(decoded), size, image), tuple(self._whole(h, size, image) for h in helpers), labels
        )

    def _encode(self, x: Tensor) -> tuple[Any, ...]:
        """The features, and their prefix tokens where the decoder wants them."""
        if getattr(self.decoder, "wants_tokens", False):
            return self.encoder.forward_tokens(x)  # type: ignore[operator, no-any-return]
        return (self.encoder(x),)

    def _prepare(self, image: Tensor) -> Tensor:
        """Normalised, and padded with zeros (the mean) at the bottom and right to whole pixels of the deepest stage.

        Two at least: BatchNorm cannot learn from a single value per channel.
        """
        if image.ndim != 4 or image.shape[1] != self.bands:
            raise SceneError(f"an image of shape {tuple(image.shape)} for a network of {self.bands} bands")
        x = image.to(torch.float32)
        x = (x - self.mean).div_(self.std) if self.normalise is None else self.normalise(x)
        bottom, right = (max(-size % self.multiple, 2 * self.multiple - size) for size in x.shape[-2:])
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x

    def _whole(self, logits: Tensor, size: Sequence[int], image: Tensor) -> Tensor:
        """`logits` enlarged to the size of the padded image and cropped to that of `image`."""
        if logits.shape[-2:] != tuple(size):
            logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=self.align_corners)
        return logits[..., : image.shape[-2], : image.shape[-1]]


def _stage(position: int, count: int) -> int:
    if not -count <= position < count:
        raise RecipeError(f"model.auxiliary.stage: {position}, but the encoder has {count} stages")
    return position % count


def _still_unreached(network: Network) -> None:
    """Let parameters not learn that no output depends on, because the decoder does not take every stage: they would
    never get a gradient, which plain DDP does not forgive."""
    drawn = copy.deepcopy(network).to("meta").train()
    with torch.enable_grad():
        seen = drawn.outputs(torch.empty(2, network.bands, 2 * network.multiple, 2 * network.multiple, device="meta"))
    ends = [seen.logits, *seen.auxiliary, *([] if seen.labels is None else [seen.labels])]
    names = reached(drawn, ends)[-1]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def encoder_of(section: recipe.Encoded, bands: int, *, flat: bool = False) -> nn.Module:
    """The encoder that a section describes.

    Args:
        section: of the network.
        bands: channels of the input.
        flat: a plain transformer gives its blocks at their own stride, without a pyramid.

    Raises:
        RecipeError: it does not exist or cannot be used so, or its weights cannot be had.
    """
    if section.compat == "smp":
        return smp_encoder.build(section, bands)
    return Encoder(
        section.encoder,
        bands=bands,
        pretrained=section.pretrained,
        depth=section.depth,
        norm=section.norm,
        output_stride=None if section.output_stride == "auto" else section.output_stride,
        image_size=section.image_size,
        drop_path=section.drop_path,
        freeze=section.freeze,
        checkpointing=section.checkpointing,
        flat=flat,
    )


def on_encoder(decoder_class: Callable[..., nn.Module]) -> Callable[[Any, int, int], Network]:
    """Builder for a family whose decoder works on any encoder.

    Decoders with an attribute `flat` want a plain transformer's blocks without a pyramid: those that work on one deep
    map, and DPT. Those with an `output_stride` like their encoder dilated.
    """

    def build_on_encoder(section: recipe.Encoded, bands: int, classes: int) -> Network:
        flat = getattr(decoder_class, "flat", False)
        section, encoder = _settled(section, bands, getattr(decoder_class, "output_stride", None), flat=flat)
        wanted = getattr(decoder_class, "wants_tokens", False)
        tokens = {"prefix_tokens": encoder.num_prefix_tokens} if wanted else {}
        decoder = decoder_class(encoder.channels, encoder.strides, section, classes, **tokens)
        return join(section, encoder, decoder, classes)

    return build_on_encoder


def _settled(section: recipe.Encoded, bands: int, liked: int | None, *, flat: bool) -> tuple[recipe.Encoded, Any]:
    """The section with a number for its output stride, and the encoder."""
    if section.output_stride != "auto":
        return section, encoder_of(section, bands, flat=flat)
    plain = section.model_copy(update={"output_stride": None})
    if liked is None:
        return plain, encoder_of(plain, bands, flat=flat)
    dilated = section.model_copy(update={"output_stride": liked})
    try:
        return dilated, encoder_of(dilated, bands, flat=flat)
    except RecipeError:
        if section.compat == "smp":  # which refuses these encoders as well
            raise
        encoder = encoder_of(plain, bands, flat=flat)
        logger.info("%s cannot be dilated to stride %d: it stays as it is", section.encoder, liked)
        return plain, encoder


def build_unet2015(section: recipe.UNet2015, bands: int, classes: int) -> Network:
    """The U-Net of 2015, with an encoder of its own."""
    encoder = unet2015.UNet2015Encoder(section, bands)
    return join(
        section, encoder, unet2015.UNet2015Decoder(encoder.channels, encoder.strides, section, classes), classes
    )


def join(section: recipe.Network, encoder: nn.Module, decoder: nn.Module, classes: int) -> Network:
    """Encoder and decoder with the family's head: its own (`make_head`), or a convolution of `head_kernel`."""
    if hasattr(decoder, "make_head"):
        head: nn.Module = decoder.make_head(classes)  # type: ignore[operator]
    else:
        kernel = getattr(decoder, "head_kernel", 3)
        head = segmentation_head(decoder.channels, classes, section.dropout, kernel)  # type: ignore[arg-type]
    return Network(encoder, decoder, head, section, classes=classes)


NETWORKS: dict[str, Callable[[Any, int, int], Network]] = {
    "unet": on_encoder(unet.UNetDecoder),
    "unetplusplus": on_encoder(unetplusplus.UNetPlusPlusDecoder),
    "unet3plus": on_encoder(unet3plus.UNet3PlusDecoder),
    "unet2015": build_unet2015,
    "manet": on_encoder(manet.MAnetDecoder),
    "linknet": on_encoder(linknet.LinkNetDecoder),
    "fpn": on_encoder(fpn.FPNDecoder),
    "pspnet": on_encoder(pspnet.PSPNetDecoder),
    "pan": on_encoder(pan.PANDecoder),
    "deeplabv3": on_encoder(deeplab.V3),
    "deeplabv3plus": on_encoder(deeplab.V3Plus),
    "upernet": on_encoder(upernet.UPerNetDecoder),
    "segformer": on_encoder(segformer.SegFormerDecoder),
    "dpt": on_encoder(dpt.DPTDecoder),
    "fcn": on_encoder(fcn.FCNDecoder),
    "ocrnet": on_encoder(ocrnet.OCRNetDecoder),
}
SECTIONS: dict[str, type[recipe.Network]] = {
    section.model_fields["kind"].default: section for section in get_args(get_args(recipe.Model)[0])
}


def build(section: recipe.Network, bands: int, classes: int) -> Network:
    """The network that a recipe's `model` describes, with random or pretrained weights.

    Raises:
        RecipeError: the encoder does not exist or cannot be used, or its weights cannot be had.
    """
    return NETWORKS[section.kind](section, bands, classes)  # type: ignore[attr-defined]


def create_model(
    kind: str = "unet",
    *,
    encoder: str | None = None,
    bands: int = 3,
    classes: int = 2,
    pretrained: bool | str = False,
    **options: Any,
) -> Network:
    """A network in one line; `options` are the other fields of the recipe's `model` section.

    By default the encoder is the family's usual one.

    Raises:
        RecipeError: an unknown kind, encoder or option; it names the nearest.
    """
    if kind not in NETWORKS:
        near = difflib.get_close_matches(kind, NETWORKS, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"networks are {', '.join(NETWORKS)}"
        raise RecipeError(f"model.kind: there is no network {kind!r}", hint)
    if bands < 1 or classes < 1:
        raise RecipeError(f"a network of {bands} bands and {classes} classes", "both must be at least 1")
    given = {"encoder": encoder, "pretrained": pretrained or None}
    values = {"kind": kind, **{name: value for name, value in given.items() if value is not None}, **options}
    return build(config.validate(SECTIONS[kind], values, "model"), bands, classes)


def save_model(network: Network, uri: str | Path) -> None:
    """Write a network to a directory or s3:// prefix; it replaces what is there, at once.

    network.json          its section of the recipe, its numbers of bands and classes, and the digest of its weights
    weights.safetensors   its state: parameters, running moments, band statistics

    Raises:
        BundleError: what `load_model` builds from the network's section would not take its weights: layers were
            replaced, or it was optimised.
        StorageError: it cannot be written.
    """
    section = network.section
    if isinstance(section, recipe.Encoded):  # the weights are here, nothing is to be fetched
        section = section.model_copy(update={"pretrained": False})
    state = network.state_dict()
    _check_described(network, section, state)

    def describe(weights_sha256: str) -> dict[str, Any]:
        return {
            "network_version": NETWORK_VERSION,
            "program": weights_io.program(),
            "model": section.model_dump(mode="json"),
            "bands": network.bands,
            "classes": network.classes,
            "weights_sha256": weights_sha256,
            "normalisation": network.normalisation and network.normalisation.to_json(),
        }

    weights_io.write(str(uri), NETWORK_META, state, describe)


def _check_described(network: Network, section: recipe.Network, state: dict[str, Tensor]) -> None:
    """Refuse to save what could not be loaded."""
    with torch.device("meta"):  # shapes are all that is needed
        built = build(section, network.bands, network.classes)
        if network.normalisation is not None:
            built.set_normalisation(network.normalisation)
        expected = built.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in state.items()}:
        other = sorted(name for name in shapes.keys() ^ state.keys())
        raise BundleError(
            f"this network is not what its section describes: {len(other)} names of its state differ"
            + (f", such as {other[0]}" if other else " in no name, but shapes do"),
            "save the network that create_model made; for one whose layers were changed, torch.save its state_dict",
        )
