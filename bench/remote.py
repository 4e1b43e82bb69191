"""Chips per second from a bucket with injected latency, against local files and against a plain reader, in one run.

    python -m bench.remote                         # 512² windows, 3-band uint8 DEFLATE and 4-band uint16 ZSTD COGs
    python -m bench.remote --latency 0.05 --threads 32 --chips 400
    python -m bench.remote --python peers/bin/python        # with TorchGeo, by an interpreter that has it: bench.peers

A real S3 server (SeaweedFS) behind a proxy that delays every request, both on other cores than the reader, which gets
`--cores`. Each way of reading first reads 100 chips that do not count. `local` has as many threads as cores. `plain` is
what is usually written: rasterio opens the file for each window, in two processes; `merged` reads by a WarpedVRT and
rasterio.merge. TorchGeo itself is its RasterDataset and DataLoader, as it comes and with the GDAL options that its
command line sets, after two batches of each worker; starting workers and opening files do not count. CPU time is that
of the readers alone. GDAL_CACHEMAX is 32 MB, so that four scenes stand for data that do not fit into memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import rasterio
import rasterio.merge
from rasterio.session import DummySession
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as GdalWindow

from bench import peers as others
from bench.feed import landscape
from pipeline import store
from pipeline.data.rasters.dataset_pool import DatasetPool
from pipeline.data.rasters.formats.gdal import open_gdal
from pipeline.data.rasters.remote_reader import RemoteReader
from pipeline.data.rasters.windows import Window
from pipeline.recipe.data import Reading
from pipeline.recipe.storage import Storage
from tests import servers
from tests.proxy import Remote, proxied

SIZE, SIDE, SCENES, WARM = 512, 4096, 4, 100
BATCH = 8
KINDS = {"uint8x3 deflate": ("uint8", 3, "deflate"), "uint16x4 zstd": ("uint16", 4, "zstd")}

Numbers = tuple[float, float, float, float]
"""Chips per second; per chip CPU-milliseconds, requests and megabytes."""
# The second: what TorchGeo's command line sets, but for its AWS_NO_SIGN_REQUEST, since the bucket is not public.
TORCHGEO = {
    "": {},
    ", options of its command line": {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": "200000000",
        "GDAL_SWATH_SIZE": "200000000",
        "VSI_CURL_CACHE_SIZE": "200000000",
    },
}


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = set(cores[: options.cores]), cores[options.cores :]
    prefix = ("taskset", "-c", ",".join(map(str, theirs)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in options.kinds:
            make_scenes(folder / "set", kind)
        with served(folder / "s3", prefix) as address, proxied(address, prefix=prefix) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.url
            for path in (folder / "set").glob("*.tif"):
                store.upload_file(path, f"s3://{servers.BUCKET}/{path.name}")
            os.sched_setaffinity(0, mine)
            for kind in options.kinds:
                compare(kind, folder, proxy, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--chips", type=int, default=300, help="chips measured in each round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each of all ways; medians count")
    parser.add_argument("--threads", type=int, default=16, help="threads that read from the bucket")
    parser.add_argument("--cores", type=int, default=1, help="cores of the reader; the servers get the others")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--python", help="interpreter that has torchgeo")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8], help="workers of TorchGeo's loader")
    return parser.parse_args()


def compare(kind: str, folder: Path, proxy: Remote, options: argparse.Namespace) -> None:
    local, bucket = str(folder / "set"), f"s3://{servers.BUCKET}"
    # base, reader, threads (or, below zero, processes), bytes of cache, whether all chips were read once before
    ways: dict[str, tuple[str, Callable[..., int], int, int, bool]] = {
        "local": (local, ours, options.cores, 0, False),
        "ours, no cache": (bucket, ours, options.threads, 0, False),
        "ours, cache": (bucket, ours, options.threads, 4 << 30, False),
        "ours, cache, second pass": (bucket, ours, options.threads, 4 << 30, True),
        "plain": (bucket, plain, -2, 0, False),
        "merged": (bucket, merged, -2, 0, False),
    }
    found: dict[str, list[Numbers]] = defaultdict(list)
    for number in range(options.rounds):
        for name, (base, function, workers, cache, again) in ways.items():
            section = Storage(cache=cache, cache_dir=str(folder / f"cache-{kind[:5]}-{number}"), region="us-east-1")
            store.configure(section)
            proxy.set(latency_s=options.latency)
            chips = options.chips if workers > 0 else max(30, options.chips // 5)
            counted = range(10**7 + number * chips, 10**7 + (number + 1) * chips)
            warming = counted if again else range(10**6 * number, 10**6 * number + WARM)
            with pool_of(workers) as pool:
                list(pool.map(partial(function, base, kind), warming))
                proxy.set(clear=1)
                began, cpu = time.perf_counter(), cpu_seconds()
                list(pool.map(partial(function, base, kind), counted))
                wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
                after = proxy.set()
            spent = cpu / chips * 1e3 if workers > 0 else float("nan")
            found[name].append((chips / wall, spent, after.requests / chips, after.bytes_sent / chips / 1e6))
        for workers, (label, env) in itertools.product(options.workers, TORCHGEO.items()) if options.python else ():
            run = others.Run(options.python, "torchgeo", env | reaching())
            found[f"torchgeo, {workers} workers{label}"].append(of_torchgeo(run, kind, number, workers, proxy, options))
    show(kind, found, options)


def of_torchgeo(
    run: others.Run, kind: str, number: int, workers: int, proxy: Remote, options: argparse.Namespace
) -> Numbers:
    """Images alone, as all others here; two batches of each worker come before those that count, and are compared with
    what rasterio reads."""
    store.configure(Storage(region="us-east-1"))
    proxy.set(latency_s=options.latency)
    before = 2 * workers * BATCH
    chips = workers * BATCH * max(2, round(options.chips / 5 / workers / BATCH))
    drawn = [draw(10**8 + number * (before + chips) + i) for i in range(before + chips)]
    images = tuple(store.gdal_path(f"s3://{servers.BUCKET}/{name_of(kind, scene)}") for scene in range(SCENES))
    files = others.Files(images, (), tuple(others.origin(scene, SIDE, SIDE) for scene in range(SCENES)))
    with others.peer(run, others.task_of(files, drawn, size=SIZE, batch=BATCH, workers=workers)) as peer:
        proxy.set(clear=1)
        cpu, wall = peer.read(before, before + chips)
        after = proxy.set()
    return chips / wall, cpu / chips * 1e3, after.requests / chips, after.bytes_sent / chips / 1e6


def show(kind: str, found: dict[str, list[Numbers]], options: argparse.Namespace) -> None:
    middle = {name: np.median(rows, axis=0) for name, rows in found.items()}
    geo = [speed for name, (speed, *_) in middle.items() if name.startswith("torchgeo")]
    speeds = [middle[name][0] for name in ("local", "plain", "merged")] + ([geo[0], max(geo)] if geo else [])
    columns = ["way", "chips/s", "of local", "× plain", "× merged", "× torchgeo", "× its fastest"][: 2 + len(speeds)]
    print(f"\n{kind}, {options.latency * 1e3:.0f} ms per request, {options.cores} core(s), {options.threads} threads")
    print(f"| {' | '.join(columns)} | CPU-ms per chip | requests per chip | MB per chip |")
    print("|---" * (len(columns) + 3) + "|")
    for name, (speed, cpu, requests, sent) in middle.items():
        ratios = " | ".join(f"{speed / other:.2f}" for other in speeds)
        print(f"| {name} | {speed:.1f} | {ratios} | {cpu:.1f} | {requests:.2f} | {sent:.2f} |", flush=True)


def pool_of(workers: int) -> Executor:
    """Threads, or of a negative number processes, as a DataLoader has them."""
    if workers > 0:
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(-workers, mp_context=get_context("spawn"))


def draw(number: int) -> tuple[int, int, int]:
    """Scene, row and column of a window."""
    rng = np.random.default_rng(number)
    row, col = rng.integers(0, SIDE - SIZE, 2)
    return int(rng.integers(SCENES)), int(row), int(col)


def place(base: str, kind: str, number: int) -> tuple[str, int, int]:
    scene, row, col = draw(number)
    return f"{base}/{name_of(kind, scene)}", row, col


def name_of(kind: str, scene: int) -> str:
    return f"{kind.replace(' ', '_')}_{scene}.tif"


def _open(uri: str) -> RemoteReader:
    return RemoteReader(uri, lambda: open_gdal(uri, store.gdal_path(uri), label=False, reading=Reading()))


handles = DatasetPool(_open, 32)


def ours(base: str, kind: str, number: int) -> int:
    uri, row, col = place(base, kind, number)
    return handles.get(uri).read(Window(row, col, SIZE, SIZE))[0].nbytes


def plain(base: str, kind: str, number: int) -> int:
    uri, row, col = place(base, kind, number)
    with plain_env(), rasterio.open(store.gdal_path(uri)) as dataset:
        return int(dataset.read(window=GdalWindow(col, row, SIZE, SIZE)).nbytes)


_warped = threading.local()


def merged(base: str, kind: str, number: int) -> int:
    uri, row, col = place(base, kind, number)
    kept = _warped.__dict__.setdefault("open", {})
    with plain_env():
        if uri not in kept:
            source = rasterio.open(store.gdal_path(uri))
            kept[uri] = WarpedVRT(source, crs=source.crs)
        warped = kept[uri]
        bounds = rasterio.windows.bounds(GdalWindow(col, row, SIZE, SIZE), warped.transform)
        return int(rasterio.merge.merge([warped], bounds=bounds, res=warped.res)[0].nbytes)


def plain_env() -> rasterio.Env:
    return rasterio.Env(session=DummySession(), **reaching())


def reaching() -> dict[str, str]:
    """Nothing but what is needed to reach the server."""
    names = ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING", "AWS_REGION")
    return {name: store.gdal_env()[name] for name in names}


def cpu_seconds() -> float:
    """Of this process alone; what its children take is not known before they end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make_scenes(folder: Path, kind: str) -> None:
    dtype, bands, compress = KINDS[kind]
    folder.mkdir(exist_ok=True)
    for number in range(SCENES):
        pixels, _ = landscape(SIDE, bands, number)
        if dtype == "uint8":
            pixels = ((pixels.astype(np.float32) - 1000) / 2000 * 255).clip(0, 255)
        path = folder / name_of(kind, number)
        layout = {"driver": "COG", "compress": compress, "blocksize": 512, "predictor": 2, "overviews": "NONE"}
        left, top = others.origin(number, SIDE, SIDE)
        where = {"crs": others.CRS, "transform": rasterio.Affine(others.PIXEL, 0, left, 0, -others.PIXEL, top)}
        shape = {"height": SIDE, "width": SIDE, "count": bands, "dtype": dtype}
        with rasterio.open(path, "w", **layout, **where, **shape) as dataset:
            dataset.write(pixels.astype(dtype))


@contextmanager
def served(base: Path, prefix: tuple[str, ...]) -> Iterator[str]:
    """host:port of an S3 server, and the environment that reaches it."""
    base.mkdir()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": servers.S3_KEY,
        "AWS_SECRET_ACCESS_KEY": servers.S3_SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "GDAL_CACHEMAX": "32",
    }
    with servers.s3_at(base, prefix=prefix) as server:
        yield server.endpoint.removeprefix("http://")


if __name__ == "__main__":
    main()
