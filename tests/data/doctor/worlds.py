"""Worlds for the doctor: one that is clean, and changes that each make one thing wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from ruamel.yaml import YAML

from pipeline.data import doctor
from pipeline.data.doctor.findings import Audit
from pipeline.data.scenes.synthetic import BANDS, CLASSES
from pipeline.recipe import Recipe, replace
from tests.factory import recipe_for, write_raster

SIZE = 320
CHIP = 64


def recipe(folder: Path, **overrides: Any) -> Recipe:
    """For a world of `synthetic.make_world`."""
    given = recipe_for(folder)
    changes: dict[str, Any] = {
        "data.labels": "labels/{id}.tif",
        "data.classes": [{"name": name} for name in CLASSES],
        "data.ignore_values": [255],
        "data.sampling.size": CHIP,
    }
    return replace(given, changes | overrides)


def audit(folder: Path, **overrides: Any) -> Audit:
    """What the doctor says, its page written to report/. The lines of a recipe that it advises must be valid."""
    given = recipe(folder, **overrides)
    found = doctor.examine(given, str(folder / "report"))
    for finding in found.findings:
        if finding.command.startswith(("data:", "loss:")):
            tree = YAML(typ="safe").load(finding.command)
            changes = {f"data.{key}": value for key, value in tree.get("data", {}).items()}
            replace(given, changes | {key: value for key, value in tree.items() if key != "data"})
    return found


def kinds(found: Audit, *severities: str) -> set[str]:
    """Kinds of the findings of some severities."""
    return {f.kind for f in found.findings if f.severity in (severities or ("error", "warning"))}


def the(found: Audit, kind: str) -> doctor.Finding:
    """The one finding of a kind."""
    (finding,) = [f for f in found.findings if f.kind == kind]
    return finding


def rewrite(
    path: Path, change: Callable[[np.ndarray], np.ndarray], *, names: tuple[str, ...] = (), **options: Any
) -> None:
    """Replace a raster's pixels [C,H,W]; grid and nodata stay, and `options` go to GDAL and win."""
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
        kind: dict[str, Any] = {"crs": dataset.crs, "transform": tuple(dataset.transform)[:6], "nodata": dataset.nodata}
    kind |= {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "names": names or BANDS}
    pixels = change(pixels)
    kind["names"] = kind["names"][: len(pixels)]
    path.unlink()
    write_raster(path, pixels, **kind | options)


def scene(folder: Path, number: int = 0) -> str:
    """Id of a scene."""
    return sorted(p.stem for p in (folder / "images").iterdir())[number]


def image(folder: Path, i: str) -> Path:
    """Path of a scene's image."""
    return folder / "images" / f"{i}.tif"


def label(folder: Path, i: str) -> Path:
    """Path of a scene's label."""
    return folder / "labels" / f"{i}.tif"


def everywhere(folder: Path, what: str, change: Callable[[np.ndarray], np.ndarray], **options: Any) -> None:
    """Rewrite all images or labels."""
    for path in sorted((folder / what).iterdir()):
        rewrite(path, change, **options)


def copy(clean: Path, folder: Path) -> Path:
    """A world of the test's own."""
    shutil.copytree(clean, folder / "world")
    return folder / "world"
