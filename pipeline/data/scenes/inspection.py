"""Inspect scenes one by one, so that everything that is wrong is reported at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Final

from pipeline.data.labels import summary
from pipeline.data.labels.classes import Classes
from pipeline.data.labels.summary import LabelSummary
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.scenes import file_notices
from pipeline.data.scenes.file_notices import FileNotices
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import DataError, ManifestError
from pipeline.log import Advance
from pipeline.recipe import Data

logger = logging.getLogger(__name__)

_THREADS: Final = min(16, 2 * (os.cpu_count() or 1))
_MAX_SHOWN: Final = 50
_NOTHING: Final = FileNotices()
BENT: Final = "control points fit no affine transform"
"""What a reader says of the format of an image that is bent, and therefore read without coordinates."""


def inspect_scenes(
    found: Sequence[SceneFiles], classes: Classes, data: Data, progress: Advance | None = None
) -> dict[str, Inspection]:
    """Inspect every scene, in threads; the result is by id. Nothing is raised that concerns single scenes."""
    inspections: dict[str, Inspection] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = {pool.submit(inspect_scene, f, classes, data): f.id for f in found}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                inspections[futures[future]] = future.result()
                if progress is not None:
                    progress(done, len(found))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return inspections


def inspect_scene(found: SceneFiles, classes: Classes, data: Data) -> Inspection:
    """Open image, label and footprint of one scene, compare their grids, count the label's classes."""
    problems: list[DataError] = []
    info: RasterInfo | None = None
    stamps: list[str] = []
    label = LabelSummary()
    notices = _NOTHING
    try:
        info = raster_io.describe(found.image, reading=data.reading)
        stamps.append(raster_io.probe(found.image, reading=data.reading))
        notices = file_notices.of_image(found.image, info, data)
    except DataError as error:
        problems.append(error)
    if found.label is not None and info is not None:
        label = summary.summarise(found, info, classes, data)
        problems += label.problems
        stamps.append(label.stamp)
    if info is not None and found.footprint is not None:
        footprint = summary.summarise_footprint(found, info, data)
        problems += footprint.problems
        stamps.append(footprint.stamp)
        if footprint.misses:
            logger.warning(
                "scene %s: nothing of it is valid, for it is outside its footprint, %s", found.id, footprint.misses
            )
    if info is not None and BENT in info.format:
        logger.warning("scene %s: %s (%s); `gdalwarp -tps` warps it to a grid", found.id, info.format, found.image)
    for warning in label.warnings:
        logger.warning("%s", warning)
    return Inspection(info, "-".join(stamps), label.class_counts, tuple(problems), notices=notices, label=label)


def all_of(problems: Sequence[DataError]) -> DataError:
    """One error that lists all; of their class if they share it."""
    if len(problems) == 1:
        return problems[0]
    kinds = {type(p) for p in problems}
    kind = kinds.pop() if len(kinds) == 1 else ManifestError
    lines = [p.message for p in problems[:_MAX_SHOWN]]
    if len(problems) > _MAX_SHOWN:
        lines.append(f"and {len(problems) - _MAX_SHOWN} more")
    hints = dict.fromkeys(p.hint for p in problems if p.hint)
    return kind(f"{len(problems)} problems with the scenes\n  " + "\n  ".join(lines), "; ".join(list(hints)[:3]))


@dataclass(frozen=True)
class Inspection:
    """Result of opening a scene: header (None if it could not be read), content stamp, labelled pixels, problems.

    `bands` is as in `Scene`, of scenes of the last manifest; `label` is all that the label says, if it was opened now.
    """

    info: RasterInfo | None
    stamp: str
    class_counts: tuple[int, ...]
    problems: tuple[DataError, ...]
    bands: tuple[int, ...] = ()
    notices: FileNotices = _NOTHING
    label: LabelSummary = field(default_factory=LabelSummary)
