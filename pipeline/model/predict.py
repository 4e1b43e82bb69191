"""The verb `predict`: a bundle and images give one GeoTIFF of class ids per image, on the image's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch

from pipeline import config, store
from pipeline.data import rasters
from pipeline.data.classes import IGNORE
from pipeline.data.rasters import RasterInfo, Writer
from pipeline.errors import OutputExists, SceneError
from pipeline.log import Advance
from pipeline.model import bundle as bundles
from pipeline.model.blend import stream
from pipeline.model.bundle import Bundle
from pipeline.model.device import device_of
from pipeline.model.networks import Network
from pipeline.recipe import Predict

logger = logging.getLogger(__name__)

_SHOWN: Final = 10


def predict(
    bundle: Bundle | str,
    images: str | Sequence[str],
    out: str,
    *,
    overwrite: bool = False,
    device: str = "auto",
    window: int | None = None,
    overlap: float | None = None,
    progress: Advance | None = None,
) -> list[str]:
    """Predict whole images and write `<out>/<stem>.tif` for each: class ids, 255 where the image is not valid.

    A raster has the image's grid and the names and colours of the classes, and appears when it is complete. An image
    that cannot be read, or that does not fit the bundle, does not stop the others; one error names all such at the
    end.

    Args:
        bundle: a bundle, or where it is: a directory, an s3://, runs:/ or models:/ URI.
        images: one or several globs or files.
        out: directory or s3:// prefix.
        overwrite: replace rasters that exist.
        device: auto, cpu or cuda.
        window: height and width of a window in pixels; by default the bundle's.
        overlap: share of a window that it shares with the next one; by default the bundle's.
        progress: called with the number of images that are done, their number, and what is being done.

    Returns:
        URIs of the rasters, in the order of the images.

    Raises:
        SceneError: no image is found, two have the same stem, or some cannot be read or have other bands.
        OutputExists: rasters exist already; nothing has been computed.
        BundleError: the bundle cannot be used.
        RecipeError: a window or overlap that cannot be.
    """
    targets = _targets([images] if isinstance(images, str) else images, out)
    if not overwrite:
        _refuse_existing(targets.values())
    bundle = _opened(bundle)
    asked = {"window": window, "overlap": overlap}
    section = config.replace(bundle.predict, {name: value for name, value in asked.items() if value is not None})
    place = device_of(device)
    job = _Job(bundle, bundle.network.to(place), section, place, overwrite)
    failures: dict[str, SceneError] = {}
    for position, (image, target) in enumerate(targets.items()):
        note = partial(progress or _silent, position, len(targets))
        try:
            job.run(image, target, note)
        except SceneError as error:
            logger.error("%s", error.message)
            failures[image] = error
    if failures:
        raise _combined(failures, len(targets))
    if progress:
        progress(len(targets), len(targets))
    return list(targets.values())


def _targets(patterns: Iterable[str], out: str) -> dict[str, str]:
    """Image -> raster to write, in the order given."""
    targets: dict[str, str] = {}
    owners: dict[str, str] = {}
    for pattern in patterns:
        found = store.glob(pattern)
        if not found:
            raise SceneError(f"no image matches {pattern}", "quote globs on the command line, and check the folder")
        for image in found:
            target = store.join(out, f"{PurePosixPath(image).stem}.tif")
            owner = owners.setdefault(target, image)
            if owner != image:
                raise SceneError(
                    f"{owner} and {image} have the same name; both would be written to {target}",
                    "predict them into different directories",
                )
            targets[image] = target
    return targets


def _refuse_existing(targets: Iterable[str]) -> None:
    existing = [target for target in targets if store.exists(target)]
    if existing:
        shown = ", ".join(existing[:_SHOWN]) + (f" and {len(existing) - _SHOWN} more" if existing[_SHOWN:] else "")
        raise OutputExists(
            f"{len(existing)} rasters exist: {shown}", "choose another place, or overwrite (--overwrite)"
        )


def _opened(bundle: Bundle | str) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    if not bundle.startswith(("runs:/", "models:/")):
        return bundles.load(bundle)
    from pipeline.model import on_mlflow  # MLflow takes seconds to import, and a directory does not need it

    return on_mlflow.pull(bundle)


def _same(one: str, other: str) -> bool:
    if store.is_local(one) and store.is_local(other):
        return Path(one).resolve() == Path(other).resolve()
    return one == other


def _silent(*_: Any) -> None:
    """No progress is wanted."""


def _check_bands(image: str, info: RasterInfo, bundle: Bundle) -> None:
    ours, theirs = bundle.bands, info.bands
    if not bundle.takes(theirs):
        raise SceneError(
            f"{image}: bands {', '.join(theirs)} ({len(theirs)}) where the bundle expects "
            f"{', '.join(ours)} ({len(ours)})",
            "predict images with the bands that the bundle was trained on, in the same order",
        )
    if info.dtype != bundle.dtype:
        logger.warning("%s: pixels are %s, the bundle was trained on %s", image, info.dtype, bundle.dtype)


def _combined(failures: dict[str, SceneError], total: int) -> SceneError:
    if total == 1:
        return next(iter(failures.values()))
    lines = [f"\n  {error.message}" for error in failures.values()]
    more = f"\n  and {len(lines) - _SHOWN} more" if lines[_SHOWN:] else ""
    done = f"{len(failures)} of {total} images could not be predicted, the others are done:"
    return SceneError(done + "".join(lines[:_SHOWN]) + more, next(iter(failures.values())).hint)


@dataclass(frozen=True)
class _Job:
    """What all images of one call share."""

    bundle: Bundle
    network: Network
    section: Predict
    device: torch.device
    overwrite: bool

    def run(self, image: str, target: str, note: Callable[[str], object]) -> None:
        """Predict one image."""
        if _same(image, target):
            raise SceneError(f"{image}: the raster would replace the image itself", "choose another directory")
        note(image)
        info = rasters.describe(image)
        _check_bands(image, info, self.bundle)
        nodata = self.bundle.recipe.get("data", {}).get("nodata")
        nodata = None if nodata is None else float(nodata)
        classes, grid = self.bundle.classes, info.grid
        strips = stream(
            self.network,
            partial(rasters.read, image, nodata=nodata),
            grid.height,
            grid.width,
            num_classes=len(classes),
            section=self.section,
            fill=self.bundle.statistics.fill,
            device=self.device,
        )
        with Writer(
            target, grid, nodata=IGNORE, names=classes.names, colors=classes.colors, overwrite=self.overwrite
        ) as writer:
            for row, prediction, _ in strips:
                writer.write(row, prediction[None])
                note(f"{image} {100 * (row + len(prediction)) // grid.height} %")
