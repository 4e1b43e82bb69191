"""SMP's twelve architectures as sections of this package: options, names of weights, and how to recognise each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.model.decoders import (
    deeplab,
    dpt,
    fpn,
    linknet,
    manet,
    pan,
    pspnet,
    segformer,
    unet,
    unetplusplus,
    upernet,
)
from pipeline.recipe import networks as recipe

Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """One of SMP's architectures."""

    section: type[recipe.Encoded]
    names: Names
    """Of the decoder's tensors: SMP's without `decoder.` -> ours; the first that matches as a whole counts."""
    mark: str
    """What only its decoder's keys begin with."""
    options: Mapping[str, str]
    """SMP's options -> our fields."""
    old: Names = ()
    """Names of older versions -> those of 0.6."""
    head: Names = ((r"0\.(.*)", r"1.\1"),)
    """Of the head's tensors: SMP's without `segmentation_head.` -> ours without `head.`."""
    unused: str = r"(?!)"
    """Of the decoder's tensors that SMP has and may not use; where it does, we have them too."""


_NORM = {"decoder_use_norm": "norm", "decoder_use_batchnorm": "norm"}
_UNET = _NORM | {
    "decoder_channels": "decoder_channels",
    "decoder_attention_type": "attention",
    "decoder_interpolation": "interpolation",
}
_DEEPLAB = {
    "encoder_output_stride": "output_stride",
    "decoder_channels": "decoder_channels",
    "decoder_atrous_rates": "rates",
    "decoder_aspp_separable": "separable",
    "decoder_aspp_dropout": "branch_dropout",
}
_FIRST_ATTENTION = r"blocks\.\w+\.attention1\..*"  # of blocks that join nothing
# In the order in which their marks are looked for: the more telling ones first.
FAMILIES: Final[dict[str, Family]] = {
    "manet": Family(
        recipe.MAnet,
        manet.SMP_NAMES,
        r"center\.(top|center|bottom|out)_conv\.|blocks\.\d+\.(hl_conv|SE_[lh]l)\.",
        _NORM
        | {
            "decoder_channels": "decoder_channels",
            "decoder_pab_channels": "attention_channels",
            "decoder_interpolation": "interpolation",
        },
    ),
    "unetplusplus": Family(
        recipe.UNetPlusPlus,
        unetplusplus.SMP_NAMES,
        r"blocks\.x_\d+_\d+\.",
        _UNET,
        unused=_FIRST_ATTENTION + r"|center\..*",
    ),
    "unet": Family(recipe.UNet, unet.SMP_NAMES, r"blocks\.\d+\.conv[12]\.", _UNET, unused=_FIRST_ATTENTION),
    "linknet": Family(recipe.LinkNet, linknet.SMP_NAMES, r"blocks\.\d+\.block\.", _NORM),
    "fpn": Family(
        recipe.FPN,
        fpn.SMP_NAMES,
        r"p5\.|seg_blocks\.",
        {
            "decoder_pyramid_channels": "pyramid_channels",
            "decoder_segmentation_channels": "decoder_channels",
            "decoder_merge_policy": "merge",
            "decoder_dropout": "dropout",
            "decoder_interpolation": "interpolation",
        },
    ),
    "upernet": Family(
        recipe.UPerNet,
        upernet.SMP_NAMES,
        r"feature_norms\.|fpn_(lateral|conv)_blocks\.",
        _NORM | {"decoder_channels": "decoder_channels"},
    ),
    "pspnet": Family(
        recipe.PSPNet,
        pspnet.SMP_NAMES,
        r"psp\.blocks\.\d+\.pool\.",
        {
            "psp_out_channels": "decoder_channels",
            "psp_use_batchnorm": "norm",
            "decoder_use_norm": "norm",
            "psp_dropout": "dropout",
        },
    ),
    "pan": Family(
        recipe.PAN,
        pan.SMP_NAMES,
        r"fpa\.|gau\d\.",
        {
            "encoder_output_stride": "output_stride",
            "decoder_channels": "decoder_channels",
            "decoder_interpolation": "interpolation",
            "upscale_mode": "interpolation",
        },
    ),
    "deeplabv3plus": Family(recipe.DeepLabV3Plus, deeplab.V3PLUS_SMP_NAMES, r"block[12]\.|aspp\.0\.", _DEEPLAB),
    "deeplabv3": Family(
        recipe.DeepLabV3,
        deeplab.V3_SMP_NAMES,
        r"(aspp|0)\.(convs|project)\.",
        _DEEPLAB,
        # Before 0.3 the decoder was a sequence.
        old=((r"0\.(.*)", r"aspp.\1"), (r"1\.(.*)", r"conv.\1"), (r"2\.(.*)", r"bn.\1")),
    ),
    "segformer": Family(
        recipe.SegFormer,
        segformer.SMP_NAMES,
        r"mlp_stage\.|fuse_stage\.",
        {"decoder_segmentation_channels": "decoder_channels"},
    ),
    "dpt": Family(
        recipe.DPT,
        dpt.SMP_NAMES,
        r"reassemble_blocks\.|fusion_blocks\.|projection_blocks\.",
        {
            "decoder_readout": "readout",
            "decoder_intermediate_channels": "intermediate_channels",
            "decoder_fusion_channels": "decoder_channels",
        },
        head=dpt.SMP_HEAD_NAMES,
    ),
}
# Of every architecture; the last three are timm's, of `tu-` encoders.
_COMMON: Final = {
    "encoder_depth": "depth",
    "aux_params": "aux",
    "img_size": "image_size",
    "drop_path_rate": "drop_path",
}
# What says nothing about the function of the trained network, or cannot be otherwise here.
_SILENT: Final = frozenset(
    {
        "activation",  # what comes out are logits
        "encoder_weights",
        "upsampling",  # logits always get the size of the input
        "dynamic_img_size",
        "strict_img_size",
        "pretrained",
    }
)


