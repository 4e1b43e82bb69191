"""The demo: `python -m jobs.demo FOLDER [--fresh] [a.b=c ...]`.

Makes a small world in FOLDER and goes the whole way on it: index, fit, evaluate, promote, pull, predict. What is there
already is used again; --fresh starts over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import pipeline
from pipeline import log, store
from pipeline.data.labels.classes import Classes
from pipeline.data.labels.display import rgb_bands, stretch
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.data.scenes.synthetic import make_world
from pipeline.errors import OutputExists, PipelineError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle
from pipeline.recipe import Recipe
from pipeline.registry.versions import tracking_uri
from pipeline.train.fit import run_uri_of
from pipeline.train.host import BUNDLE

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"
_STARTED = time.monotonic()


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for the world, the runs and the maps; made if missing")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that win over the recipe's")
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier demo left there")
    options = parser.parse_args()
    log.setup()
    try:
        demo(options.folder, options.overrides, fresh=options.fresh)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def demo(folder: Path, overrides: list[str], *, fresh: bool = False) -> None:
    """The whole way, with a timed line for each verb."""
    world, runs, maps = folder / "world", folder / "runs", folder / "maps"
    if fresh:
        for part in (world, runs, maps):  # never the folder itself: it may hold other things
            shutil.rmtree(part, ignore_errors=True)
    show("world", make(world))
    recipe = pipeline.load(RECIPE, [f"data.root={world}", f"compute.output={runs}", *overrides])
    manifest = pipeline.index(recipe)
    splits = {name: sum(s.split == name for s in manifest.scenes) for name in ("train", "val", "test")}
    show("index", f"{len(manifest.scenes)} scenes {splits}, manifest {manifest.digest[:12]}")
    bundle = fit(recipe, manifest)
    report = pipeline.evaluate(recipe, bundle, manifest=manifest, overwrite=True)
    show("evaluate", f"test mIoU {report.scores['miou']:.3f} on regions the network has never seen")
    decision = pipeline.promote(recipe, bundle, manifest=manifest)
    show("promote", f"{decision.name} version {decision.version} {decision.state}: {'; '.join(decision.reasons)}")
    champion = f"models:/{decision.name}@{decision.alias}"
    pulled = pipeline.pull(champion, tracking=tracking_uri(recipe))
    show("pull", f"{champion} is bundle {pulled.digest}")
    scene = manifest.split("test")[0]
    (predicted,) = pipeline.predict(pulled, scene.image, str(maps), overwrite=True)
    picture = draw(scene, predicted, pulled.classes)
    show("predict", f"{scene.id}, a scene of the test split")
    show("done", "")
    print(closing(recipe, champion, report.uri, predicted, picture))


def make(world: Path) -> str:
    """The world, unless it is there; splits.csv is written last and so says that it is whole."""
    if (world / "splits.csv").exists():
        return f"{world} is there already (--fresh starts over)"
    make_world(world)
    return f"made in {world}"


def fit(recipe: Recipe, manifest: Manifest) -> Bundle:
    """The trained bundle; an earlier demo's if the recipe and the scenes are the same."""
    try:
        bundle: Bundle = pipeline.fit(recipe, manifest=manifest)
        show("train", f"{bundle.step} steps on {recipe.compute.num_workers} workers, bundle {bundle.uri}")
    except OutputExists:
        bundle = bundles.load(store.join(run_uri_of(recipe, manifest), BUNDLE))
        show("train", f"the same recipe on the same scenes is trained already, bundle {bundle.uri}")
    return bundle


def draw(scene: Scene, predicted: str, classes: Classes) -> Path:
    """A PNG next to the predicted raster: the image, the prediction, the label."""
    window = Window(0, 0, scene.height, scene.width)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = classes.colors
    image, valid = raster_io.read(scene.image, window)
    panels = [stretch(image[list(rgb_bands(raster_io.describe(scene.image).bands))], valid)]
    for uri in (predicted, scene.label or predicted):
        label, known = raster_io.read_label(uri, window)
        panels.append(colors[np.where(known, label, 255)])
    path = Path(predicted).with_suffix(".png")
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)
    return path


def closing(recipe: Recipe, champion: str, report: str, predicted: str, picture: Path) -> str:
    """Where everything is, and what to type next."""
    bin_, where, tracking = os.path.relpath(Path(sys.executable).parent), os.path.relpath(RECIPE), tracking_uri(recipe)
    moved = f"data.root={recipe.data.root} compute.output={recipe.compute.output}"
    return f"""
Look at:
  {report}/report.html
  {picture}   (image, prediction, label)
  {predicted}   (GeoTIFF on the grid of its scene)
  {bin_}/mlflow ui --backend-store-uri {tracking}

Go on:
  {bin_}/segpipe predict --model {champion} --tracking-uri {tracking} \\
      --images '{recipe.data.root}/images/*.tif' --out {Path(predicted).parent} --overwrite
  {bin_}/segpipe train {where} {moved} train.steps=240
  {bin_}/segpipe tune {where} {moved}
  {bin_}/segpipe recipe show {where}
"""


def show(verb: str, text: str) -> None:
    """One line with the seconds since the start."""
    print(f"{time.monotonic() - _STARTED:6.1f} s  {verb:9}{text}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
