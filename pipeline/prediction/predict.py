"""The verb `predict`: a bundle and images give one GeoTIFF of class ids per image, on the image's own grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import torch

from pipeline import config, store
from pipeline.data.chips.statistics import per_scene
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.raster_io import RasterInfo, Writer
from pipeline.data.rasters.valid_pixels import Pixels, Read
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import pairing, pointer_files
from pipeline.errors import OutputExists, SceneError
from pipeline.log import Advance
from pipeline.model.bundle import Bundle
from pipeline.model.device import device_of
from pipeline.model.networks import Network
from pipeline.prediction import bundle_inputs, provenance
from pipeline.prediction.blend import stream
from pipeline.recipe import Predict
from pipeline.registry.open_uri import open_bundle
from pipeline.text import some

logger = logging.getLogger(__name__)

_SHOWN: Final = 10


def predict(  # noqa: PLR0913 - what predicts, what is predicted, where to, and how
    bundle: Bundle | str,
    images: str | Sequence[str],
    out: str,
    *,
    overwrite: bool = False,
    device: str = "auto",
    window: int | None = None,
    overlap: float | None = None,
    source: str | None = None,
    progress: Advance | None = None,
) -> list[str]:
    """Predict whole images and write `<out>/<stem>.tif` for each: class ids, 255 where the image is not valid.

    A raster has the image's grid and the names and colours of the classes, and appears when it is complete. An image
    that cannot be read, or that does not fit the bundle, does not stop the others; one error names all such at the
    end. Tags of a raster name the bundle, the settings and the image. Rasters that an earlier call has finished with
    the same ones are left as they are, so that the same call goes on after a stop.

    Args:
        bundle: a bundle, or where it is: a directory, an s3://, runs:/ or models:/ URI.
        images: one or several globs or files.
        out: directory or s3:// prefix.
        overwrite: replace rasters that exist, also finished ones.
        device: auto, cpu or cuda.
        window: height and width of a window in pixels; by default the bundle's.
        overlap: share of a window that it shares with the next one; by default the bundle's.
        source: where the bundle came from, if it is a local copy; by default the URI that was given.
        progress: called with the number of images that are done, their number, and what is being done.

    Returns:
        URIs of the rasters, in the order of the images; of a volume one for each slice.

    Raises:
        SceneError: no image is found, two have the same stem, or some cannot be read or have other bands.
        OutputExists: files exist that this call did not make; nothing has been computed.
        BundleError: the bundle cannot be used.
        RecipeError: a window or overlap that cannot be.
    """
    targets = _targets([images] if isinstance(images, str) else images, out)
    source = source or (bundle if isinstance(bundle, str) else bundle.uri)
    bundle = open_bundle(bundle)
    asked = {"window": window, "overlap": overlap}
    section = config.replace(bundle.predict, {name: value for name, value in asked.items() if value is not None})
    tags = partial(provenance.tags, bundle, section, source=source)
    done = [] if overwrite else _finished(targets, tags)
    place = device_of(device)
    job = _PredictJob(bundle, bundle.network.to(place), section, place, overwrite, tags)
    failures: dict[str, SceneError] = {}
    written: list[str] = []
    for position, (image, target) in enumerate(targets.items()):
        if target in done:
            written.append(target)
            continue
        note = partial(progress or _silent, position, len(targets))
        try:
            written += job.run(image, target, note)
        except SceneError as error:
            logger.error("%s", error.message)
            failures[image] = error
    if failures:
        raise _combined(failures, len(targets))
    if progress:
        progress(len(targets), len(targets))
    return written


def _targets(patterns: Iterable[str], out: str) -> dict[str, str]:
    """Image -> raster to write, in the order given."""
    targets: dict[str, str] = {}
    owners: dict[str, str] = {}
    for pattern in patterns:
        for image in _images(pattern):
            target = store.join(out, f"{PurePosixPath(image).stem}.tif")
            owner = owners.setdefault(target, image)
            if owner != image:
                raise SceneError(
                    f"{owner} and {image} have the same name; both would be written to {target}",
                    "predict them into different directories",
                )
            targets[image] = target
    return targets


def _images(pattern: str) -> list[str]:
    """Images that a pattern finds; what else it finds is said."""
    images, passed = pairing.found(pattern)
    missing = pointer_files.unfetched(pattern, "") if store.is_local(pattern) else []
    if passed:
        logger.warning("%d files are no images and are passed over: %s", len(passed), some(map(_name, passed)))
    if missing:
        logger.warning("%s", pointer_files.said(missing))
    if not images:
        other = store.other_spelling(pattern) if store.is_local(pattern) else None
        hint = f"there is {other!r}, whose letters are written in another form of Unicode" if other else ""
        raise SceneError(
            f"no image matches {pattern!r}" if other else f"no image matches {pattern}",
            hint or "quote globs on the command line, and check the folder",
        )
    return images


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _finished(targets: Mapping[str, str], tags: Callable[[str], dict[str, str]]) -> list[str]:
    """Rasters that an earlier call with the same bundle, settings and images has finished.

    Raises:
        OutputExists: other files are there.
    """
    there = {image: target for image, target in targets.items() if store.exists(target)}
    done = [target for image, target in there.items() if provenance.finished(target, tags(image))]
    if done:
        logger.info("%d of %d rasters are finished already, by the same model and settings", len(done), len(targets))
    _refuse_existing([target for target in there.values() if target not in done])
    return done


def _refuse_existing(existing: Sequence[str]) -> None:
    if existing:
        shown = ", ".join(existing[:_SHOWN]) + (f" and {len(existing) - _SHOWN} more" if existing[_SHOWN:] else "")
        raise OutputExists(
            f"{len(existing)} rasters exist: {shown}",
            "they were not made by this model and these settings of these images; choose another place, or overwrite "
            "(--overwrite)",
        )


def _same(one: str, other: str) -> bool:
    if store.is_local(one) and store.is_local(other):
        return os.path.realpath(one) == os.path.realpath(other)
    return one == other


def _silent(*_: Any) -> None:
    """No progress is wanted."""


def _combined(failures: dict[str, SceneError], total: int) -> SceneError:
    if total == 1:
        return next(iter(failures.values()))
    lines = [f"\n  {error.message}" for error in failures.values()]
    more = f"\n  and {len(lines) - _SHOWN} more" if lines[_SHOWN:] else ""
    done = f"{len(failures)} of {total} images could not be predicted, the others are done:"
    return SceneError(done + "".join(lines[:_SHOWN]) + more, next(iter(failures.values())).hint)


@dataclass(frozen=True)
class _PredictJob:
    """What is constant over the images of one call."""

    bundle: Bundle
    network: Network
    section: Predict
    device: torch.device
    overwrite: bool
    tags: Callable[[str], dict[str, str]]

    def run(self, image: str, target: str, note: Callable[[str], object]) -> list[str]:
        """Predict one image; returns what was written: `target`, or of a volume a raster for each slice."""
        if _same(image, target):
            raise SceneError(f"{image}: the raster would replace the image itself", "choose another directory")
        note(image)
        data = self.bundle.recipe.get("data", {})
        nodata = None if data.get("nodata") is None else float(data["nodata"])
        reading, info, warnings = bundle_inputs.fitted(image, self.bundle)
        read: Read = partial(raster_io.read, image, nodata=nodata, reading=reading)
        for warning in (*warnings, bundle_inputs.other_values(read, info, self.bundle)):
            if warning:
                logger.warning("%s: %s", image, warning)
        if self.bundle.normalisation.by_scene:
            read = per_scene.reader(read, info.grid.height, info.grid.width, info.slices)
        tags = self.tags(image)
        if info.slices == 1:
            self._write(read, info, target, tags, partial(_note, note, image))
            return [target]
        stem = target.removesuffix(".tif")
        written = [f"{stem}_{number:04}.tif" for number in range(info.slices)]
        for number, one in enumerate(written):
            if not self.overwrite and provenance.finished(one, tags):
                continue
            note_slice = partial(_note, note, f"{image} slice {number + 1} of {info.slices}")
            self._write(partial(_of_slice, read, number), info, one, tags, note_slice)
        return written

    def _write(
        self, read: Read, info: RasterInfo, target: str, tags: Mapping[str, str], note: Callable[[int], object]
    ) -> None:
        """Predict one raster; `note` is called with the percentage that is done."""
        classes, grid = self.bundle.classes, info.grid
        planes = self.bundle.task == "multilabel"
        strips = stream(
            self.network,
            read,
            grid.height,
            grid.width,
            num_classes=len(classes),
            section=self.section,
            fill=self.bundle.fill,
            device=self.device,
            task=self.bundle.task,
        )
        with Writer(
            target,
            grid,
            count=len(classes) if planes else 1,
            nodata=IGNORE,
            names=classes.names,
            colors=None if planes else classes.colors,
            tags=tags,
            overwrite=self.overwrite,
        ) as writer:
            for row, prediction, _ in strips:
                writer.write(row, prediction if planes else prediction[None])
                note(100 * (row + prediction.shape[-2]) // grid.height)


def _of_slice(read: Read, number: int, window: Window) -> Pixels:
    return read(window._replace(slice=number))


def _note(note: Callable[[str], object], what: str, percent: int) -> None:
    note(f"{what} {percent} %")
