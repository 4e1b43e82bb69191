"""Find and read SMP's weights: files, folders of `save_pretrained`, state dicts, with prefixes of wrappers removed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from pipeline import store
from pipeline.errors import BundleError, RecipeError
from pipeline.model.encoders import pretrained_weights

PARTS: Final = ("encoder.", "decoder.", "segmentation_head.", "classification_head.")
_HEAD: Final = PARTS[2]
_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"


def read(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The state dict, and the options that a folder of `save_pretrained` holds (`architecture` is the class).

    Raises:
        BundleError: no such file, or not one that holds nothing but tensors and plain values.
    """
    if isinstance(source, Mapping):
        return _unwrapped(source), {}
    path = Path(source).expanduser()
    if not path.is_dir():
        return _read_file(str(source)), {}
    try:
        found = json.loads((path / _CONFIG).read_text())
        found["architecture"] = found.pop("_model_class")
    except (OSError, *store.NOT_AS_WRITTEN) as error:
        raise BundleError(
            f"{path} is no folder of save_pretrained: {_CONFIG} cannot be read ({type(error).__name__}: {error})",
            f"give the folder that holds {_CONFIG} and {_WEIGHTS}, or a weight file",
        ) from error
    return _read_file(str(path / _WEIGHTS)), found


def without_prefix(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The network's tensors without what wrappers put before their names, and the other keys.

    Raises:
        BundleError: no network of SMP, or several.
    """
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    prefixes = Counter(key[: key.index(_HEAD)] for key in tensors if _HEAD in key)
    if not prefixes:
        raise BundleError(
            f"this is no network of SMP: none of its {len(tensors)} tensors belongs to a segmentation_head"
            f" (they are {few(tensors)})",
            "give the weights of a whole model; those of an encoder alone are for model.pretrained",
        )
    if len(prefixes) > 1 and "" not in prefixes:
        several = " and ".join(f"{p}*" for p in prefixes)
        raise BundleError(f"these are several networks: {several}", "give a state dict of one of them")
    prefix = "" if "" in prefixes else next(iter(prefixes))
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    mine = {key: value for key, value in inside.items() if key.startswith(PARTS)}
    return mine, [key for key in tensors if key.removeprefix(prefix) not in mine or not key.startswith(prefix)]


def _read_file(path: str) -> Mapping[str, Any]:
    try:
        return pretrained_weights._read(path)
    except RecipeError as error:
        raise BundleError(error.message.removeprefix("model.pretrained: "), error.hint) from error


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for wrapper in pretrained_weights._WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return state


def few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = list(names)
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
