"""What Ray Data costs: CPU seconds per chip of the Ray feed and of the local feed, on the same chips in one run.

    python -m bench.feed                      # 512² windows of uint16×4 COGs, generated in a temporary folder
    python -m bench.feed --chips 1024 --size 256 --augment

All CPU time counts: this process, its threads, Ray's servers and workers. Each feed is first run until it is steady.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np
import ray

from pipeline import config
from pipeline.data import manifest, on_ray, statistics
from pipeline.data.batches import Batch, local_batches
from pipeline.data.chips import Plan
from pipeline.data.rasters import Grid, write_cog
from pipeline.recipe import Recipe
from pipeline.world import World

AUGMENT = ["HorizontalFlip", "RandomRotate90", {"transform": "Affine", "rotate": [-20, 20], "p": 0.5}]


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(Path(folder), options)
        steps = {"global_batch": options.batch, "start_step": 0, "stop_step": 10**6}
        local = local_batches(plan, World(), **steps, threads=options.threads)
        rows = [("local", *measure(local, options))]
        ray.init(
            num_cpus=options.cpus, include_dashboard=False, object_store_memory=options.store << 20, log_to_driver=False
        )
        chips = on_ray.dataset(plan, num_workers=1, **steps, block_batches=options.block_batches)
        (split,) = chips.streaming_split(1, equal=True)
        rows.append(("ray", *measure(on_ray.ray_batches(split, World(), **steps), options)))
        ray.shutdown()
    show(rows, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=1024, help="chips measured")
    parser.add_argument("--warm", type=int, default=512, help="chips before")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--batch", type=int, default=8, help="chips in a micro-batch")
    parser.add_argument("--block-batches", type=int, default=4, help="micro-batches in a block")
    parser.add_argument("--threads", type=int, default=2, help="threads of the local feed")
    parser.add_argument("--cpus", type=int, default=3, help="logical CPUs of the Ray cluster")
    parser.add_argument("--store", type=int, default=600, help="object store in MiB")
    parser.add_argument("--augment", action="store_true", help="with flips, quarter turns and rotations")
    return parser.parse_args()


def make_plan(folder: Path, options: argparse.Namespace) -> Plan:
    """Four scenes of 4096², 600 MB together, which is more than GDAL's cache of decoded blocks holds."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number in range(4):
        pixels, label = landscape(4096, 4, number)
        grid = Grid(4096, 4096, None, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0))
        write_cog(folder / f"images/s{number}.tif", pixels, grid)
        write_cog(folder / f"masks/s{number}.tif", label[None], grid)
    tree = {
        "name": "feed",
        "data": {
            "root": str(folder),
            "images": "images/*.tif",
            "labels": "masks/{id}.tif",
            "classes": [{"name": "low"}, {"name": "high"}],
            "split": {"kind": "hash", "test": 0.0},
            "sampling": {"size": options.size},
            "augment": AUGMENT if options.augment else [],
            "statistics_pixels": 1_000_000,
        },
        "compute": {"output": str(folder / "runs")},
    }
    recipe = config.validate(Recipe, tree)
    found = manifest.index(recipe)
    return Plan.of(found, statistics.compute(found, recipe.data), recipe.data, seed=0)


def landscape(size: int, bands: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of all scales, as uint16 [C, H, W], and where it is high, as uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    relief = np.zeros((size, size), np.float32)
    for octave in range(2, 10):
        coarse = rng.normal(size=(-(-size // 2**octave), -(-size // 2**octave))).astype(np.float32)
        relief += np.kron(coarse, np.ones((2**octave, 2**octave), np.float32))[:size, :size] * 1.6**octave
    relief /= relief.std()
    pixels = np.stack([2000 + relief * (200 + 50 * band) for band in range(bands)])
    pixels += rng.normal(0, 12, pixels.shape)
    return pixels.clip(1, 65535).astype(np.uint16), (relief > 0).astype(np.uint8)


def measure(batches: Iterator[Batch], options: argparse.Namespace) -> tuple[float, float, float, float]:
    """CPU and wall milliseconds per chip in the steady state, seconds to the first batch, CPU seconds until steady."""
    began, before = time.perf_counter(), cpu_seconds()
    next(batches)
    first = time.perf_counter() - began
    for _ in range(options.warm // options.batch - 1):
        next(batches)
    steady, at_steady = time.perf_counter(), cpu_seconds()
    for _ in range(options.chips // options.batch):
        next(batches)
    wall, cpu = time.perf_counter() - steady, spent(at_steady)
    warming = spent(before) - cpu
    batches.close()
    return cpu / options.chips * 1e3, wall / options.chips * 1e3, first, warming


def cpu_seconds() -> dict[int, float]:
    """User and system time of this process and all that descend from it, by process id; from Linux's /proc."""
    parent, seconds = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(entry.parent.name)
        parent[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parent and is_ours(parent[pid]))

    return {pid: taken for pid, taken in seconds.items() if is_ours(pid)}


def spent(since: dict[int, float]) -> float:
    return sum(now - since.get(pid, 0.0) for pid, now in cpu_seconds().items())


def show(rows: list[tuple[str, float, float, float, float]], options: argparse.Namespace) -> None:
    augmented = "augmented" if options.augment else "not augmented"
    print(
        f"\n{options.chips} chips of {options.size}² uint16×4 with label, {augmented}, "
        f"micro-batch {options.batch}, {options.block_batches} to a block, "
        f"{options.threads} threads (local), {options.cpus} CPUs (ray), {os.cpu_count()} cores\n"
    )
    print("| feed | CPU-ms per chip | wall ms per chip | first batch s | CPU-s until steady |")
    print("|---|---|---|---|---|")
    for name, cpu, wall, first, warming in rows:
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {first:.1f} | {warming:.1f} |")
    print(f"\nCPU-seconds per chip, ray / local: {rows[1][1] / rows[0][1]:.2f}")


if __name__ == "__main__":
    main()
