"""A network alone, without the data it has learned from: a directory or prefix with two files, and no pickle.

network.json          its section of the recipe, its numbers of bands and classes, and the digest of its weights
weights.safetensors   its state: parameters, running moments, band statistics

For networks that grew up in other people's loops. What this program trains is a bundle, which knows more.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import store
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.errors import BundleError, DamagedError, RecipeError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import WEIGHTS, _program, _sha256
from pipeline.model.networks import Network, build
from pipeline.recipe import networks as recipe

NETWORK_VERSION: Final = 1
META: Final = "network.json"
_MOST_PLANES: Final = 1 << 16
_SECTION: Final[TypeAdapter[recipe.Model]] = TypeAdapter(recipe.Model)


def save(network: Network, uri: str | Path) -> None:
    """Write a network to a directory or s3:// prefix; it replaces what is there, at once.

    Raises:
        BundleError: what `load_model` builds from the network's section would not take its weights: layers were
            replaced, or it was optimised.
        StorageError: it cannot be written.
    """
    section = network.section
    if isinstance(section, recipe.Encoded):  # the weights are here, nothing is to be fetched
        section = section.model_copy(update={"pretrained": False})
    state = network.state_dict()
    _check(network, section, state)
    with tempfile.TemporaryDirectory(prefix="segpipe-") as temporary:
        local = Path(temporary)
        # Clones, since safetensors refuses tensors that share memory.
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in state.items()}, local / WEIGHTS)
        record = {
            "network_version": NETWORK_VERSION,
            "program": _program(),
            "model": section.model_dump(mode="json"),
            "bands": network.bands,
            "classes": network.classes,
            "weights_sha256": _sha256(local / WEIGHTS),
            "normalisation": network.normalisation and network.normalisation.to_json(),
        }
        store.write_json(str(local / META), record)
        store.upload_dir(local, str(uri), last=META)


def load_model(uri: str | Path, *, device: str | torch.device = "cpu") -> Network:
    """The network in a directory or s3:// prefix, in eval mode; nothing is downloaded from anywhere else.

    Args:
        uri: what `network.save` wrote, or a bundle, also as `models:/NAME@ALIAS` or `runs:/ID`.
        device: where it shall be.

    Raises:
        BundleError: it is neither, is incomplete or damaged, or was made by a newer version.
        StorageError: the store does not answer.
    """
    uri = str(uri)
    network: Network
    if uri.startswith(("runs:/", "models:/")):
        from pipeline.registry import versions  # MLflow takes seconds to import, and a directory does not need it

        network = versions.pull(uri).network
        return network.to(device)
    if not store.exists(store.join(uri, META)):
        if store.exists(store.join(uri, bundles.META)):
            network = bundles.load(uri).network
            return network.to(device)
        raise BundleError(
            f"{uri} is neither a network nor a bundle: it has no {META} and no {bundles.META}",
            f"give a directory or s3:// prefix that network.save or a training wrote, with {WEIGHTS} in it",
        )
    section, bands, classes, digest, normalisation = _read(uri)
    weights = _weights(uri)
    found = _sha256(weights)
    if found != digest:
        raise BundleError(
            f"{uri}: {WEIGHTS} has changed since it was saved: its sha256 is {found[:12]}..., "
            f"{META} says {digest[:12]}...",
            "copy the directory again from where it was made",
        )
    with torch.random.fork_rng(devices=[]):  # building draws random weights; nobody else's sequence may change
        try:
            network = build(section, bands, classes)
        except RecipeError as error:
            raise BundleError(
                f"{uri}: {META} describes no network: {error.message}", "save the network again"
            ) from error
    if normalisation is not None:
        network.set_normalisation(normalisation)
    try:
        network.load_state_dict(load_file(weights, device="cpu"))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{uri}: the weights do not fit the network in {META}: {str(error).splitlines()[0]}",
            "it was saved by another version of segpipe or timm; install that version",
        ) from error
    return network.to(device).eval()


_Read = tuple[recipe.Network, int, int, str, Normalisation | None]


def _read(uri: str) -> _Read:
    """Section, bands, classes, digest of the weights, and how pixels are normalised if the file says so."""
    try:
        return store.read_record(store.join(uri, META), partial(_parse, uri), most_bytes=bundles.MOST_BYTES)
    except DamagedError as error:
        raise BundleError(error.message, "save the network again") from error


def _parse(uri: str, tree: Any) -> _Read:
    if not isinstance(tree, dict) or not isinstance(tree.get("network_version"), int):
        raise BundleError(f"{uri} is not a network: {META} has no network_version", "save the network again")
    if tree["network_version"] > NETWORK_VERSION:
        raise BundleError(
            f"{uri} is a network of version {tree['network_version']}, saved by segpipe {tree.get('program', '?')}; "
            f"this is segpipe {_program()}, which reads versions up to {NETWORK_VERSION}",
            f"install segpipe {tree.get('program', '?')} or newer",
        )
    section = _SECTION.validate_python(tree["model"])
    normalisation = Normalisation.from_json(tree["normalisation"]) if tree.get("normalisation") else None
    bands, classes = int(tree["bands"]), int(tree["classes"])
    if not (0 < bands <= _MOST_PLANES and 0 < classes <= _MOST_PLANES):
        raise ValueError(f"{bands:.3g} bands and {classes:.3g} classes")
    return section, bands, classes, str(tree["weights_sha256"]), normalisation


def _weights(uri: str) -> Path:
    try:
        return store.download_dir(uri, names=(WEIGHTS,)) / WEIGHTS
    except FileNotFoundError as error:
        hint = "copy the directory again from where it was made"
        raise BundleError(f"{uri} is incomplete: it has no {WEIGHTS}", hint) from error


def _check(network: Network, section: recipe.Network, state: dict[str, Tensor]) -> None:
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
