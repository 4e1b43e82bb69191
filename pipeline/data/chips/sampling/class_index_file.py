"""The index of classes as a compressed npz file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips.sampling.class_index import Presence, Runs
from pipeline.errors import ManifestError, PipelineError

PRESENCE_VERSION: Final = 1


def to_bytes(presence: Presence) -> bytes:
    """The content of the file."""
    arrays: dict[str, Any] = {
        "version": np.array(PRESENCE_VERSION),
        "ids": np.array(presence.ids, np.str_),
        "shapes": presence.shapes,
        "cell": np.array(presence.cell),
        "num_classes": np.array(len(presence.classes)),
        "valid_pixels": presence.valid_pixels,
        "valid_starts": presence.valid_starts,
        "valid_shares": presence.valid_shares,
    }
    named = {f"class_{k}": runs for k, runs in enumerate(presence.classes)} | {"foreground": presence.foreground}
    for name, runs in named.items():
        arrays |= {f"{name}_starts": runs.starts, f"{name}_lengths": runs.lengths}
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def from_bytes(content: bytes, name: str) -> Presence:
    """The opposite; `name` is for the message.

    Raises:
        ManifestError: it is damaged, or newer than this program.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if int(arrays["version"]) > PRESENCE_VERSION:
                raise ManifestError(f"{name} was written by a newer version", "use it, or remove the file")
            return _from_arrays(arrays)
    except PipelineError:
        raise
    except (OSError, EOFError, BadZipFile, zlib.error, struct.error, *store.NOT_AS_WRITTEN) as error:
        raise ManifestError(
            f"{name} is damaged, or no index of classes ({error})", "remove it; it will be made again"
        ) from error


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Presence:
    def runs(name: str) -> Runs:
        return Runs(arrays[f"{name}_starts"], arrays[f"{name}_lengths"])

    return Presence(
        ids=tuple(map(str, arrays["ids"])),
        shapes=arrays["shapes"],
        cell=int(arrays["cell"]),
        classes=tuple(runs(f"class_{k}") for k in range(int(arrays["num_classes"]))),
        foreground=runs("foreground"),
        valid_pixels=arrays["valid_pixels"],
        valid_starts=arrays["valid_starts"],
        valid_shares=arrays["valid_shares"].astype(np.uint8),
    )
