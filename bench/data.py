"""What chips cost, in CPU-milliseconds, by every way of reading them: the same windows on the same machine in one run.

    python -m bench.data                                  # all, about ten minutes
    python -m bench.data --only local shards --chips 96   # a quick look
    python -m bench.data --only local peers --python peers/bin/python    # an interpreter that has them: bench.peers

COGs with tiles of 512², uint8×3 by DEFLATE and uint16×4 by ZSTD, of natural-looking content, in a temporary folder.
CPU time is that of this process, its threads, its children and Ray's servers. Where others use the machine, too, only
the ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench import peers as others
from bench.feed import KINDS, Kind, compare, connect, cpu_seconds, plan_of, spent, write_scenes
from pipeline.data.feed.batches import Batch, local_batches
from pipeline.data.feed.plan import Plan
from pipeline.data.rasters import gdal_env
from pipeline.world import World

BATCH = 8
ROUNDS = 8
SETTLE_S = 0.6
PARTS = ("local", "ray", "locality", "shards", "loader", "peers")
LOCALITY = {"tiles": 3, "chips": 9, "pool": 16}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in options.kinds:
            rows: dict[str, Row] = {}
            kind = KINDS[name]
            scenes = write_scenes(Path(folder), kind, options.scenes, options.side)
            plan = plan_of(Path(folder), scenes, kind, options.size, ["D4"])
            for part in options.only:
                rows |= MEASURES[part](plan, kind, Path(folder), options)
                print(f"  {name}: {part} done", flush=True)
            show(name, rows, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--chips", type=int, default=384, help="chips measured each time")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--side", type=int, default=4096, help="pixels of a scene's side")
    parser.add_argument("--threads", type=int, default=2, help="threads of the local feed, workers of other loaders")
    parser.add_argument("--cpus", type=int, default=2, help="logical CPUs of the Ray cluster: read tasks at once")
    parser.add_argument("--block-batches", type=int, default=8, help="micro-batches in a block of Ray Data")
    parser.add_argument("--store", type=int, default=900, help="Ray's object store in MiB")
    parser.add_argument("--folder", help="for the files; by default the system's temporary folder")
    parser.add_argument("--python", help="interpreter that has torchgeo and rastervision")
    return parser.parse_args()


Row = tuple[float, float, str]
"""CPU-milliseconds and wall milliseconds per chip, and a remark."""


def measured(advance: Callable[[], object], chips: int, remark: str = "", settle: float = 0.0) -> Row:
    """Of a feed that reads ahead, what it then does is waited for and counts: it is as much as it had done before. Its
    wall time, though, means nothing."""
    time.sleep(settle)
    began, before = time.perf_counter(), cpu_seconds()
    advance()
    wall = time.perf_counter() - began
    time.sleep(settle)
    cpu = spent(before)
    return cpu / chips * 1e3, wall / chips * 1e3, remark


def local(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """Nothing but rasterio, with handles kept and GDAL set up as ours is, and the local feed: in turns, since other
    work on the machine changes what all of them cost. No window is read twice."""
    import rasterio

    handles = {s.id: (rasterio.open(s.image), rasterio.open(s.label)) for s in plan.scenes}

    def bare(start: int, steps: int) -> None:
        with gdal_env.environment():
            for number in range(start * BATCH, (start + steps) * BATCH):
                ref = plan.order.chip(number)
                window = rasterio.windows.Window(ref.window.col, ref.window.row, ref.window.width, ref.window.height)
                for handle in handles[plan.scenes[ref.scene].id]:
                    handle.read(window=window)

    span = {"global_batch": BATCH, "start_step": 10**5, "stop_step": 10**6}
    feeds = {n: local_batches(plan, World(), **span, threads=n) for n in sorted({1, options.threads})}
    ways: dict[str, Callable[[int, int], object]] = {"bare read": bare}
    for threads, feed in feeds.items():
        ways[f"local feed, D4, {threads} threads"] = lambda _, steps, feed=feed: [next(feed) for _ in range(steps)]
    for way in ways.values():
        way(10**4, 8)
    steps = max(1, options.chips // BATCH // ROUNDS)
    found: dict[str, list[Row]] = {name: [] for name in ways}
    for turn, (label, run) in itertools.product(range(ROUNDS), ways.items()):
        found[label].append(measured(partial(run, turn * steps, steps), steps * BATCH, settle=SETTLE_S))
    for feed in feeds.values():
        feed.close()
    for pair in handles.values():
        for handle in pair:
            handle.close()
    medians = {name: np.median([row[:2] for row in rows], axis=0).tolist() for name, rows in found.items()}
    return {
        name: (cpu, wall if name == "bare read" else float("nan"), "median of turns")
        for name, (cpu, wall) in medians.items()
    }


def consume(plan: Plan, start: int, steps: int, threads: int) -> None:
    span = {"global_batch": BATCH, "start_step": start, "stop_step": start + steps}
    for _ in local_batches(plan, World(), **span, threads=threads):
        pass


def warm(plan: Plan, options: argparse.Namespace) -> None:
    """Import what is needed, and let the disk's cache hold the files."""
    far = {"global_batch": BATCH, "start_step": 10**5, "stop_step": 10**5 + 4}
    for _ in local_batches(plan, World(), **far, threads=options.threads):
        pass


