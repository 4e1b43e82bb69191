"""Checkpoints: everything needed to continue; after a kill at any moment the newest whole one is found.

    <run_uri>/checkpoints/step-00000100/state.pt     tensors and plain values, read with weights_only
                                        meta.json    written last: a directory without it is not a checkpoint

The mechanism is the same on a disk and in a bucket, and on every platform. Nothing in a checkpoint depends on the
number of workers: the step is the position in the order, and random numbers are a function of (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from typing import Any

import torch

from pipeline import store
from pipeline.errors import CheckpointError, DamagedError, StorageError

FORMAT = 1

logger = logging.getLogger(__name__)


def save(run_uri: str, step: int, state: dict[str, Any], meta: dict[str, Any], *, keep: int) -> str:
    """Write the checkpoint of a step, then remove all but the `keep` newest; returns its URI.

    Args:
        run_uri: the run's directory.
        step: updates done.
        state: tensors and plain Python values.
        meta: plain JSON: fingerprint, recipe, MLflow run id.
        keep: number of checkpoints to keep.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    uri = store.join(run_uri, "checkpoints", _name(step))
    store.remove(store.join(uri, "meta.json"))
    store.write_bytes(store.join(uri, "state.pt"), data)
    mark = {"format": FORMAT, "step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    store.write_json(store.join(uri, "meta.json"), {**meta, **mark})
    _prune(run_uri, keep)
    return uri


def newest(run_uri: str) -> str | None:
    """URI of the newest whole checkpoint of a run, or None. Incomplete ones are passed over."""
    root = store.join(run_uri, "checkpoints")
    for name in _names(run_uri):
        uri = store.join(root, name)
        if _whole(uri):
            return uri
        logger.warning("checkpoint %s is incomplete or damaged; looking for an older one", uri)
    return None


def step_of(uri: str) -> int:
    """Updates done when the checkpoint was written."""
    return int(uri.rstrip("/").rpartition("step-")[2])


def start_of(run_uri: str) -> int:
    """Step at which the run goes on: that of the newest whole checkpoint, else 0."""
    uri = newest(run_uri)
    return step_of(uri) if uri else 0


def next_step(run_uri: str) -> str:
    """Message about what the same command does after a run ended early."""
    try:
        step = start_of(run_uri)
    except StorageError:
        return "the same command goes on from the newest checkpoint, if there is one"
    if step == 0:
        return "no checkpoint was written yet: the same command begins again"
    return f"the same command goes on from the newest checkpoint (step {step})"


def load(uri: str, fingerprint: str, device: torch.device | str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """State and meta of a checkpoint.

    Raises:
        CheckpointError: it is damaged, made by a newer version, or belongs to another recipe.
    """
    hint = f"remove {uri} to go on from an older checkpoint, or give --overwrite to begin again"
    try:
        meta = _meta(uri)
        data = store.read_bytes(store.join(uri, "state.pt"))
    except (FileNotFoundError, DamagedError) as error:
        raise CheckpointError(f"checkpoint {uri} is incomplete: {error}", hint) from error
    if meta["format"] > FORMAT:
        raise CheckpointError(f"checkpoint {uri} has format {meta['format']}, this program reads {FORMAT}")
    if meta["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"checkpoint {uri} belongs to recipe {meta['fingerprint']}, not {fingerprint}",
            f"what differs can be seen in {store.join(uri, 'meta.json')} under 'recipe'",
        )
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise CheckpointError(f"checkpoint {uri} is damaged: state.pt is not what was written", hint)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {uri} cannot be read: {error}", hint) from error
    return state, meta


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _names(run_uri: str) -> list[str]:
    """Names of all checkpoint directories, newest first."""
    found = store.list_dirs(store.join(run_uri, "checkpoints"))
    return sorted((n for n in found if n.startswith("step-") and n[5:].isdigit()), reverse=True)


def _whole(uri: str) -> bool:
    """A store that does not answer is an error here: taken for a missing checkpoint, training would begin again."""
    try:
        return bool(store.size_of(store.join(uri, "state.pt")) == _meta(uri)["bytes"])
    except (FileNotFoundError, DamagedError):
        return False


def _meta(uri: str) -> dict[str, Any]:
    return store.read_record(store.join(uri, "meta.json"), _checked)


def _checked(tree: dict[str, Any]) -> dict[str, Any]:
    """The meta of a checkpoint, if it has what `load` needs."""
    wanted = {"format": int, "bytes": int, "sha256": str, "fingerprint": str}
    other = [name for name, kind in wanted.items() if not isinstance(tree[name], kind)]
    if other:
        raise ValueError(f"{', '.join(other)} of another type")
    return tree


def _prune(run_uri: str, keep: int) -> None:
    for name in _names(run_uri)[keep:]:
        store.remove(store.join(run_uri, "checkpoints", name))
