"""A sample of one scene: its windows are read one by one and reduced at once, so that memory stays small."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.doctor import access, label_shift, near_duplicates, sentinels
from pipeline.data.doctor import read_plan as planning
from pipeline.data.doctor.findings import Entry, Patch, Sample, Thumbnail
from pipeline.data.doctor.label_shift import Surface
from pipeline.data.doctor.near_duplicates import Marks
from pipeline.data.doctor.read_plan import ReadPlan
from pipeline.data.doctor.sentinels import Rim
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters.valid_pixels import Pixels
from pipeline.data.rasters.windows import Window
from pipeline.errors import PipelineError
from pipeline.recipe import Data

_PER_SCENE: Final = 20_000
_VALUES: Final = 48_000_000
"""So many numbers are kept of all scenes together."""
_SHIFT_WINDOWS: Final = 1600
"""Windows of all scenes together in which labels are compared with edges."""
_FLAT: Final = 9
"""A blank area is at least so many pixels wide and high."""


def sample(entry: Entry, plan: ReadPlan, classes: Classes, data: Data) -> Sample:
    """Read some windows of a scene; what cannot be read is in `problem`."""
    try:
        patches, small, found = _read(entry, plan, classes, data)
    except PipelineError as error:
        return Sample(entry.id, problem=access.problem_of(error))
    values, ids = _some_pixels(patches, _quota(plan, patches))
    num_valid = sum(int(p.valid.sum()) for p in patches)
    shifts, explained = _shifts(entry, patches, plan)
    return Sample(
        id=entry.id,
        num_pixels=sum(p.valid.size for p in patches),
        num_valid=num_valid,
        num_annotated=sum(int((p.valid & (p.mask != IGNORE)).sum()) for p in patches),
        values=values,
        ids=ids,
        blank=sum(_blank(p) for p in patches) / max(num_valid, 1),
        labelled=_labelled(patches, len(classes)),
        extremes=sentinels.extremes([Pixels(p.pixels, p.valid) for p in patches]),
        rim=_rim(entry, patches, plan),
        alpha=access.alpha(entry, data),
        shifts=shifts,
        explained=explained,
        marks=found,
        thumbnail=small,
    )


def picture(thumbnail: Thumbnail | None) -> NDArray[np.float32] | None:
    """The small grey picture by which scenes are compared; None where the thumbnail is not the whole scene."""
    if thumbnail is None or not thumbnail.whole:
        return None
    return near_duplicates.thumbnail_of(thumbnail.pixels, thumbnail.valid)


def detail(thumbnail: Thumbnail | None) -> NDArray[np.float32] | None:
    """The fine detail of a thumbnail of a whole scene, by which crops are found; None of others."""
    if thumbnail is None or not thumbnail.whole:
        return None
    return near_duplicates.detail(thumbnail.pixels, thumbnail.valid)


def _read(entry: Entry, plan: ReadPlan, classes: Classes, data: Data) -> tuple[list[Patch], Thumbnail | None, Marks]:
    """Windows, a small view, and marks; of a small scene all from one reading."""
    whole = planning.whole(entry, plan)
    windows = planning.windows(entry, plan.windows, everything=whole is not None)
    if whole is None:
        patches = [access.patch(entry, window, classes, data) for window in windows]
        return patches, access.view(entry, classes, data, plan.whole_pixels), Marks.none()
    seen = access.patch(entry, whole, classes, data)
    return (
        [_cut(seen, w) for w in windows],
        access.thumbnail(seen, whole=True),
        near_duplicates.marks(seen.pixels, seen.valid),
    )


def _cut(patch: Patch, window: Window) -> Patch:
    rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
    return Patch(window, patch.pixels[:, rows, cols], patch.valid[rows, cols], patch.mask[rows, cols])


def _quota(plan: ReadPlan, patches: Sequence[Patch]) -> int:
    """Pixels to keep of each window."""
    if not patches:
        return 0
    bands = len(patches[0].pixels)
    of_scene = min(_PER_SCENE, _VALUES // (max(1, len(plan.chosen)) * bands))
    return max(1, of_scene // len(patches))


def _some_pixels(patches: Sequence[Patch], quota: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Pixels [C, n] and their classes [n], at random places among the valid ones."""
    values, ids = [], []
    for number, patch in enumerate(patches):
        places = np.flatnonzero(patch.valid)
        if len(places) > quota:
            places = np.sort(np.random.default_rng(number).choice(places, quota, replace=False))
        values.append(patch.pixels.reshape(len(patch.pixels), -1)[:, places])
        ids.append(patch.mask.reshape(-1)[places])
    if not values:
        return np.zeros((0, 0)), np.zeros(0, np.uint8)
    return np.concatenate(values, axis=1), np.concatenate(ids)


def _labelled(patches: Sequence[Patch], num_classes: int) -> NDArray[np.int64]:
    """Labelled pixels per class [K, 2]: all, and those whose image is valid."""
    out = np.zeros((num_classes, 2), np.int64)
    for patch in patches:
        for column, ids in enumerate((patch.mask.ravel(), patch.mask[patch.valid])):
            out[:, column] += np.bincount(ids, minlength=IGNORE + 1)[:num_classes]
    return out


def _rim(entry: Entry, patches: Sequence[Patch], plan: ReadPlan) -> Rim | None:
    """The flat border of a scene whose windows cover it."""
    if planning.whole(entry, plan) is None or entry.size is not None:
        return None
    shape = (entry.grid.height, entry.grid.width)
    pixels, valid = np.zeros((len(patches[0].pixels), *shape), patches[0].pixels.dtype), np.zeros(shape, np.bool_)
    for patch in patches:
        row, col, height, width = patch.window[:4]
        pixels[:, row : row + height, col : col + width] = patch.pixels
        valid[row : row + height, col : col + width] = patch.valid
    return sentinels.rim(pixels, valid)


def _blank(patch: Patch) -> int:
    """Valid pixels amid a flat area of zeros in all bands."""
    zero = ((patch.pixels == 0).all(axis=0) & patch.valid).astype(np.uint8)
    kernel = np.ones((_FLAT, _FLAT), np.uint8)
    return int(cv2.morphologyEx(zero, cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE).sum())


def _shifts(entry: Entry, patches: Sequence[Patch], plan: ReadPlan) -> tuple[tuple[Surface, ...], Surface | None]:
    """The evidence for a shift: from edges, in two halves that share no pixel, and from the classes' variance."""
    if entry.label is None:
        return (), None
    most = max(4, _SHIFT_WINDOWS // max(1, len(plan.chosen)))
    parts = [part for p in patches[:most] for part in _parts(p, len(patches))]
    judged = [(edges, label_shift.explained(*part)) for part in parts if (edges := label_shift.surface(*part))]
    if len(judged) < 2:
        return (), None
    surfaces = [edges for edges, _ in judged]
    turn = zlib.crc32(entry.id.encode()) % 2  # so that sums over scenes are balanced, too
    return (label_shift.add(surfaces[turn::2]), label_shift.add(surfaces[1 - turn :: 2])), label_shift.add(
        v for _, v in judged
    )


def _parts(patch: Patch, num_patches: int) -> list[tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]]:
    """A window as it is; where there are few, its quarters."""
    if num_patches >= 4:
        return [(patch.pixels, patch.valid, patch.mask)]
    height, width = (-(-n // 2) for n in patch.valid.shape)
    return [
        (
            patch.pixels[:, r : r + height, c : c + width],
            patch.valid[r : r + height, c : c + width],
            patch.mask[r : r + height, c : c + width],
        )
        for r in (0, height)
        for c in (0, width)
    ]