def over_ray(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """Ray Data once it is steady and the local feed in turns, and how long first batches take on a warm cluster."""
    connect(options)
    found = compare(plan, options, BATCH)
    return {
        f"local feed, D4, {options.threads} threads, in turn": (*found.local, "median of turns"),
        f"Ray Data, D4, {options.cpus} CPUs, steady": (*found.ray, found.ratios),
        "Ray Data, first batch": (float("nan"), float("nan"), found.firsts),
    }


def locality(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """Nine windows from each block of 3 × 3 storage tiles, mixed over a pool of blocks; in turns with the feed of
    windows that are each drawn alone."""
    near = plan_of(folder, plan.scenes, kind, options.size, ["D4"], locality=LOCALITY)
    span = near.order.span // BATCH
    steps = {"locality": span, "each alone": max(1, options.chips // BATCH // ROUNDS)}
    plans = {"locality": near, "each alone": plan}
    kwargs = {"global_batch": BATCH, "start_step": 10**5 // span * span, "stop_step": 10**6, "threads": options.threads}
    feeds = {way: local_batches(made, World(), **kwargs) for way, made in plans.items()}
    rows: dict[str, list[Row]] = {way: [] for way in feeds}
    for way, feed in feeds.items():
        for _ in itertools.islice(feed, 4 * steps[way]):  # until the memory of batches goes round
            pass
    time.sleep(2 * SETTLE_S)
    for _, (way, feed) in itertools.product(range(ROUNDS), feeds.items()):
        # A whole number of pools, so that as much is read ahead afterwards as it was before.
        run = partial(deque, itertools.islice(feed, steps[way]), 0)
        rows[way].append(measured(run, steps[way] * BATCH, settle=2 * SETTLE_S))
    for feed in feeds.values():
        feed.close()
    cpu = {way: float(np.median([row[0] for row in found])) for way, found in rows.items()}
    met = [
        len({near.order.chip(n).scene for n in range(i, i + BATCH)}) / BATCH for i in range(0, near.order.span, BATCH)
    ]
    share = f"{cpu['locality'] / cpu['each alone']:.2f} of each alone in the same turns"
    remark = f"{share}; {np.mean(met) * BATCH:.1f} scenes in a batch of {BATCH}"
    return {"local feed, locality": (cpu["locality"], float("nan"), remark)}


def shards(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """Prepared shards: windows alone, and the whole feed."""
    from pipeline.data.feed.shards import shard_writer
    from pipeline.data.feed.shards.layout import Layout
    from pipeline.data.feed.shards.shard_reader import Shards

    began, cpu, place = time.perf_counter(), cpu_seconds(), folder / f"shards-{kind.dtype}"
    # Links to two files: as many shards would only fill the disk.
    twice = tuple(plan.scenes[:2])
    job = shard_writer.ShardJob(twice, plan.classes, plan.data, plan.digest)
    size = shard_writer.write(job, str(place / "00000.shard")).size
    pixels = sum(s.height * s.width for s in twice)
    prepared = (time.perf_counter() - began, spent(cpu))
    layout = Layout(plan.digest, kind.dtype, kind.bands, 0, ("00000.shard",), (size,), shard_writer.placed([twice]))
    (place / "shards.json").write_bytes(layout.to_bytes())
    ours = replace(plan, scenes=twice, shards=str(place))
    warm(ours, options)
    numbers, opened = range(options.chips), Shards.open(str(place), plan.digest)

    def windows() -> None:
        for number in numbers:
            ref = ours.order.chip(number)
            opened.read(ours.scenes[ref.scene].id, ref.window)

    raw = pixels * (kind.bands * np.dtype(kind.dtype).itemsize + 1)
    files = sum(Path(f).stat().st_size for s in twice for f in (s.image, s.label))
    chips = pixels / options.size**2
    remark = f"{raw / size:.2f} times smaller than raw, {size / files:.2f} times the files"
    return {
        "shards, windows by number": (*measured(windows, options.chips)[:2], remark),
        "shards, local feed, D4": measured(partial(consume, ours, 0, options.chips // BATCH, 1), options.chips),
        "prepare": (prepared[1] / chips * 1e3, prepared[0] / chips * 1e3, "per chip of the scenes' area, once"),
    }


def loader(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """What users write: a DataLoader, a file opened for each sample, albumentations, float32 normalised per sample."""
    from torch.utils.data import DataLoader

    windows = [(plan.scenes[r.scene], r.window) for r in map(plan.order.chip, range(options.chips))]

    def run() -> None:
        batches = DataLoader(UsualDataset(windows), batch_size=BATCH, num_workers=options.threads)
        for _ in batches:
            pass

    return {f"usual DataLoader, {options.threads} workers": measured(run, options.chips, "start of workers included")}


class UsualDataset:
    """As tutorials have it."""

    def __init__(self, windows: list) -> None:
        import albumentations as A

        self.windows = windows
        bands = 3
        self.transform = A.Compose([A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90()])
        self.bands = bands

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, position: int):
        import rasterio
        import torch

        scene, (row, col, height, width, _) = self.windows[position]
        area = rasterio.windows.Window(col, row, width, height)
        with rasterio.open(scene.image) as image, rasterio.open(scene.label) as label:
            pixels, mask = image.read(window=area).transpose(1, 2, 0), label.read(1, window=area)
        made = self.transform(image=pixels, mask=mask)
        values = made["image"].astype(np.float32)
        mean, std = values.mean(axis=(0, 1)), values.std(axis=(0, 1)) + 1e-6
        values = ((values - mean) / std).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(made["mask"].astype(np.int64))


def peers(plan: Plan, kind: Kind, folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """TorchGeo and Raster Vision by an interpreter that has them, each in turns with our feed of the same windows.

    Theirs are image and mask, as float32 and int64, not augmented. Imports and the start of workers do not count.
    """
    if options.python is None:
        return {name: (float("nan"), float("nan"), "give --python") for name in ("torchgeo", "rastervision")}
    files = others.spread(plan.scenes, folder / f"spread-{kind.dtype}")
    loader = {"size": options.size, "batch": BATCH, "workers": options.threads}
    steps, rows = max(1, options.chips // BATCH // others.TURNS), {}
    for number, (label, (way, env)) in enumerate(others.WAYS.items()):
        first = number * (1 + others.TURNS) * steps  # no window is read twice
        numbers = range(first * BATCH, (first + (1 + others.TURNS) * steps) * BATCH)
        windows = [(ref.scene, ref.window.row, ref.window.col) for ref in map(plan.order.chip, numbers)]
        span = {"global_batch": BATCH, "start_step": first, "stop_step": first + 10**6}
        feed = local_batches(plan, World(), **span, threads=options.threads)

        def ours(feed: Iterator[Batch] = feed) -> None:
            for _ in itertools.islice(feed, steps):
                pass

        run, task = others.Run(options.python, way, env), others.task_of(files, windows, **loader)
        rows[label] = others.in_turns(run, task, ours, steps * BATCH)
        feed.close()
        print(f"  {kind.dtype}: {label} {rows[label][0]:.1f} ms, {rows[label][2]}", flush=True)
    return rows


MEASURES: dict[str, Callable[[Plan, Kind, Path, argparse.Namespace], dict[str, Row]]] = {
    "local": local,
    "ray": over_ray,
    "locality": locality,
    "shards": shards,
    "loader": loader,
    "peers": peers,
}


def show(name: str, rows: dict[str, Row], options: argparse.Namespace) -> None:
    print(f"\n{name}×{KINDS[name].bands}, {options.chips} chips of {options.size}², micro-batch {BATCH}\n")
    reference = next((row for label, row in rows.items() if label.startswith("local feed, D4")), None)
    read = rows.get("bare read")
    print("| way | CPU-ms per chip | chips/s | ÷ bare read | ÷ local feed | |\n|---|---|---|---|---|---|")
    for label, (cpu, wall, remark) in rows.items():
        ratios = [f"{cpu / other[0]:.2f}" if other else "" for other in (read, reference)]
        rate = "" if np.isnan(wall) else f"{1e3 / wall:.0f}"
        print(f"| {label} | {cpu:.2f} | {rate} | {' | '.join(ratios)} | {remark} |")
    print(flush=True)


if __name__ == "__main__":
    main()
