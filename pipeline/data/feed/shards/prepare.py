"""Prepare: read all scenes of a split once and write shards, from which any window is read many times faster.

Nothing changes but the speed: chips from shards are equal to chips from the files, to the bit.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np

from pipeline import store
from pipeline.data.feed.shards import layout, shard_writer, size_advice
from pipeline.data.feed.shards.layout import Layout
from pipeline.data.feed.shards.shard_writer import Written
from pipeline.data.feed.shards.size_advice import Advice
from pipeline.data.parallel import local
from pipeline.data.parallel.local import Map
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.log import Advance
from pipeline.recipe import Data, Recipe, absolute

logger = logging.getLogger(__name__)

_SHARD_BYTES: Final = 2 << 30
# What decides, besides the files, how a window's pixels and mask come out.
_READING: Final = (
    "bands_apart",
    "labels",
    "label",
    "aoi",
    "footprint",
    "task",
    "classes",
    "ignore_values",
    "align",
    "bands",
    "nodata",
    "reading",
)


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`: what was written, and where."""

    uri: str
    num_scenes: int
    num_shards: int
    num_new: int
    """Shards that were not there yet."""
    stored_bytes: int
    raw_bytes: int
    """Images and masks without compression."""
    seconds: float
    unreadable: tuple[str, ...]
    """Scenes of which a part cannot be read, which their shards leave out."""


def place(recipe: Recipe, manifest: Manifest, split: str = "train") -> str:
    """URI of the shards of a split, whether they exist or not; it depends on the manifest and on how it is read."""
    tree = recipe.data.model_dump(mode="json")
    ways = json.dumps([layout.VERSION, {key: tree[key] for key in _READING}], sort_keys=True)
    name = f"{manifest.digest[:12]}-{blake2b(ways.encode(), digest_size=4).hexdigest()}"
    return store.join(recipe.compute.output, recipe.name, "shards", name, split)


def found(recipe: Recipe, manifest: Manifest, split: str = "train") -> str:
    """URI of the shards of a split; "" if there are none."""
    uri = place(recipe, manifest, split)
    return uri if store.exists(store.join(uri, layout.INDEX)) else ""


def prepare(
    recipe: Recipe,
    manifest: Manifest,
    *,
    split: str = "train",
    mapped: Map = local.mapped,
    progress: Advance | None = None,
) -> Prepared:
    """Write the shards of a split; those that an earlier try has finished are kept.

    Every shard is read back before it counts. With `data.on_error: quarantine`, parts of files that cannot be read are
    left out, and training then meets them in the files as it would have without shards. A shard is a job of `mapped`;
    whoever does it has the same output and, where that is not local, 2 GB of free space in its temporary folder.

    Args:
        recipe: its data section says how files are read.
        manifest: of the very data.
        split: whose scenes.
        mapped: does the work, which makes no difference to what is written.
        progress: is called with pixels done and all pixels.

    Raises:
        ManifestError: the split is empty.
        SceneError, LabelError: a scene cannot be read, or has changed since it was indexed.
        StorageError: the output cannot be written.
    """
    began = time.perf_counter()
    scenes = manifest.split(split)
    uri = place(absolute(recipe), manifest, split)
    groups = _groups(scenes, _bytes_per_pixel(manifest, recipe.data))
    names = tuple(f"{number:05}.shard" for number in range(len(groups)))
    done, total = 0, sum(s.height * s.width * s.slices for s in scenes)
    jobs = [
        (shard_writer.ShardJob(group, manifest.classes, recipe.data, manifest.digest), store.join(uri, name))
        for name, group in zip(names, groups, strict=True)
    ]
    new, written = 0, list[Written]()
    for group, (shard, is_new) in zip(groups, mapped(_made, jobs, threaded=True), strict=True):
        written.append(shard)
        new += is_new
        done += sum(s.height * s.width * s.slices for s in group)
        if progress is not None:
            progress(done, total)
    made = Layout(
        digest=manifest.digest,
        dtype=manifest.dtype,
        num_bands=len(manifest.bands),
        num_planes=len(manifest.classes) if recipe.data.task == "multilabel" else 0,
        files=names,
        sizes=tuple(shard.size for shard in written),
        scenes=shard_writer.placed(groups),
    )
    store.write_bytes(store.join(uri, layout.INDEX), made.to_bytes())
    raw = total * _bytes_per_pixel(manifest, recipe.data)
    seconds, stored = time.perf_counter() - began, sum(shard.size for shard in written)
    unreadable = tuple(name for shard in written for name in shard.unreadable)
    logger.info("%d scenes in %d shards at %s: %.1f GB", len(scenes), len(names), uri, stored / 1e9)
    return Prepared(uri, len(scenes), len(names), new, stored, raw, seconds, unreadable)


def _made(job: tuple[shard_writer.ShardJob, str]) -> tuple[Written, bool]:
    """A shard, and whether it was not there yet."""
    known = shard_writer.known(*job)
    return (shard_writer.write(*job), True) if known is None else (known, False)


def _bytes_per_pixel(manifest: Manifest, data: Data) -> int:
    planes = len(manifest.classes) if data.task == "multilabel" else 1
    return len(manifest.bands) * np.dtype(manifest.dtype).itemsize + planes


def _groups(scenes: Sequence[Scene], bytes_per_pixel: int) -> list[tuple[Scene, ...]]:
    """Scenes that share a shard: so many that it stays small enough to be written again after a failure."""
    groups: list[list[Scene]] = []
    held = _SHARD_BYTES
    for scene in scenes:
        size = scene.height * scene.width * scene.slices * bytes_per_pixel
        if not groups or held + size > _SHARD_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(scene)
        held += size
    return [tuple(group) for group in groups]


def advise(recipe: Recipe, manifest: Manifest) -> Advice:
    """Whether preparing the train split pays here, measured; see `Advice`.

    Raises:
        DataError: the split is empty, or a scene cannot be read.
    """
    return size_advice.advise(recipe, manifest, place(recipe, manifest))
