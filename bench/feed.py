"""What Ray Data costs: the Ray feed and the local feed on the same chips, in turns, and the waiting for first batches.

    python -m bench.feed                      # 512² windows of uint16×4 COGs, generated in a temporary folder
    python -m bench.feed --chips 1024 --size 256 --augment
    taskset -c 0,1 python -m bench.feed       # both on the same two CPUs, with all that Ray runs besides

All CPU time counts, that of Ray's servers and workers, too. Each feed is first run until it is steady.
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

from pipeline.data.feed import on_ray
from pipeline.data.feed.batches import Batch, local_batches
from pipeline.data.feed.plan import Plan
from pipeline.data.labels.classes import Classes
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data
from pipeline.world import World

TURNS = 3
TRANSFORM = (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)
AUGMENT = ["HorizontalFlip", "RandomRotate90", {"transform": "Affine", "rotate": [-20, 20], "p": 0.5}]


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(Path(folder), options)
        connect(options)
        show(compare(plan, options, options.batch), options)
        ray.shutdown()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=512, help="chips measured in a turn")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--side", type=int, default=4096, help="pixels of a scene's side")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--batch", type=int, default=8, help="chips in a micro-batch")
    parser.add_argument("--block-batches", type=int, default=4, help="micro-batches in a block")
    parser.add_argument("--threads", type=int, default=2, help="threads of the local feed")
    parser.add_argument("--cpus", type=int, default=2, help="logical CPUs of the Ray cluster: read tasks at once")
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
        place = (str(image), str(label), "train", f"g{number}", side, side, None, TRANSFORM)
        scenes.append(Scene(f"s{number}", *place, f"stamp{number}"))
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


@dataclass(frozen=True)
class Compared:
    """Medians of turns: CPU and wall milliseconds per chip of both feeds, and seconds to first batches."""

    ray: tuple[float, float]
    local: tuple[float, float]
    first: float
    """Of a new dataset."""
    floor: float
    """Of a new dataset of nothing but numbers."""
    next_segment: float
    """Of the next segment of a dataset that is being read."""

    @property
    def ratios(self) -> str:
        cpu, wall = (mine / other for mine, other in zip(self.ray, self.local, strict=True))
        return f"{cpu:.2f} × the CPU of the local feed in turn, {1 / wall:.2f} × its chips/s"

    @property
    def firsts(self) -> str:
        return (
            f"{self.first:.1f} s of a new dataset (ray.data.range: {self.floor:.1f} s), "
            f"{self.next_segment:.1f} s of the next segment"
        )


def connect(options: argparse.Namespace) -> None:
    """To a private cluster, once."""
    settings = {"num_cpus": options.cpus, "object_store_memory": options.store << 20}
    if not ray.is_initialized():
        ray.init("local", include_dashboard=False, log_to_driver=False, **settings)


def compare(plan: Plan, options: argparse.Namespace, batch: int) -> Compared:
    """Turns of both feeds. Each has a dataset of its own: one that is left alone reads ahead, and disturbs the rest."""
    found = []
    for start in range(TURNS + 1):
        floor = first_of_numbers()
        by_threads = turn_of_threads(plan, options, batch, 10**4 * start)
        first, by_ray = turn_of_ray(plan, options, batch, 10**4 * start)
        found.append((*by_ray, *by_threads, first, floor))
    # In the first turn Ray starts servants that stay.
    cpu, wall, local_cpu, local_wall, first, floor = np.median(found[1:], axis=0).tolist()
    return Compared((cpu, wall), (local_cpu, local_wall), first, floor, first_of_segment(plan, batch))


def turn_of_ray(plan: Plan, options: argparse.Namespace, batch: int, start: int) -> tuple[float, tuple[float, float]]:
    """Seconds to the first batch of a new dataset; CPU and wall milliseconds per chip once it is steady."""
    began = time.perf_counter()
    batches = feed_of(plan, batch, start, options.block_batches)
    next(batches)
    first = time.perf_counter() - began
    # The first blocks are small, and made while other processes still start.
    for _ in range(8 * options.block_batches):
        next(batches)
    # So many that the end of a block in the middle does not matter.
    steady = timed(batches, max(options.chips // batch, 8 * options.block_batches), batch, alone=False)
    batches.close()
    return first, steady


def turn_of_threads(plan: Plan, options: argparse.Namespace, batch: int, start: int) -> tuple[float, float]:
    """CPU and wall milliseconds per chip of the local feed; Ray's processes, which idle meanwhile, do not count."""
    span = {"global_batch": batch, "start_step": start, "stop_step": 10**6}
    batches = local_batches(plan, World(), **span, threads=options.threads)
    for _ in range(8):
        next(batches)
    steady = timed(batches, options.chips // batch, batch, alone=True)
    batches.close()
    return steady


def first_of_numbers() -> float:
    """Seconds to the first batch of a dataset that is Ray's own: what nobody can save who uses Ray Data so."""
    began = time.perf_counter()
    (split,) = ray.data.range(64, override_num_blocks=8).streaming_split(1, equal=True)
    batches = iter(split.iter_batches(batch_size=8))
    next(batches)
    taken = time.perf_counter() - began
    for _ in batches:
        pass
    return taken


def first_of_segment(plan: Plan, batch: int) -> float:
    """Seconds to the first batch of the second segment of a run, for which a thousand read tasks are made."""
    batches = feed_of(plan, batch, 0, 1)
    for _ in range(on_ray.TASKS_PER_EXECUTION[0]):
        next(batches)
    began = time.perf_counter()
    next(batches)
    taken = time.perf_counter() - began
    batches.close()
    return taken


def feed_of(plan: Plan, batch: int, start: int, block_batches: int) -> Iterator[Batch]:
    span = {"global_batch": batch, "start_step": start, "stop_step": 10**6}
    chips = on_ray.dataset(plan, num_workers=1, **span, block_batches=block_batches)
    (split,) = chips.streaming_split(1, equal=True)
    return on_ray.ray_batches(split, World(), **span)


def timed(batches: Iterator[Batch], steps: int, batch: int, *, alone: bool) -> tuple[float, float]:
    """CPU and wall milliseconds per chip, with the CPU time of this process alone or of all."""
    before, here, began = cpu_seconds(), time.process_time(), time.perf_counter()
    for _ in range(steps):
        next(batches)
    wall = time.perf_counter() - began
    cpu = time.process_time() - here if alone else spent(before)
    return cpu / (steps * batch) * 1e3, wall / (steps * batch) * 1e3


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


def show(found: Compared, options: argparse.Namespace) -> None:
    augmented = "augmented" if options.augment else "not augmented"
    print(
        f"\n{options.chips} chips of {options.size}² uint16×4 with label, {augmented}, "
        f"micro-batch {options.batch}, {options.block_batches} to a block, {len(os.sched_getaffinity(0))} cores\n"
    )
    print("| feed | CPU-ms per chip | chips/s |\n|---|---|---|")
    print(f"| local, {options.threads} threads | {found.local[0]:.1f} | {1e3 / found.local[1]:.0f} |")
    print(f"| ray, {options.cpus} CPUs | {found.ray[0]:.1f} | {1e3 / found.ray[1]:.0f} |")
    print(f"\nRay Data: {found.ratios}\nFirst batch: {found.firsts}")


if __name__ == "__main__":
    main()
