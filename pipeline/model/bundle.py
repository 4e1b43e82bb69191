"""The bundle: everything needed to predict from a raw raster, in a directory or prefix of two files, without pickle.

bundle.json           what the network is, its classes and bands, where it comes from, and a digest of all this
weights.safetensors   its weights; their sha256 is in bundle.json
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.chips.statistics.normalise import Normalisation, plain
from pipeline.data.labels.classes import Classes
from pipeline.errors import BundleError, DamagedError, DataError
from pipeline.metrics import Task
from pipeline.model import optimise, weights_io
from pipeline.model.networks import Network, build
from pipeline.model.weights_io import MOST_BYTES, WEIGHTS
from pipeline.recipe import Predict
from pipeline.recipe import networks as sections
from pipeline.recipe.data import BEFORE, Reading

BUNDLE_VERSION: Final = 3
"""The second says how pixels are normalised; in the first it was always by mean and standard deviation. From the third
on, bundle.json holds a digest of all else that it says."""
_WITH_DIGEST: Final = 3
_DIGEST: Final = "sha256"
META: Final = "bundle.json"
FILES: Final = (META, WEIGHTS)


def save(  # noqa: PLR0913 - one argument for each field of the record that it returns
    uri: str | Path,
    network: nn.Module | Mapping[str, Tensor],
    *,
    model: sections.Network,
    classes: Classes,
    bands: tuple[str, ...],
    dtype: str,
    statistics: Statistics,
    predict: Predict,
    recipe: dict[str, Any],
    fingerprint: str,
    manifest_digest: str,
    step: int,
    scores: Mapping[str, float],
    run_id: str | None = None,
    normalisation: Normalisation | None = None,
    file_bands: Sequence[str] = (),
    pixel_size: tuple[float, float, str] | None = None,
    file_nodata: float | None = None,
) -> Bundle:
    """Write a bundle to a directory or s3:// prefix; it replaces what is there, at once.

    Args:
        uri: where.
        network: the network, or its state dict; the same bytes come from equal weights.
        model, classes, ...: as in `Bundle`.

    Raises:
        StorageError: it cannot be written.
    """
    state = network.state_dict() if isinstance(network, nn.Module) else network
    made: list[Bundle] = []

    def describe(weights_sha256: str) -> dict[str, Any]:
        bundle = Bundle(
            uri=str(uri),
            model=sections.without_download(model),
            classes=classes,
            bands=tuple(bands),
            dtype=dtype,
            statistics=statistics,
            predict=predict,
            recipe=recipe,
            fingerprint=fingerprint,
            manifest_digest=manifest_digest,
            step=step,
            scores=dict(scores),
            weights_sha256=weights_sha256,
            run_id=run_id,
            normalisation=normalisation or plain(statistics),
            file_bands=tuple(file_bands),
            pixel_size=pixel_size,
            file_nodata=file_nodata,
        )
        tree = store.nan_to_null(bundle.to_json())
        made.append(replace(bundle, meta_sha256=_sha256_of(tree)))
        return {**tree, _DIGEST: made[0].meta_sha256}

    weights_io.write(str(uri), META, state, describe)
    return made[0]


def load(uri: str | Path) -> Bundle:
    """Read a bundle from a directory or s3:// prefix, and check that its weights are those it was saved with.

    Raises:
        BundleError: it is no bundle, is incomplete or damaged, or was made by a newer version.
        StorageError: the store does not answer.
    """
    uri = str(uri)
    try:
        bundle = store.read_record(store.join(uri, META), partial(_parse, uri), most_bytes=MOST_BYTES)
    except FileNotFoundError as error:
        raise BundleError(f"{uri} is not a bundle: it has no {META}", _candidates(uri)) from error
    except DataError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise BundleError(f"{uri} is not a bundle: it is a file", _candidates(uri)) from error
        if isinstance(error, DamagedError):
            raise BundleError(error.message, "make the bundle again") from error
        raise
    weights_io.check(uri, META, bundle.weights_sha256)
    return bundle


def _parse(uri: str, tree: Any) -> Bundle:
    found_version = weights_io.check_version(uri, tree, META, "bundle_version", BUNDLE_VERSION, "bundle")
    bundle = Bundle.from_json(uri, tree)
    if found_version >= _WITH_DIGEST and tree.get(_DIGEST) != (found := _sha256_of(tree)):
        raise BundleError(
            f"{uri}: {META} has changed since the bundle was made: its sha256 is {found[:12]}..., "
            f"it says {str(tree.get(_DIGEST))[:12]}...",
            "copy the bundle again from where it was made",
        )
    if len(bundle.statistics.mean) != bundle.num_bands:
        counts = f"{bundle.num_bands} bands but statistics of {len(bundle.statistics.mean)}"
        raise BundleError(f"{uri}: {META} is damaged: {counts}", "make the bundle again")
    return bundle


def _candidates(uri: str) -> str:
    """Hint for a place that is not a bundle: perhaps one is just below it."""
    beneath = [name for name in ("", *store.list_dirs(uri)) if store.exists(store.join(uri, name, META))]
    if beneath:
        return f"did you mean {store.join(uri, beneath[0])}?"
    return f"give a directory or s3:// prefix that holds {META} and {WEIGHTS}, runs:/ID or models:/NAME@ALIAS"


def _sha256_of(tree: Mapping[str, Any]) -> str:
    """Digest of the contents of a bundle.json besides its own digest, however it is laid out."""
    said = {key: value for key, value in tree.items() if key != _DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A trained network and its origin; the weights stay in their file until `network` is called."""

    uri: str
    """Directory or s3:// prefix that holds the two files."""
    model: sections.Network
    classes: Classes
    bands: tuple[str, ...]
    dtype: str
    """Of the raw pixels that it was trained on."""
    statistics: Statistics
    predict: Predict
    """Window and blending by default."""
    recipe: dict[str, Any]
    """The whole recipe, resolved."""
    fingerprint: str
    """Of the recipe."""
    manifest_digest: str
    """Version of the data."""
    step: int
    scores: dict[str, float]
    """Of the last validation; may be empty."""
    weights_sha256: str
    run_id: str | None
    """MLflow run that made it."""
    normalisation: Normalisation
    """What the network does to raw pixels first."""
    file_bands: tuple[str, ...] = ()
    """What the files of the training call the bands; () where they differ in that, and in bundles of older versions."""
    pixel_size: tuple[float, float, str] | None = None
    """Smallest and largest side of a pixel in the training, and their unit; None where that is not known."""
    file_nodata: float | None = None
    """The nodata value that all files of the training declare; None where they do not, or that is not known."""
    meta_sha256: str | None = None
    """64 hex digits of all that its bundle.json says; None in bundles of older versions."""

    @property
    def num_bands(self) -> int:
        """C."""
        return len(self.bands)

    @property
    def fill(self) -> tuple[float, ...]:
        """Value per band to put under invalid pixels: it becomes zero."""
        return self.normalisation.fill

    @property
    def task(self) -> Task:
        """multiclass, or multilabel: a pixel can be of several classes or none."""
        task: Task = self.recipe.get("data", {}).get("task", "multiclass")
        return task

    @property
    def reading(self) -> Reading:
        """The recipe's section on reading images; that of an older recipe with the defaults of then."""
        section = self.recipe.get("data", {}).get("reading", {})
        return Reading.model_validate(BEFORE | section)

    @property
    def nodata(self) -> float | None:
        """The nodata value that the recipe gives, else the one that all files of the training declare, if known."""
        given = self.recipe.get("data", {}).get("nodata")
        return self.file_nodata if given is None else float(given)

    @property
    def digest(self) -> str:
        """12 hex digits that name the weights."""
        return self.weights_sha256[:12]

    @cached_property
    def network(self) -> Network:
        """The network on the CPU in eval mode, read when it is first asked for, always the same object.

        Raw pixels [N, C, H, W] in, logits [N, K, H, W] out.

        Raises:
            BundleError: the weights are missing or belong to another network.
        """
        with torch.random.fork_rng(devices=[]):  # building draws random weights; keep the caller's random state
            network = build(self.model, self.num_bands, len(self.classes))
        network.set_normalisation(self.normalisation)
        weights_io.load_state(network, weights_io.fetch(self.uri), self.uri, META)
        return network.to(memory_format=torch.channels_last).eval()

    def optimised(self, *, precision: optimise.Precision = "auto") -> Network:
        """A copy of the network made for prediction on this processor; see `pipeline.model.optimise`.

        Raises:
            BundleError: the weights are missing or belong to another network.
        """
        return optimise.optimised(self.network, precision=precision)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: processes that get a bundle read its weights themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "network"}

    def to_json(self) -> dict[str, Any]:
        """As plain values; the place is left out, since a bundle can be copied, and the digest of these values."""
        return {
            "bundle_version": BUNDLE_VERSION,
            "program": weights_io.program(),
            "model": self.model.model_dump(mode="json"),
            "classes": self.classes.to_json(),
            "bands": list(self.bands),
            "dtype": self.dtype,
            "statistics": self.statistics.to_json(),
            "normalisation": self.normalisation.to_json(),
            "predict": self.predict.model_dump(mode="json"),
            "recipe": json.loads(json.dumps(self.recipe)),
            "fingerprint": self.fingerprint,
            "manifest_digest": self.manifest_digest,
            "step": self.step,
            "scores": store.nan_to_null(self.scores),
            "weights_sha256": self.weights_sha256,
            "run_id": self.run_id,
            "file_bands": list(self.file_bands),
            "pixel_size": self.pixel_size and list(self.pixel_size),
            "file_nodata": self.file_nodata,
        }

    @classmethod
    def from_json(cls, uri: str, tree: Mapping[str, Any]) -> Bundle:
        """The opposite of `to_json`, for a bundle at `uri`; older ones know only mean and standard deviation."""
        statistics = Statistics.from_json(tree["statistics"])
        normalisation = tree.get("normalisation")
        size = tree.get("pixel_size")
        return cls(
            uri=uri,
            model=sections.parse(tree["model"]),
            classes=Classes.from_json(tree["classes"]),
            bands=tuple(tree["bands"]),
            dtype=str(tree["dtype"]),
            statistics=statistics,
            predict=Predict.model_validate(tree["predict"]),
            recipe=dict(tree["recipe"]),
            fingerprint=str(tree["fingerprint"]),
            manifest_digest=str(tree["manifest_digest"]),
            step=int(tree["step"]),
            scores={name: math.nan if value is None else float(value) for name, value in tree["scores"].items()},
            weights_sha256=str(tree["weights_sha256"]),
            run_id=tree["run_id"],
            normalisation=Normalisation.from_json(normalisation) if normalisation else plain(statistics),
            file_bands=tuple(map(str, tree.get("file_bands", ()))),
            pixel_size=(float(size[0]), float(size[1]), str(size[2])) if size else None,
            file_nodata=None if tree.get("file_nodata") is None else float(tree["file_nodata"]),
            meta_sha256=tree.get(_DIGEST),
        )

    def at(self, uri: str) -> Bundle:
        """The same bundle at another URI."""
        return replace(self, uri=uri)
