"""Memory and open files while feeding from few and from many scenes: neither may grow with their number.

    python -m bench.scale                        # 10, 1,000 and 10,000 scenes
    python -m bench.scale --scenes 100 --chips 800 --locality

Scenes are COGs of 1024², uint8×3, DEFLATE, tiles of 512², with masks; the paths are distinct, the files behind them
links to 16 different ones. Each number of scenes has a process of its own: it indexes them, plans, and feeds chips of
256² with D4, drawn from all scenes alike. Memory is what the system counts as resident (RSS); "quarter" and "end" are
after a quarter of the chips and after all of them, so a leak for each chip or scene shows between the two. GDAL's
cache of decoded blocks is held at 32 MB, so that ten scenes fill it as well as ten thousand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline import recipe as recipes
from pipeline.data.chips.statistics import compute
from pipeline.data.feed.batches import local_batches
from pipeline.data.feed.plan import Plan
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes.index import index
from pipeline.world import World

SIDE = 1024
DISTINCT = 16
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--chips", type=int, default=24_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--locality", action="store_true", help="draw several chips from one block of tiles")
    parser.add_argument("--folder", help="for the files; by default the system's temporary folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(fed(Path(options.child), options)))
        return
    heads = ["scenes", "index, s", "indexed, MB", "quarter, MB", "end, MB", "peak, MB", "open files", "chips/s"]
    print("".join(f"{head:>13}" for head in heads))
    for scenes in options.scenes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write(Path(folder), scenes)
            run = subprocess.run(
                [sys.executable, "-m", "bench.scale", *sys.argv[1:], "--child", folder],
                stdout=subprocess.PIPE,
                check=True,
                env=os.environ | {"GDAL_CACHEMAX": "32"},
            )
        row = json.loads(run.stdout.splitlines()[-1])
        print(f"{scenes:>13,}" + "".join(f"{row[head]:>13,.0f}" for head in heads[1:]), flush=True)


def write(folder: Path, scenes: int) -> None:
    """Images and masks of `scenes` scenes."""
    random = np.random.default_rng(0)
    for number in range(min(DISTINCT, scenes)):
        coarse = random.integers(0, 200, (3, SIDE // 64, SIDE // 64))
        noise = random.integers(0, 8, (3, SIDE, SIDE))
        pixels = (np.kron(coarse, np.ones((1, 64, 64), int)) + noise).astype(np.uint8)
        for name, of in (("images", pixels), ("masks", (pixels[:1] > 100).astype(np.uint8))):
            grid = Grid(SIDE, SIDE, "EPSG:32633", (1.0, 0.0, 5e5 + 2 * SIDE * number, 0.0, -1.0, 5e6))
            raster_io.write_cog(str(folder / name / f"s{number:06}.tif"), of, grid)
    for number in range(DISTINCT, scenes):
        for name in ("images", "masks"):
            os.link(folder / name / f"s{number % DISTINCT:06}.tif", folder / name / f"s{number:06}.tif")


def fed(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Memory in MB and open files of this process, at several moments."""
    near = {"locality": {"tiles": 2, "chips": 9, "pool": 16, "tile": 512}} if options.locality else {}
    tree = {
        "name": "scale",
        "data": {
            "root": str(folder),
            "images": "images/*.tif",
            "labels": "masks/{id}.tif",
            "classes": [{"name": "a"}, {"name": "b"}],
            "split": {"kind": "hash", "test": 0.0},
            "sampling": {"kind": "uniform", "size": 256} | near,
            "augment": ["D4"],
            "statistics_pixels": 1_000_000,
        },
        "evaluate": {"split": "train"},
        "compute": {"output": str(folder / "runs")},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    recipe = recipes.load(str(folder / "recipe.yaml"))
    began = time.perf_counter()
    manifest = index(recipe)
    found = {"index, s": time.perf_counter() - began, "indexed, MB": resident_mb()}
    plan = Plan.of(manifest, compute.cached(recipe, manifest), recipe.data, 0)
    began, steps, peak, handles = time.perf_counter(), options.chips // BATCH, 0.0, 0
    feed = local_batches(plan, World(), global_batch=BATCH, start_step=0, stop_step=steps, threads=options.threads)
    for step, _ in enumerate(feed, 1):
        if step % 10 == 0:
            peak, handles = max(peak, resident_mb()), max(handles, num_open())
        if step == steps // 4:
            found["quarter, MB"] = resident_mb()
    found |= {"end, MB": resident_mb(), "peak, MB": peak, "open files": handles}
    return found | {"chips/s": options.chips / (time.perf_counter() - began)}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


if __name__ == "__main__":
    main()
