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
from dataclasses import dataclass
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np
import rasterio
import ray

from pipeline.data import on_ray
from pipeline.data.batches import Batch, local_batches
from pipeline.data.chips import Plan
from pipeline.data.classes import Classes
from pipeline.data.scenes import Scene
from pipeline.recipe import Data
from pipeline.world import World

TRANSFORM = (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)
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
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--side", type=int, default=4096, help="pixels of a scene's side")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--batch", type=int, default=8, help="chips in a micro-batch")
    parser.add_argument("--block-batches", type=int, default=4, help="micro-batches in a block")
    parser.add_argument("--threads", type=int, default=2, help="threads of the local feed")
    parser.add_argument("--cpus", type=int, default=3, help="logical CPUs of the Ray cluster")
    parser.add_argument("--store", type=int, default=600, help="object store in MiB")
    parser.add_argument("--augment", action="store_true", help="with flips, quarter turns and rotations")
    return parser.parse_args()


def make_plan(folder: Path, options: argparse.Namespace) -> Plan:
    """Scenes that are more than GDAL's cache of decoded blocks holds."""
    scenes = write_scenes(folder, KINDS["uint16"], options.scenes, options.side)
    return plan_of(folder, scenes, KINDS["uint16"], options.size, AUGMENT if options.augment else [])


@dataclass(frozen=True)
class Kind:
    """Of files."""

    bands: int
    dtype: str
    compress: str


KINDS = {"uint8": Kind(3, "uint8", "DEFLATE"), "uint16": Kind(4, "uint16", "ZSTD")}


def write_scenes(folder: Path, kind: Kind, count: int, side: int) -> tuple[Scene, ...]:
    """Square COGs with tiles of 512² and labels. Two are written; the others are links to them, which readers take for
    files of their own."""
    scenes = []
    for number in range(count):
        image, label = (folder / f"{kind.dtype}-{what}-{number}.tif" for what in ("image", "label"))
        if number < 2:
            pixels, mask = landscape(side, kind.bands, number)
            pixels = (pixels // 16).clip(1, 255) if kind.dtype == "uint8" else pixels
            write_tiled(image, pixels.astype(kind.dtype), kind.compress)
            write_tiled(label, mask[None], "DEFLATE")
        else:
            for path, what in ((image, "image"), (label, "label")):
                os.link(folder / f"{kind.dtype}-{what}-{number % 2}.tif", path)
        scenes.append(
            Scene(
                f"s{number}",
                str(image),
                str(label),
                "train",
                f"g{number}",
                side,
                side,
                None,
                TRANSFORM,
                f"stamp{number}",
            )
        )
    return tuple(scenes)


def write_tiled(path: Path, pixels: np.ndarray, compress: str) -> None:
    bands, height, width = pixels.shape
    profile = {"count": bands, "height": height, "width": width, "dtype": str(pixels.dtype), "compress": compress}
    with rasterio.open(
        path, "w", driver="COG", blocksize=512, overviews="NONE", transform=rasterio.Affine(*TRANSFORM), **profile
    ) as file:
        file.write(pixels)


def plan_of(folder: Path, scenes: tuple[Scene, ...], kind: Kind, size: int, augment: list, **sampling) -> Plan:
    tree = {
        "root": str(folder),
        "images": "*.tif",
        "labels": "{id}.tif",
        "classes": [{"name": "low"}, {"name": "high"}],
        "sampling": {"size": size, "epoch_size": 1_000_000} | sampling,
        "augment": augment,
    }
    data = Data.model_validate(tree)
    fill = (1.0,) * kind.bands
    return Plan(scenes, Classes.from_section(data), data, fill, kind.dtype, kind.bands, "d" * 64, seed=0)


def landscape(size: int, bands: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of all scales, as uint16 [C, H, W], and where it is high, as uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    relief = np.zeros((size, size), np.float32)
    for octave in range(2, 10):
        coarse = rng.normal(size=(-(-size // 2**octave), -(-size // 2**octave))).astype(np.float32)
        relief += np.kron(coarse, np.ones((2**octave, 2**octave), np.float32))[:size, :size] * 1.6**octave
    relief /= relief.std()
    pixels = np.stack([2000 + relief * (200 + 50 * band) for band in range(bands)])
    pixels += rng.normal(0, 12, pixels.shape)  # of the sensor
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
        # With that of children that have ended.
        parent[pid], seconds[pid] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

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
