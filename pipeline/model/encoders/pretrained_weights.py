"""Load encoder weights from a file, whatever its prefixes and classifier, and report what fitted."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import store
from pipeline.errors import RecipeError
from pipeline.uris import local_path

logger = logging.getLogger(__name__)

_PREFIXES = ("module.", "encoder.", "backbone.", "model.", "body.")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
Adapt = Callable[[int, Tensor], Tensor]


def load(model: nn.Module, path: str, config: Mapping[str, Any], adapt: Adapt) -> None:
    """Load what fits from a weight file into an encoder.

    Keys are compared without the prefixes of wrappers and without the difference of `.` and `_` (timm renames
    `stages.0` to `stages_0` when it cuts a model into features). The classifier's keys are dropped.

    Args:
        model: what to fill.
        path: safetensors, or a pickle that holds nothing but tensors and plain values; local, or s3://.
        config: timm's description of the model: names of `first_conv` and `classifier`.
        adapt: (bands, weight of the first convolution) -> that weight for so many bands.

    Raises:
        RecipeError: no such file, not a weight file, or nothing in it fits.
        StorageError: the store cannot be read.
    """
    classifier = tuple(_canonical(f"{name}.") for name in _names(config.get("classifier")))
    read = {_canonical(k): v for k, v in _read(path).items()}
    given = {k: v for k, v in read.items() if not k.startswith(classifier)}
    stems = {_canonical(f"{name}.weight") for name in _names(config.get("first_conv"))}
    state, missing, used = model.state_dict(), [], set()
    for key, own in state.items():
        name = _canonical(key)
        value = given.get(name)
        if value is not None and name in stems and value.shape[1] == 3 != own.shape[1]:
            value = adapt(own.shape[1], value)
        if value is None or value.shape != own.shape:
            missing.append(key)
            continue
        used.add(name)
        state[key] = value
    if not any(_canonical(key) in used for key, _ in model.named_parameters()):
        raise RecipeError(
            f"model.pretrained: nothing in {path} fits the encoder (it holds {_few(given)}; wanted {_few(state)})",
            "give weights of the same timm model",
        )
    model.load_state_dict(state)
    _warn(path, len(state), [k for k in missing if "num_batches_tracked" not in k], sorted(given.keys() - used))


def _warn(path: str, total: int, missing: list[str], unused: list[str]) -> None:
    logger.info("%s: %d of %d encoder tensors loaded", path, total - len(missing), total)
    if missing:
        logger.warning("%s: %d missing or of another shape, left as they were: %s", path, len(missing), _few(missing))
    if unused:
        logger.info("%s: %d not used: %s", path, len(unused), _few(unused))


def _read(path: str) -> dict[str, Tensor]:
    file = _local(path)
    try:
        loaded: Any = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        said = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise RecipeError(
            f"model.pretrained: {path} cannot be read ({type(error).__name__}{said})",
            "give safetensors, or a torch.save of a state dict that holds nothing but tensors",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise RecipeError(f"model.pretrained: {path} holds a {type(loaded).__name__}, not a state dict")
    return {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}


def _local(path: str) -> Path:
    """The file itself, or a copy that lives as long as this process."""
    with contextlib.suppress(FileNotFoundError):
        file = Path(path).expanduser()
        if not store.is_local(path):
            directory, _, name = path.rpartition("/")
            file = store.download_dir(directory, names=[name]) / name
        elif "://" in path:
            file = local_path(path)
        if file.is_file():
            return file
    raise RecipeError(
        f"model.pretrained: no weight file {path}", "give the path of a file, or true for timm's own weights"
    )


def _unpickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _canonical(key: str) -> str:
    while any(key.startswith(p) for p in _PREFIXES):
        key = key.partition(".")[2]
    return key.replace("_", ".")


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _few(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
