"""Access of the doctor to files: headers, pixels, labels and timed reads of the scenes.

Nothing that is wrong with a scene is raised; it is returned, so that the audit goes on.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import store, uris
from pipeline.data.chips import raw_chip
from pipeline.data.doctor.findings import Entry, LabelTally, Patch, Thumbnail
from pipeline.data.doctor.threads import in_threads
from pipeline.data.labels import masks, summary, vectors
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters import gdal_env, raster_io
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import band_matching, discovery, file_notices, pairing
from pipeline.data.scenes.file_notices import AlphaValues
from pipeline.data.scenes.pointer_files import Pointer, unfetched
from pipeline.data.scenes.scene import Scene, SceneFiles
from pipeline.data.scenes.splits import assign
from pipeline.errors import PipelineError
from pipeline.recipe import Data
from pipeline.recipe.sampling import BlocksSplit

THUMBNAIL: Final = 144
"""Longest side of a small picture in pixels."""

_CHEAP_LEVEL: Final = 16 << 20
_NAME: Final = re.compile(r'[A-Z_]+\["([^"]+)"')

Problem = tuple[str, str]
"""Message and hint."""


def entries(
    data: Data, kept: Mapping[str, str], advance: Callable[[int, int], None]
) -> tuple[list[Entry], list[Problem], str]:
    """Every scene, or its parts, with what headers say, what is wrong with the set, and labels without an image.

    `kept` are the splits of groups in the manifest before, as of `dividing.assign`.
    """
    try:
        survey = discovery.survey(data)
    except PipelineError as error:
        return [], [problem_of(error)], ""
    wrong = [problem_of(error) for error in survey.errors()]
    opened = {e.id: e for e in in_threads(lambda f: _entry(f, data), survey.found, advance)}
    opened = _by_name(opened, data)
    try:
        return _divided(opened, data, kept), wrong, survey.unmatched
    except PipelineError as error:
        return list(opened.values()), [*wrong, problem_of(error)], survey.unmatched


def _by_name(opened: dict[str, Entry], data: Data) -> dict[str, Entry]:
    """Entries whose bands are read by name, as `index` finds them."""
    found = band_matching.matched({i: e.info for i, e in opened.items() if e.info is not None}, data)
    return opened | {
        i: replace(opened[i], bands=numbers, info=replace(info, bands=found.file_bands))
        for i, numbers in found.numbers.items()
        if (info := opened[i].info) is not None
    }


def _divided(opened: Mapping[str, Entry], data: Data, kept: Mapping[str, str]) -> list[Entry]:
    """Scenes with their splits, or their parts, by id."""
    if not isinstance(data.split, BlocksSplit):
        given = assign.assign(list(opened), data, kept)
        return [replace(e, split=given[e.id][0], group=given[e.id][1]) for e in opened.values()]
    grids = {i: e.info.grid for i, e in opened.items() if e.info is not None}
    parts = [
        replace(opened[p.scene], id=p.id, split=p.split, group=p.group, origin=p.origin, size=(p.height, p.width))
        for p in assign.divide(grids, data)
    ]
    return sorted([*parts, *(e for e in opened.values() if e.info is None)], key=lambda e: e.id)


def disagreements(of: Sequence[Entry], data: Data) -> list[Problem]:
    """Scenes whose bands or dtype are not those of the others."""
    infos = {e.id: e.info for e in of if e.info is not None}
    return [problem_of(problem) for problem in band_matching.matched(infos, data).problems]


def pointers(data: Data) -> tuple[Pointer, ...]:
    """Images and labels whose content was not fetched."""
    root = uris.absolute(data.root)
    patterns = [p for p in (data.images, *(data.bands_apart or {}).values(), data.labels) if p]
    found = (p for pattern in patterns for p in unfetched(pairing.of_any(pattern).rstrip("/"), root))
    return tuple({p.path: p for p in found}.values())


def patch(entry: Entry, window: Window, classes: Classes, data: Data) -> Patch:
    """Pixels and mask of a window. Label values without a class, and labels that cannot be read, are IGNORE here: what
    is wrong with them, `tally` says.

    Raises:
        DataError: the image cannot be read.
    """
    pixels, valid = raw_chip.pixels(scene(entry), window, data=data)
    try:
        mask = masks.encode(scene(entry), window, classes, data).mask
    except PipelineError:
        mask = np.full(window[2:4], IGNORE, np.uint8)
    return Patch(window, pixels, valid, _one_plane(mask))


def tally(entry: Entry, windows: Iterable[Window], classes: Classes, data: Data, whole: bool) -> LabelTally:
    """Count a label's classes, and the values that no class claims.

    Raises:
        DataError: it cannot be read, or is not on the grid of its image.
    """
    if whole and entry.info is not None:
        part = (*entry.origin, entry.grid.height, entry.grid.width)
        seen = summary.summarise(entry, entry.info, classes, data, part=part)
        if not seen.problems:
            return LabelTally(seen.class_counts, warnings=seen.warnings, label=seen)
    counts, unknown_values = np.zeros(len(classes), np.int64), Counter[str]()
    for window in windows:
        mask, unknown, _ = masks.encode(scene(entry), window, classes, data)
        counts += [int((plane == 1).sum()) for plane in mask] if mask.ndim == 3 else _bins(mask, len(classes))
        named = Counter({str(value): pixels for value, pixels in unknown.items()})
        # Shapes of a vector file are counted in the whole scene each time.
        unknown_values = named if vectors.is_vector(entry.label or "") else unknown_values + named
    if whole and not unknown_values:
        raise seen.problems[0]
    return LabelTally(tuple(int(c) for c in counts), unknown_values, whole)


def view(entry: Entry, classes: Classes, data: Data, most: int) -> Thumbnail:
    """A small view of a scene: of all of it where overviews make that cheap, else of a part in its middle.

    Args:
        entry: whose.
        classes, data: how labels are read.
        most: pixels that may be read at the finest level.

    Raises:
        DataError: it cannot be read.
    """
    grid = entry.grid
    level = entry.info.levels[-1] if entry.info and entry.info.levels else (grid.height, grid.width)
    if level[0] * level[1] <= _CHEAP_LEVEL and len(entry.info.levels if entry.info else ()) > 1:
        return _from_overview(entry, classes, data)
    side = math.isqrt(most)
    height, width = min(grid.height, side), min(grid.width, side)
    window = Window((grid.height - height) // 2, (grid.width - width) // 2, height, width, slices(entry) // 2)
    return thumbnail(patch(entry, window, classes, data), whole=(height, width) == (grid.height, grid.width))


def thumbnail(seen: Patch, whole: bool) -> Thumbnail:
    """A window made small: means of pixels, nearest class."""
    width, height = size = _small(*seen.valid.shape)
    small = np.stack([cv2.resize(band, size, interpolation=cv2.INTER_AREA) for band in seen.pixels])
    rows, cols = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip((height, width), seen.valid.shape, strict=True)
    )
    return Thumbnail(small, seen.valid[rows[:, None], cols], seen.mask[rows[:, None], cols], whole)


def stamp(entry: Entry, data: Data) -> str:
    """Hex digits of some pixels, and of the file's size and header; of a part also of where it lies.

    Raises:
        DataError: it cannot be read.
    """
    return f"{raster_io.probe(entry.image, reading=data.reading)} {entry.origin} {entry.size}"


def alpha(entry: Entry, data: Data) -> AlphaValues | None:
    """Values of the band that a file tags as alpha, from some blocks; None without one.

    Raises:
        DataError: it cannot be read.
    """
    return None if entry.info is None else file_notices.alpha_values(entry.image, entry.info, data.reading)


def valid_at(entry: Entry, place: tuple[int, int], data: Data) -> bool:
    """Whether the pixel at (row, col) is valid; where it cannot be read, it counts as such."""
    try:
        return bool(raw_chip.pixels(scene(entry), Window(*place, 1, 1), data=data)[1].all())
    except PipelineError:
        return True


def seconds(entry: Entry, windows: Sequence[Window], data: Data, *, instead: Path | None = None) -> tuple[float, ...]:
    """Seconds to read each window, from the scene's file or from a copy, opened before and not yet decoded.

    Raises:
        DataError: it cannot be read.
    """
    uri = entry.image if instead is None else str(instead)

    def timed(window: Window) -> float:
        raster_io.read(uri, Window(-1, -1, 1, 1), reading=data.reading)  # opens it, and has nothing to decode
        begin = time.perf_counter()
        raster_io.read(uri, window, nodata=data.nodata, reading=data.reading)
        return time.perf_counter() - begin

    taken = []
    for window in windows:
        # A thread of its own: handles are kept per thread, and what one has decoded would not be decoded again.
        with ThreadPoolExecutor(1) as alone:
            taken.append(alone.submit(timed, window if instead else _in_file(entry, window)).result())
    return tuple(taken)


def rewritten(entry: Entry, window: Window, path: Path, data: Data) -> None:
    """Write a part of an image as the writer of this package stores rasters: tiled and compressed.

    Raises:
        DataError: it cannot be read.
    """
    pixels, _ = raster_io.read(entry.image, _in_file(entry, window), reading=data.reading)
    raster_io.write_cog(path, pixels, Grid(window.height, window.width))


def scene(entry: Entry) -> Scene:
    """The entry as other parts of the package know it."""
    grid, info = entry.grid, entry.info or RasterInfo(Grid(0, 0), (), "")
    size = (grid.height, grid.width)
    more = {"split": entry.split, "group": entry.group, "bands": entry.bands}
    return Scene.of(entry, info, origin=entry.origin, size=size, **more)


def overlaps(of: Sequence[Entry], stamps: Mapping[str, str], *, within: bool = False) -> list[assign.Overlap]:
    """Scenes of different splits that share ground or all of their content; those of one split, too, if asked for."""
    known = [replace(scene(e), stamp=stamps.get(e.id, "")) for e in of if e.info is not None and e.split]
    return assign.overlaps([replace(s, split=s.id) if within else s for s in known])


def slices(entry: Entry) -> int:
    """Slices of a volume; 1 otherwise."""
    return entry.info.slices if entry.info is not None else 1


def short_crs(crs: str | None) -> str:
    """A CRS for people, its code or its name; empty without one."""
    text = gdal_env.short_crs(crs) if crs else ""
    named = _NAME.match(text)
    return named[1] if named else text


def same_crs(ours: str | None, theirs: str | None) -> bool:
    """Whether two scenes' coordinates can be compared."""
    return ours == theirs or bool(ours and theirs and gdal_env.same_crs(ours, theirs))


