"""Models by URI: the one place that distinguishes directories, runs and registered models.

MLflow takes seconds to import; a directory does not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from pipeline.model import bundle as bundles
from pipeline.model import model_dir
from pipeline.model.bundle import Bundle
from pipeline.model.networks import Network
from pipeline.recipe import Recipe

_IN_MLFLOW: Final = ("runs:/", "models:/")


def open_bundle(bundle: Bundle | str | Path, *, tracking: str | None = None, recipe: Recipe | None = None) -> Bundle:
    """The bundle at a URI; a bundle is given back as it is.

    Args:
        bundle: directory, s3://, runs:/ID[/PATH], models:/NAME/VERSION or models:/NAME@ALIAS. From MLflow the bundle's
            two files are copied to a directory that lives as long as this process.
        tracking: MLflow server; by default MLFLOW_TRACKING_URI, else SQLite in the default output directory.
        recipe: names the server where `tracking` does not.

    Raises:
        BundleError: there is no such run, model, version or alias (it says which there are), or the bundle is not
            what was registered, or is damaged.
        TrackingError: the server does not answer.
        StorageError: the store does not answer.
    """
    if isinstance(bundle, Bundle):
        return bundle
    uri = str(bundle)
    if not uri.startswith(_IN_MLFLOW):
        return bundles.load(uri)
    from pipeline.registry import server, versions

    if tracking is None and recipe is not None:
        tracking = server.tracking_uri(recipe)
    return versions.fetch(uri, tracking=tracking)


def pull(uri: str, *, tracking: str | None = None) -> Bundle:
    """A bundle from a directory, s3://, runs:/ID[/PATH], models:/NAME/VERSION or models:/NAME@ALIAS.

    Args and errors are those of `open_bundle`.
    """
    return open_bundle(uri, tracking=tracking)


def load_model(uri: str | Path, *, device: str | torch.device = "cpu") -> Network:
    """The network at a URI, in eval mode; nothing is downloaded from anywhere else.

    Args:
        uri: what `network.save` wrote, or a bundle, also as `models:/NAME@ALIAS` or `runs:/ID`.
        device: where it shall be.

    Raises:
        BundleError: it is neither, is incomplete or damaged, or was made by a newer version.
        StorageError: the store does not answer.
    """
    if str(uri).startswith(_IN_MLFLOW):
        network: Network = open_bundle(uri).network
        return network.to(device)
    return model_dir.load_dir(uri, device=device)
