"""A network in a directory or prefix: what `Network.save` wrote, or the network of a bundle.

For networks that grew up in other people's loops. What this program trains is a bundle, which knows more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from pydantic import TypeAdapter

from pipeline import store
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.errors import BundleError, DamagedError, RecipeError
from pipeline.model import bundle as bundles
from pipeline.model import weights_io
from pipeline.model.networks import NETWORK_META, NETWORK_VERSION, Network, build
from pipeline.recipe import networks as recipe

_MOST_PLANES: Final = 1 << 16
_SECTION: Final[TypeAdapter[recipe.Model]] = TypeAdapter(recipe.Model)


class _Described(NamedTuple):
    """Contents of network.json."""

    section: recipe.Network
    bands: int
    classes: int
    weights_sha256: str
    normalisation: Normalisation | None


def load_dir(uri: str | Path, *, device: str | torch.device = "cpu") -> Network:
    """The network in a directory or s3:// prefix, in eval mode; nothing is downloaded from anywhere else.

    Args:
        uri: what `network.save` wrote, or a bundle.
        device: where it shall be.

    Raises:
        BundleError: it is neither, is incomplete or damaged, or was made by a newer version.
        StorageError: the store does not answer.
    """
    uri = str(uri)
    network: Network
    if not store.exists(store.join(uri, NETWORK_META)):
        if store.exists(store.join(uri, bundles.META)):
            network = bundles.load(uri).network
            return network.to(device)
        raise BundleError(
            f"{uri} is neither a network nor a bundle: it has no {NETWORK_META} and no {bundles.META}",
            f"give a directory or s3:// prefix that network.save or a training wrote, with {weights_io.WEIGHTS} in it",
        )
    said = _read(uri)
    weights = weights_io.check(uri, NETWORK_META, said.weights_sha256)
    with torch.random.fork_rng(devices=[]):  # building draws random weights; the caller's random state must not change
        try:
            network = build(said.section, said.bands, said.classes)
        except RecipeError as error:
            raise BundleError(
                f"{uri}: {NETWORK_META} describes no network: {error.message}", "save the network again"
            ) from error
    if said.normalisation is not None:
        network.set_normalisation(said.normalisation)
    weights_io.load_state(network, weights, uri, NETWORK_META)
    return network.to(device).eval()


def _read(uri: str) -> _Described:
    try:
        place = store.join(uri, NETWORK_META)
        return store.read_record(place, partial(_parse, uri), most_bytes=weights_io.MOST_BYTES)
    except DamagedError as error:
        raise BundleError(error.message, "save the network again") from error


def _parse(uri: str, tree: Any) -> _Described:
    weights_io.check_version(uri, tree, NETWORK_META, "network_version", NETWORK_VERSION, "network")
    normalisation = Normalisation.from_json(tree["normalisation"]) if tree.get("normalisation") else None
    bands, classes = int(tree["bands"]), int(tree["classes"])
    if not (0 < bands <= _MOST_PLANES and 0 < classes <= _MOST_PLANES):
        raise ValueError(f"{bands:.3g} bands and {classes:.3g} classes")
    section = _SECTION.validate_python(tree["model"])
    return _Described(section, bands, classes, str(tree["weights_sha256"]), normalisation)
