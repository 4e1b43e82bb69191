"""Build the index of classes: read every mask once, piece by piece, and store the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips.sampling import class_index_file
from pipeline.data.chips.sampling.class_index import FULL, Presence, Runs, cell_for
from pipeline.data.labels.classes import IGNORE
from pipeline.data.parallel import local
from pipeline.data.parallel.local import Map
from pipeline.data.rasters.windows import Window, divide
from pipeline.data.scenes.scene import Scene
from pipeline.errors import ManifestError
from pipeline.log import Advance
from pipeline.recipe.sampling import Sampling

logger = logging.getLogger(__name__)

ReadMask = Callable[[Scene, Window], NDArray[np.uint8]]
"""The mask of a window: ids and IGNORE [h, w], or of multilabel data 0, 1 and IGNORE per class [K, h, w]."""

_PIECE_PIXELS: Final = 1024


class _Piece(NamedTuple):
    """What the cells of some rows hold: [K, rows, cols], [rows, cols], and shares in 255ths [rows, cols]; valid
    pixels in all."""

    classes: NDArray[np.bool_]
    foreground: NDArray[np.bool_]
    shares: NDArray[np.uint8]
    num_valid: int


def current(
    folder: str,
    digest: str,
    scenes: Sequence[Scene],
    sampling: Sampling,
    read_mask: ReadMask,
    *,
    num_classes: int,
    mapped: Map = local.mapped,
    progress: Advance | None = None,
) -> Presence:
    """The index of a manifest's scenes that lies in `folder`; made and written now if there is none.

    Args:
        folder: of the manifests.
        digest: the manifest's.
        scenes: of the split that chips are taken from.
        sampling: says how small windows are, and so how small cells must be.
        read_mask: reads the mask of a window.
        num_classes: of the masks.
        mapped: does the reading, which makes no difference to what is found.
        progress: is called with pieces read and all pieces.

    Raises:
        DataError: a mask cannot be read, or the file is damaged or of other scenes.
    """
    cell = cell_for(sampling)
    uri = sidecar(folder, digest, cell)
    try:
        found = class_index_file.from_bytes(store.read_bytes(uri), uri)
    except FileNotFoundError:
        logger.info("no index of classes yet: reading the masks of %d scenes", len(scenes))
        made = build(scenes, read_mask, num_classes=num_classes, cell=cell, mapped=mapped, progress=progress)
        store.write_bytes(uri, class_index_file.to_bytes(made))
        return made
    if found.ids != tuple(s.id for s in scenes) or len(found.classes) != num_classes:
        raise ManifestError(f"{uri} is of other scenes or classes", "remove it; it will be made again")
    return found


def sidecar(folder: str, digest: str, cell: int) -> str:
    """URI of the index of a manifest."""
    return store.join(folder, f"{digest[:12]}.presence-{cell}.npz")


def build(
    scenes: Sequence[Scene],
    read_mask: ReadMask,
    *,
    num_classes: int,
    cell: int,
    mapped: Map = local.mapped,
    progress: Advance | None = None,
) -> Presence:
    """Read all masks, a job of `mapped` for each strip of pieces of 1024² pixels.

    Raises:
        DataError: what `read_mask` raises.
    """
    windows = list(_windows(scenes, cell))
    runs: list[list[Runs]] = [[] for _ in range(num_classes + 1)]
    starts: list[NDArray[np.int64]] = []
    shares: list[NDArray[np.uint8]] = []
    valid_pixels = {s.id: 0 for s in scenes}
    first = 0
    look = partial(_look, read_mask=read_mask, num_classes=num_classes, cell=cell)
    for done, piece in enumerate(mapped(look, windows), 1):
        for kept, held in zip(runs, (*piece.classes, piece.foreground), strict=True):
            kept.append(Runs.of(held.ravel(), first))
        flat = piece.shares.ravel()
        changes = np.flatnonzero(np.diff(flat.astype(np.int16), prepend=-1))
        starts.append(changes + first)
        shares.append(flat[changes])
        first += flat.size
        valid_pixels[windows[done - 1][0].id] += piece.num_valid
        if progress is not None:
            progress(done, len(windows))
    *classes, foreground = (Runs.joined(parts) for parts in runs)
    return Presence(
        ids=tuple(s.id for s in scenes),
        shapes=np.array([(s.slices, s.height, s.width) for s in scenes], np.int64).reshape(-1, 3),
        cell=cell,
        classes=tuple(classes),
        foreground=foreground,
        valid_pixels=np.array([*valid_pixels.values()], np.int64),
        valid_starts=np.concatenate([np.empty(0, np.int64), *starts]),
        valid_shares=np.concatenate([np.empty(0, np.uint8), *shares]),
    )


def _windows(scenes: Sequence[Scene], cell: int) -> Iterator[tuple[Scene, Window]]:
    """Strips over the whole width, in the order of the cells' numbers."""
    rows = max(1, _PIECE_PIXELS // cell) * cell
    for scene in scenes:
        for window in divide(scene.height, scene.width, rows, scene.width, scene.slices):
            yield scene, window


def _look(job: tuple[Scene, Window], read_mask: ReadMask, num_classes: int, cell: int) -> _Piece:
    """Contents of the cells of a strip."""
    scene, strip = job
    cols = max(1, _PIECE_PIXELS // cell) * cell
    parts = []
    for col in range(0, strip.width, cols):
        window = strip._replace(col=col, width=min(cols, strip.width - col))
        parts.append(_held(read_mask(scene, window), num_classes, cell))
    classes, foreground, shares, num_valid = zip(*parts, strict=True)
    joined = [np.concatenate(arrays, axis=-1) for arrays in (classes, foreground, shares)]
    return _Piece(joined[0], joined[1], joined[2], sum(num_valid))


def _held(mask: NDArray[np.uint8], num_classes: int, cell: int) -> _Piece:
    """Contents of the cells of a mask; the last ones of a row or column may be smaller."""
    height, width = mask.shape[-2:]
    rows, cols = -(-height // cell), -(-width // cell)
    pixels = _pixels_per_cell(height, cell)[:, None] * _pixels_per_cell(width, cell)
    if mask.ndim == 3:
        classes = np.stack([_sums(plane == 1, cell) > 0 for plane in mask])
        valid = _sums((mask != IGNORE).any(axis=0), cell)
        first = 0
    else:
        numbers = (np.arange(height) // cell * cols)[:, None] + np.arange(width) // cell
        counts = np.bincount((numbers << 8 | mask).ravel(), minlength=rows * cols << 8).reshape(rows, cols, 256)
        classes = np.moveaxis(counts[..., :num_classes] > 0, -1, 0)
        valid = pixels - counts[..., IGNORE]
        first = 1
    # Rounded down, so that no window passes for more valid than it is; but something is not nothing.
    shares = np.maximum(valid * FULL // pixels, valid > 0).astype(np.uint8)
    return _Piece(classes, np.any(classes[first:], axis=0), shares, int(valid.sum()))


def _pixels_per_cell(length: int, cell: int) -> NDArray[np.int64]:
    return np.diff(np.append(np.arange(0, length, cell), length))


def _sums(held: NDArray[np.bool_], cell: int) -> NDArray[np.int64]:
    """Number of pixels of each cell."""
    down = np.add.reduceat(held, range(0, held.shape[0], cell), axis=0, dtype=np.int64)
    sums: NDArray[np.int64] = np.add.reduceat(down, range(0, held.shape[1], cell), axis=1)
    return sums