def family(architecture: str) -> Family:
    """By the name that SMP's create_model takes, or that of the class.

    Raises:
        RecipeError: SMP has no such architecture.
    """
    name = architecture.lower()
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(FAMILIES))}"
        raise RecipeError(f"architecture: SMP has no {architecture!r}", hint)
    return FAMILIES[name]


def section(architecture: str, encoder: str, options: Mapping[str, Any], classes: int) -> recipe.Encoded:
    """Our section for a network of SMP; `options` are those of its constructor.

    Raises:
        RecipeError: an unknown option, or one that no network here, or none that SMP could run, corresponds to.
    """
    made = family(architecture)
    fields = {**_COMMON, **made.options}
    values: dict[str, Any] = {"encoder": encoder, "compat": "smp", **_constants(made, encoder)}
    for name, value in options.items():
        if name in _SILENT or name.startswith("_"):
            continue
        if name == "encoder_output_indices" and value is None:
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1, 0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(fields))}"
            raise RecipeError(f"{name}: from_smp knows no such option of {architecture}", hint)
        change = _CHANGES.get(fields[name])
        values[fields[name]] = change(name, value, classes) if change else value
    return config.validate(made.section, values, f"from_smp({architecture})")


def rename(key: str, names: Iterable[tuple[str, str]]) -> str:
    """A key in our words; as it is where no row matches it as a whole."""
    for pattern, replacement in names:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key


def guess(keys: Collection[str]) -> str | None:
    """The architecture whose decoder has keys such as these (without `decoder.`)."""
    for name, made in FAMILIES.items():
        if any(re.match(made.mark, key) for key in keys):
            return name
    return None


def _constants(made: Family, encoder: str) -> dict[str, Any]:
    """Options that SMP fixes."""
    if made.section in (recipe.UNet, recipe.UNetPlusPlus):
        return {"center": encoder.startswith("vgg")}
    return {"dropout": 0.0} if made.section is recipe.SegFormer else {}


def _norm(name: str, value: Any, classes: int) -> str:
    kinds = {True: "batch", "batchnorm": "batch", False: "none", "identity": "none"}
    if isinstance(value, Mapping):
        kind, rest = value.get("type"), {k: v for k, v in value.items() if k != "type"}
        if kind == "instancenorm" and rest == {"affine": True}:
            return "instance"
        if not rest and kind in kinds:
            return kinds[kind]
    elif isinstance(value, (bool, str)) and value in kinds:
        return kinds[value]
    raise RecipeError(
        f"{name}: {value!r} has no counterpart here",
        "True, 'batchnorm', False, 'identity' and {'type': 'instancenorm', 'affine': True} have",
    )


def _aux(name: str, value: Any, classes: int) -> dict[str, Any] | None:
    if not value:
        return None
    if value.get("classes") != classes:
        raise RecipeError(
            f"{name}: a label head of {value.get('classes')} classes in addition to {classes} classes of pixels",
            "here both heads have the same; give aux_params=None to leave the label head away",
        )
    dropout = value.get("dropout")
    return {"pooling": value.get("pooling", "avg"), "dropout": 0.2 if dropout is None else dropout}


def _same(name: str, value: Any, classes: int) -> Any:
    return list(value) if isinstance(value, tuple) else value


_CHANGES: Final[dict[str, Callable[[str, Any, int], Any]]] = {
    "norm": _norm,
    "aux": _aux,
    "decoder_channels": _same,
    "rates": _same,
    "intermediate_channels": _same,
}
