"""A model as a directory or prefix of two files, without pickle: weights as safetensors, and JSON that describes them.

Bundles and networks alone are stored this way; the JSON of each says what else is known, and the weights' sha256.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import store
from pipeline.errors import BundleError

WEIGHTS: Final = "weights.safetensors"
MOST_BYTES: Final = 64 << 20
"""Of the JSON: no recipe and no statistics come near it."""


def write(uri: str, meta: str, state: Mapping[str, Tensor], describe: Callable[[str], dict[str, Any]]) -> None:
    """Write both files; they replace what is there, at once.

    Args:
        uri: directory or s3:// prefix.
        meta: name of the JSON file.
        state: tensors by name; equal tensors give equal bytes.
        describe: called with the sha256 of the weights; returns what the JSON file says.

    Raises:
        StorageError: they cannot be written.
    """
    # Clones, since safetensors refuses tensors that share memory.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with tempfile.TemporaryDirectory(prefix="segpipe-") as temporary:
        local = Path(temporary)
        save_file(weights, local / WEIGHTS)
        store.write_json(str(local / meta), describe(_sha256(local / WEIGHTS)))
        store.upload_dir(local, uri, last=meta)


def fetch(uri: str) -> Path:
    """A local copy of the weights of the model at `uri`, or the file itself.

    Raises:
        BundleError: there are none.
        StorageError: the store does not answer.
    """
    try:
        return store.download_dir(uri, names=(WEIGHTS,)) / WEIGHTS
    except FileNotFoundError as error:
        hint = "copy the directory again from where it was made"
        raise BundleError(f"{uri} is incomplete: it has no {WEIGHTS}", hint) from error


def check(uri: str, meta: str, sha256: str) -> Path:
    """A local copy of the weights, compared with the digest that the JSON file `meta` holds.

    Raises:
        BundleError: there are no weights, or others.
        StorageError: the store does not answer.
    """
    path = fetch(uri)
    found = _sha256(path)
    if found != sha256:
        raise BundleError(
            f"{uri}: {WEIGHTS} has changed since it was saved: its sha256 is {found[:12]}..., "
            f"{meta} says {sha256[:12]}...",
            "copy the directory again from where it was made",
        )
    return path


def load_state(network: nn.Module, path: Path, uri: str, meta: str) -> None:
    """Copy weights from a file into a network, on the CPU.

    Raises:
        BundleError: names or shapes differ, or the file is damaged.
    """
    try:
        network.load_state_dict(load_file(path, device="cpu"))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{uri}: the weights do not fit the network in {meta}: {str(error).splitlines()[0]}",
            "it was saved by another version of segpipe or timm; install that version",
        ) from error


def program() -> str:
    """Version of this program; "?" from a source tree that is not installed."""
    try:
        return version("segpipe")
    except PackageNotFoundError:
        return "?"


def check_version(uri: str, tree: Any, meta: str, key: str, newest: int, what: str) -> int:
    """The version of a layout that a JSON file names by `key`; `what` it is goes into messages.

    Raises:
        BundleError: it names none, or a newer one than this program reads.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get(key), int):
        raise BundleError(f"{uri} is not a {what}: {meta} has no {key}", f"save the {what} again")
    found: int = tree[key]
    if found > newest:
        by = tree.get("program", "?")
        raise BundleError(
            f"{uri} is a {what} of version {found}, saved by segpipe {by}; "
            f"this is segpipe {program()}, which reads versions up to {newest}",
            f"install segpipe {by} or newer",
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