def problem_of(error: PipelineError) -> Problem:
    """An error's message and hint."""
    return error.message, error.hint


def _entry(found: SceneFiles, data: Data) -> Entry:
    entry = Entry(found.id, **found.uris(), split="", group=found.id, info=None)
    try:
        num_bytes = sum(store.size_of(uri) for uri in found.image.split(uris.FILE_SEPARATOR))
        info = raster_io.describe(found.image, reading=data.reading)
    except PipelineError as error:
        return replace(entry, problems=(problem_of(error),))
    except OSError as error:
        return replace(entry, problems=((f"scene {found.id}: {error}", "check the path"),))
    footprint = summary.summarise_footprint(found, info, data, whole=False)
    wrong = tuple(map(problem_of, footprint.problems))
    return replace(entry, info=None if wrong else info, num_bytes=num_bytes, problems=wrong, misses=footprint.misses)


def _in_file(entry: Entry, window: Window) -> Window:
    return window._replace(row=window.row + entry.origin[0], col=window.col + entry.origin[1])


def _from_overview(entry: Entry, classes: Classes, data: Data) -> Thumbnail:
    """All of a large scene; without mask and footprint where it is larger still, as these have no overviews."""
    grid = entry.grid
    small, shape = grid.height * grid.width <= _CHEAP_LEVEL, _small(grid.height, grid.width)[::-1]
    window = Window(0, 0, grid.height, grid.width, slices(entry) // 2)
    seen = scene(entry) if small else replace(scene(entry), footprint=None)
    pixels, valid = raw_chip.pixels(seen, window, data=data, shape=shape)
    mask = np.full(valid.shape, IGNORE, np.uint8)
    if small:
        with suppress(PipelineError):  # `tally` says what is wrong with it
            mask = _one_plane(masks.mask(seen, window, classes, data, shape=shape))
    return Thumbnail(pixels, valid, mask, whole=True)


def _small(height: int, width: int) -> tuple[int, int]:
    """Width and height of a thumbnail."""
    scale = min(1.0, THUMBNAIL / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _one_plane(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a multilabel mask [K,h,w] to ids of the last class present, K for none [h,w]; return others unchanged."""
    if mask.ndim == 2:
        return mask
    ids = np.full(mask.shape[1:], len(mask), np.uint8)
    for number, plane in enumerate(mask):
        ids[plane == 1] = number
    ids[(mask == IGNORE).all(axis=0)] = IGNORE
    return ids


def _bins(mask: NDArray[np.uint8], num_classes: int) -> NDArray[Any]:
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[:num_classes]
