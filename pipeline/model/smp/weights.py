"""Convert weights of segmentation_models_pytorch (SMP) 0.2 to 0.6 to a network and a bundle with the same logits.

    bundle = pipeline.from_smp("old.pth", architecture="unet", encoder="resnet34", classes=4)
    bundle = pipeline.from_smp("folder_of_save_pretrained")
    bundle.network(pixels)

What cannot be loaded exactly is refused. docs/smp.md has the whole story.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pipeline import config as configs
from pipeline import store
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.labels.classes import Classes, default_color
from pipeline.errors import BundleError, RecipeError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle
from pipeline.model.networks import Network, build
from pipeline.model.smp import families
from pipeline.model.smp.checkpoints import PARTS, few, read, without_prefix
from pipeline.recipe import Predict

logger = logging.getLogger(__name__)

_COUNTER: Final = "num_batches_tracked"


@dataclass(frozen=True)
class Loaded:
    """Unused tensors of a checkpoint, and tensors of the network that it lacks."""

    unused: tuple[str, ...]
    """Keys of the checkpoint: of layers that compute nothing in SMP either, and of what is no part of the network."""
    missing: tuple[str, ...]
    """SMP's keys of what kept its initial value: only counters of batches."""


def from_smp(  # noqa: PLR0913 - SMP's arguments, and what else a bundle needs
    source: str | Path | Mapping[str, Any],
    *,
    architecture: str | None = None,
    encoder: str | None = None,
    classes: int | None = None,
    in_channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Bundle:
    """A bundle of a network that was trained with SMP; `bundle.network` gives the same logits.

    A network of one class and a sigmoid becomes one of two classes, background and that class: its logits are 0 and
    SMP's, so that the softmax is the sigmoid.

    Args:
        source: a .pth, .pt, .ckpt (read with weights_only) or .safetensors file, a folder of `save_pretrained`, or a
            state dict, which is left as it is. Prefixes of wrappers (Lightning, DDP, torch.compile) do not matter.
        architecture: as SMP's create_model calls it: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3,
            deeplabv3plus, pan, upernet, segformer or dpt. A folder of `save_pretrained` knows it, and all below.
        encoder: SMP's `encoder_name`.
        classes: number of classes that SMP was given; by default as many as the head has.
        in_channels: bands; by default 3.
        mean, std: of each band, in units of the raw pixels, that the network was trained on images less and over; by
            default 0 and 1: normalise by yourself.
        names: of the classes.
        out: directory or s3:// prefix for the bundle; by default a directory that lives as long as the process.
        options: SMP's further options, by SMP's names, such as `encoder_depth`, `decoder_channels`,
            `decoder_attention_type`, `aux_params`.

    Returns:
        The bundle. Its `recipe["from_smp"]` says what it was made from, and which keys were unused and missing.

    Raises:
        RecipeError: an unknown architecture, encoder or option, or one without a counterpart.
        BundleError: the file cannot be read, or its weights are not of this network.
    """
    state, found = read(source)
    given = {"architecture": architecture, "encoder_name": encoder, "classes": classes, "in_channels": in_channels}
    known: dict[str, Any] = {**found, **{k: v for k, v in given.items() if v is not None}, **options}
    tensors, others = without_prefix(state)
    if "aux_params" in options and not options["aux_params"]:  # said on purpose
        others += [key for key in tensors if key.startswith(PARTS[3])]
        tensors = {key: value for key, value in tensors.items() if not key.startswith(PARTS[3])}
    kind, name = _asked(known, tensors)
    bands = int(known.pop("in_channels", 3))
    count = int(known.pop("classes", None) or _classes_found(tensors))
    _check_classes(tensors, count)
    if count == 1:
        tensors, count = _two_classes(tensors), 2
    section = families.section(kind, name, known, count)
    with torch.random.fork_rng(devices=[]):  # building draws random weights; the caller's random state must not change
        network = build(section, bands, count)
    loaded = fill(network, tensors, kind)
    loaded = Loaded((*loaded.unused, *others), loaded.missing)
    _tell(source, loaded)
    statistics = _statistics(bands, count, mean, std)
    network.set_statistics(statistics.mean, statistics.std)
    origin = {
        "source": str(source) if isinstance(source, (str, Path)) else "state dict",
        "architecture": kind,
        "encoder": name,
        "options": {k: v for k, v in known.items() if v is not None},
        "unused": list(loaded.unused),
        "missing": list(loaded.missing),
    }
    recipe = {"name": f"smp-{kind}-{name}", "model": section.model_dump(mode="json"), "from_smp": origin}
    return bundles.save(
        out if out is not None else _temporary(),
        network,
        model=section,
        classes=_classes(names, count),
        bands=tuple(f"band_{i}" for i in range(1, bands + 1)),
        dtype="uint8" if mean is not None else "float32",
        statistics=statistics,
        predict=Predict(),
        recipe=json.loads(json.dumps(recipe, default=str)),
        fingerprint=configs.fingerprint(section),
        manifest_digest="",
        step=0,
        scores={},
    )


def fill(network: Network, state: Mapping[str, Tensor], architecture: str) -> Loaded:
    """Put SMP's tensors, named as in SMP 0.6 or before, into a network of `compat: smp`; all or nothing.

    Raises:
        BundleError: tensors are missing, of another shape, or of another network.
    """
    made = families.family(architecture)
    parts = {part: {k.removeprefix(part): k for k in state if k.startswith(part)} for part in PARTS}
    _check_architecture(architecture, parts["decoder."])
    ours: dict[str, str] = {}  # our key -> SMP's
    ours |= {f"encoder.{k}": f"encoder.{v}" for k, v in network.encoder.find(parts["encoder."]).items()}  # type: ignore[operator]
    for key, theirs in parts["decoder."].items():
        ours[f"decoder.{families.rename(families.rename(key, made.old), made.names)}"] = theirs
    ours |= {f"head.{families.rename(k, made.head)}": v for k, v in parts["segmentation_head."].items()}
    ours |= {f"labels.{k}": v for k, v in parts["classification_head."].items()}
    own = {k: v for k, v in network.state_dict().items() if k not in ("mean", "std")}
    spare = {k for name, k in parts["encoder."].items() if network.encoder.is_unused(name)}  # type: ignore[operator]
    spare |= {k for name, k in parts["decoder."].items() if re.fullmatch(made.unused, name) or not state[k].numel()}
    missing = [key for key in own if key not in ours]
    unused = sorted(set(state) - {v for k, v in ours.items() if k in own})
    values = {key: state[theirs] for key, theirs in ours.items() if key in own}
    wrong = [key for key, value in values.items() if own[key].shape != value.shape]
    strange = [key for key in unused if key not in spare]
    if strange or wrong or any(not key.endswith(_COUNTER) for key in missing):
        raise _refusal(network, architecture, own, state, ours, missing, wrong, strange)
    network.load_state_dict(values, strict=False)
    return Loaded(tuple(unused), tuple(missing))


def _asked(known: dict[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Architecture and encoder, taken out of what is known."""
    kind, name = known.pop("architecture", None), known.pop("encoder_name", None)
    if kind is None or name is None:
        guess = families.guess([k.removeprefix(PARTS[1]) for k in tensors if k.startswith(PARTS[1])])
        raise RecipeError(
            f"from_smp: the weights do not say their {'architecture' if kind is None else 'encoder'}",
            f"give architecture={guess or 'unet'!r}, encoder='resnet34' or whatever they were trained with",
        )
    families.family(kind)
    return kind.lower(), name


def _head(tensors: Mapping[str, Tensor]) -> str:
    """Name of the last convolution, without `.weight`."""
    kernels = [key for key, value in tensors.items() if key.startswith(PARTS[2]) and value.ndim == 4]
    if not kernels:
        raise BundleError("this is no network of SMP: its segmentation_head has no convolution", "give a whole model")
    return max(kernels).removesuffix(".weight")


def _classes_found(tensors: Mapping[str, Tensor]) -> int:
    return tensors[f"{_head(tensors)}.weight"].shape[0]


def _check_classes(tensors: Mapping[str, Tensor], count: int) -> None:
    found = _classes_found(tensors)
    if found != count:
        shape = tuple(tensors[f"{_head(tensors)}.weight"].shape)
        raise BundleError(
            f"the weights are of {found} classes, not {count}: {_head(tensors)}.weight is {shape}",
            f"give classes={found}",
        )


def _two_classes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head of one logit as one of two, the first of which is always 0."""
    keys = [f"{_head(tensors)}.{kind}" for kind in ("weight", "bias")]
    return {**tensors, **{key: torch.cat([torch.zeros_like(tensors[key]), tensors[key]]) for key in keys}}


def _check_architecture(architecture: str, keys: Iterable[str]) -> None:
    found = families.guess(list(keys))
    if found != architecture.lower():
        raise BundleError(
            f"the weights are not of {architecture}: their decoder is "
            + (f"that of {found}" if found else "of no architecture of SMP")
            + f" ({few(keys) or 'empty'})",
            f"give architecture={found!r}" if found else "give the weights of a whole model of SMP",
        )


def _refusal(
    network: Network,
    architecture: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    ours: Mapping[str, str],
    missing: Sequence[str],
    wrong: Sequence[str],
    strange: Sequence[str],
) -> BundleError:
    stem = next(key for key, value in own.items() if value.ndim == 4)
    if stem in wrong and state[ours[stem]].shape[1] != own[stem].shape[1]:
        bands = state[ours[stem]].shape[1]
        return BundleError(
            f"the weights are of {bands} bands, not {network.bands}: {ours[stem]} is {tuple(state[ours[stem]].shape)}",
            f"give in_channels={bands}",
        )
    shapes = [f"{ours[k]} {tuple(state[ours[k]].shape)} instead of {tuple(own[k].shape)}" for k in wrong]
    named = [
        f"encoder.{network.encoder.smp_key_of(k.removeprefix('encoder.'))}" if k.startswith("encoder.") else k  # type: ignore[operator]
        for k in missing
        if not k.endswith(_COUNTER)
    ]
    parts = {"missing": named, "of another shape": shapes, "that it does not have": strange}
    said = "; ".join(f"{len(keys)} {what}: {few(keys)}" for what, keys in parts.items() if keys)
    hint = "give the options that they were trained with under SMP's names, such as decoder_channels"
    if any(key.startswith("encoder.") for key in (*missing, *wrong, *strange)):
        hint = "give the encoder and the encoder_depth that they were trained with"
    elif strange and all(key.startswith(PARTS[3]) for key in strange):
        hint = "give the aux_params that they were trained with, or aux_params=None to leave the label head away"
    return BundleError(f"the weights are not of {architecture} on {network.encoder.name}: {said}", hint)


def _tell(source: Any, loaded: Loaded) -> None:
    place = source if isinstance(source, (str, Path)) else "state dict"
    for what, keys in (("not used", loaded.unused), ("missing", loaded.missing)):
        if keys:
            logger.info("%s: %d tensors %s: %s", place, len(keys), what, few(keys))


def _statistics(bands: int, classes: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Statistics:
    mean, std = mean if mean is not None else [0.0] * bands, std if std is not None else [1.0] * bands
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != bands:
            raise RecipeError(f"from_smp: {name} of {len(values)} bands for a network of {bands}", "give one per band")
    zeros = (0.0,) * bands
    return Statistics(0, tuple(map(float, mean)), tuple(map(float, std)), zeros, zeros, (0,) * classes)


def _classes(names: Sequence[str] | None, count: int) -> Classes:
    given = tuple(names) if names is not None else tuple(f"class_{i}" for i in range(count))
    if len(given) == count - 1 == 1:
        given = ("background", *given)
    if len(given) != count:
        raise RecipeError(f"from_smp: {len(given)} names for {count} classes", "give one per class")
    return Classes(given, tuple(default_color(i) for i in range(count)), tuple((i,) for i in range(count)))


def _temporary() -> Path:
    """A temporary place for a bundle without one; it lives as long as the process."""
    place = Path(tempfile.mkdtemp(prefix="segpipe-smp-"))
    store.remove_at_exit(place)
    return place
