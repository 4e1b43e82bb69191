"""Summarise a whole label when it is indexed: class counts, unknown values, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import aoi, masks, raster_labels, shapes, vectors
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.labels.shapes import Shapes
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.rasters.windows import Window, divide
from pipeline.data.scenes import geojson_footprints
from pipeline.data.scenes.scene import Scene, SceneFiles
from pipeline.errors import DataError, SceneError
from pipeline.recipe import Data

_WINDOW: Final = 2048
_MAX_UNCLAIMED: Final = 1000


@dataclass(frozen=True)
class LabelSummary:
    """Contents and problems of one label.

    Attributes:
        stamp: 16 hex digits of the mask: another content has other digits, whatever the files' dates.
        class_counts: labelled pixels per class where the image is valid.
        hidden_counts: labelled pixels per class where it is not.
        num_pixels: of the scene, all slices.
        num_annotated: those that are not IGNORE (of a multi-label mask: in any class).
        num_shapes, num_repaired, num_empty: of a vector file: shapes in the scene, how many of them were invalid and
            repaired; shapes without a geometry in the whole file.
        claimed: values that the file declares nodata or transparent and a class claims, and how many pixels have them.
        palette: indices that are read as numbers and their colours in the file's palette, as far as they occur.
        missed: where the shapes of a vector file lie, if all of them miss the scene.
        problems: all that makes the label unusable.
        warnings: what is worth a look, as sentences.
    """

    stamp: str = ""
    class_counts: tuple[int, ...] = ()
    hidden_counts: tuple[int, ...] = ()
    num_pixels: int = 0
    num_annotated: int = 0
    num_shapes: int = 0
    num_repaired: int = 0
    num_empty: int = 0
    claimed: tuple[tuple[int | str, int], ...] = ()
    palette: tuple[tuple[int, str], ...] = ()
    missed: str = ""
    problems: tuple[DataError, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FootprintSummary:
    """Contents and problems of one footprint.

    Attributes:
        stamp: 16 hex digits of what is inside; "" without a footprint, and where it was not looked at as a whole.
        misses: name of the footprint in messages, if nothing of the scene is in it; else "".
        problems: all that makes it unusable.
    """

    stamp: str = ""
    misses: str = ""
    problems: tuple[DataError, ...] = ()


@dataclass
class _Count:
    """Counts over the windows read so far."""

    classes: np.ndarray[Any, np.dtype[np.int64]]
    hidden: np.ndarray[Any, np.dtype[np.int64]]
    annotated: int = 0
    unknown_values: Counter[Any] = field(default_factory=Counter)
    claimed: Counter[Any] = field(default_factory=Counter)
    palette: dict[int, str] = field(default_factory=dict)
    digest: Any = field(default_factory=lambda: blake2b(digest_size=8))


def summarise(
    found: SceneFiles,
    info: RasterInfo,
    classes: Classes,
    data: Data,
    *,
    part: tuple[int, int, int, int] | None = None,
) -> LabelSummary:
    """Look at the label and the area of interest of one scene, window by window.

    Args:
        found: its files.
        info: the image's header.
        classes: what the label's values mean.
        data: how labels are read.
        part: row, col, height and width in the image, if the scene is only a part of it.

    Returns:
        Nothing is raised that concerns the files: see `problems`.
    """
    if found.label is None:
        return LabelSummary()
    row, col, height, width = part or (0, 0, info.grid.height, info.grid.width)
    scene = Scene.of(found, info, origin=(row, col), size=(height, width))
    problems = [p for uri in (found.label, found.aoi) if uri is not None for p in _misplaced(uri, found, info, data)]
    if problems:
        return LabelSummary(problems=tuple(problems))
    try:
        counted = _count(scene, info, classes, data)
        if counted.unknown_values:
            raise masks.refusal(counted.unknown_values, scene, classes)
        return _told(scene, counted, classes, data)
    except DataError as error:
        return LabelSummary(problems=(error,))


def remembered(label: str | None, class_counts: Sequence[int], classes: Classes, data: Data) -> LabelSummary:
    """Summary of a label that was counted before, from its header: its palette, as far as its classes occur.

    Of classes with several values it is not known which of them occur.
    """
    if label is None or not any(class_counts) or vectors.is_vector(label):
        return LabelSummary(class_counts=tuple(class_counts))
    single = {position for position, values in enumerate(classes.values) if len(values) == 1}
    palette = {
        index: color
        for index, color in raster_labels.indices_of(label, classes, data).items()
        if (position := classes.id_of(index)) in single and class_counts[position]
    }
    return LabelSummary(class_counts=tuple(class_counts), palette=tuple(sorted(palette.items())))


def summarise_footprint(found: SceneFiles, info: RasterInfo, data: Data, *, whole: bool = True) -> FootprintSummary:
    """Look at the footprint of one scene.

    Args:
        found: its files.
        info: the image's header.
        data: how rasters are read.
        whole: window by window; otherwise only where its shapes are, if it has shapes.

    Returns:
        Nothing is raised that concerns the files: see `problems`.
    """
    uri = found.footprint
    if uri is None:
        return FootprintSummary()
    scene = Scene.of(found, info, origin=(0, 0), size=(info.grid.height, info.grid.width))
    problems = _misplaced(uri, found, info, data, "footprint")
    try:
        if problems or not whole:
            misses = not problems and aoi.is_drawn(uri) and aoi.drawn(scene, uri, data).num_shapes == 0
            return FootprintSummary("", geojson_footprints.name(uri) if misses else "", tuple(problems))
        digest, misses = blake2b(digest_size=8), True
        for window in _windows(scene):
            inside = aoi.inside(scene, uri, window, data)
            digest.update(np.packbits(inside).tobytes())
            misses = misses and not inside.any()
        return FootprintSummary(digest.hexdigest(), geojson_footprints.name(uri) if misses else "")
    except DataError as error:
        return FootprintSummary(problems=(SceneError(f"scene {found.id}: footprint: {error.message}", error.hint),))


def _misplaced(uri: str, found: SceneFiles, info: RasterInfo, data: Data, what: str = "label") -> list[DataError]:
    """Errors in the header and the position of a label, area of interest or footprint."""
    try:
        if geojson_footprints.is_outline(uri):
            return []
        if vectors.is_vector(uri):
            vectors.check(uri, shapes.columns(data) if uri == found.label else ())
            return []
        theirs = raster_labels.header(uri, data.reading)
        if theirs.slices != info.slices:
            difference = f"{info.slices} slices against {theirs.slices}"
        elif theirs.size == info.finest:
            difference = ""
        elif data.align == "image" and info.grid.georeferenced and theirs.grid.georeferenced:
            usable = info.grid.usable and theirs.grid.usable
            difference = "" if usable else info.grid.difference(theirs.grid)
        else:
            difference = info.grid.difference(theirs.grid)
    except DataError as error:
        return [error]
    if not difference:
        return []
    fixable = data.align is None and theirs.slices == info.slices and info.grid.georeferenced
    return [
        SceneError(
            f"scene {found.id}: image {found.image} and {what} {uri} are not on the same grid: {difference}",
            f"warp the {what} onto the image's grid, with the nearest pixel"
            + (", or set data.align: image to have that done on the fly" if fixable else ""),
        )
    ]


def _count(scene: Scene, info: RasterInfo, classes: Classes, data: Data) -> _Count:
    total = _Count(*np.zeros((2, len(classes)), np.int64))
    hides = aoi.hides(scene, info, data)
    vector = vectors.is_vector(str(scene.label))
    for window in _windows(scene):
        mask, unknown_values, claimed = masks.encode(scene, window, classes, data)
        total.claimed += claimed
        if not vector:
            total.palette |= raster_labels.indices(scene, window, classes, data)
        total.digest.update(np.ascontiguousarray(mask).tobytes())
        total.annotated += int((mask != IGNORE).sum() if mask.ndim == 2 else (mask != IGNORE).any(axis=0).sum())
        counts = _per_class(mask, None, len(classes))
        if hides and counts.any():
            visible = _per_class(mask, _valid(scene, window, info, data), len(classes))
            total.hidden += counts - visible
            counts = visible
        total.classes += counts
        total.unknown_values = unknown_values if vector else total.unknown_values + unknown_values
        if len(total.unknown_values) > _MAX_UNCLAIMED:
            break  # this is no label, and its values would not fit into memory
    return total


def _valid(scene: Scene, window: Window, info: RasterInfo, data: Data) -> NDArray[np.bool_] | None:
    """Validity of the image; None where it cannot be read, which `data.on_error` decides on when it is used."""
    try:
        return aoi.valid(scene, window, info, data)
    except SceneError:
        return None


def _per_class(mask: NDArray[np.uint8], valid: NDArray[np.bool_] | None, num_classes: int) -> NDArray[np.int64]:
    """Valid pixels of each class [K] in a mask [h, w] of ids, or [K, h, w] of 0 and 1; without `valid` all are."""
    if mask.ndim == 3:
        yes = mask == 1
        return np.asarray((yes if valid is None else yes & valid).sum(axis=(1, 2)))
    return np.bincount((mask if valid is None else mask[valid]).ravel(), minlength=IGNORE + 1)[:num_classes]


def _told(scene: Scene, counted: _Count, classes: Classes, data: Data) -> LabelSummary:
    drawn = masks.shapes_of(scene, classes, data) if vectors.is_vector(str(scene.label)) else None
    warnings = [] if drawn is None else _about(drawn, scene)
    if counted.annotated == 0:
        warnings.append(f"scene {scene.id}: nothing in it is annotated")
    return LabelSummary(
        stamp=counted.digest.hexdigest(),
        class_counts=tuple(int(c) for c in counted.classes),
        hidden_counts=tuple(int(c) for c in counted.hidden),
        num_pixels=scene.height * scene.width * scene.slices,
        num_annotated=counted.annotated,
        num_shapes=drawn.num_shapes if drawn is not None else 0,
        num_repaired=drawn.num_repaired if drawn is not None else 0,
        num_empty=drawn.num_empty if drawn is not None else 0,
        claimed=tuple(sorted(counted.claimed.items())),
        palette=tuple(sorted(counted.palette.items())),
        missed=drawn.missed if drawn is not None else "",
        warnings=tuple(warnings),
    )


def _about(drawn: Shapes, scene: Scene) -> list[str]:
    """Warnings about the shapes of a scene."""
    warnings = []
    if drawn.num_shapes == 0:
        where = f": the file has {drawn.missed}" if drawn.missed else ""
        warnings.append(f"scene {scene.id}: no shape of {scene.label} touches it{where}")
    elif scene.crs is None and drawn.largest < 1:
        warnings.append(
            f"scene {scene.id}: all shapes of {scene.label} are smaller than a pixel; the scene has no CRS, so that "
            "their coordinates are taken for pixels: are they degrees?"
        )
    if drawn.num_empty:
        warnings.append(f"{scene.label}: {drawn.num_empty} shapes have no geometry and are left out")
    if drawn.num_repaired:
        warnings.append(f"scene {scene.id}: {drawn.num_repaired} invalid shapes of {scene.label} were repaired")
    return warnings


def _windows(scene: Scene) -> Iterator[Window]:
    return divide(scene.height, scene.width, _WINDOW, _WINDOW, scene.slices)
