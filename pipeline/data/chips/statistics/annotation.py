"""Refuse to train on data in which nothing is annotated, before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import ManifestError

logger = logging.getLogger(__name__)

_HINT: Final = "check data.labels, data.classes and data.ignore_values; `segpipe doctor` shows what labels hold"


def check(manifest: Manifest, statistics: Statistics) -> None:
    """Raise an error where the train split has nothing to learn from, and warn where it or the val split has little.

    Args:
        manifest: scenes with their labelled pixels per class.
        statistics: of the train split; its class counts are of pixels that are labelled and valid in the image.

    Raises:
        ManifestError: no pixel of the train split belongs to a class, or all that do are invalid in the image.
    """
    scenes = manifest.split("train")
    counts = _counts(scenes, len(manifest.classes))
    if not sum(counts):
        raise ManifestError(f"nothing is annotated in the {len(scenes)} scenes of the train split", _HINT)
    if not sum(statistics.class_counts) and _is_whole(scenes, manifest.data):
        raise ManifestError(
            f"all {sum(counts):,} annotated pixels of the train split lie where the images are not valid",
            "check the images' nodata, masks and alpha, data.nodata and data.footprint",
        )
    present = [name for name, count in zip(manifest.classes.names, counts, strict=True) if count]
    if len(present) == 1 and manifest.data.get("task", "multiclass") == "multiclass":
        logger.warning("all annotated pixels of the train split are of class %s: nothing else is learnt", present[0])
    validation = [scene for scene in manifest.scenes if scene.split == "val"]
    if validation and not sum(_counts(validation, len(manifest.classes))):
        logger.warning("nothing is annotated in the %d scenes of the val split: it gives no scores", len(validation))


def _counts(scenes: Sequence[Scene], num_classes: int) -> list[int]:
    """Labelled pixels per class."""
    labelled = [scene.class_counts for scene in scenes if scene.class_counts]
    return [sum(counts[k] for counts in labelled) for k in range(num_classes)]


def _is_whole(scenes: Sequence[Scene], data: dict[str, object]) -> bool:
    """Whether statistics were computed over every pixel of the scenes, not over a sample of them."""
    pixels = sum(scene.height * scene.width * scene.slices for scene in scenes)
    limit = data.get("statistics_pixels")
    return isinstance(limit, int) and pixels <= limit
