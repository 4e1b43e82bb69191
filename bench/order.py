"""Planning an order, drawing numbers from it, and how well blocks of tiles mix: time, memory, counts, in one run.

    python -m bench.order                        # 100,000 scenes, 1,000,000,000 windows
    python -m bench.order --scenes 1000 --batch 64

Time is CPU time of the process. Mixing compares windows drawn from blocks of storage tiles with windows drawn each on
its own: scenes and blocks in a batch, storage tiles to decompress for a chip, and chi-square per degree of freedom of
an epoch's shares of scenes, positions in scenes and classes against those of all possible windows (1 is what chance
gives independent windows; of n chips that share a block and fall together it gives n).
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np

from pipeline.data.chips.sampling.class_index import FULL, Presence, Runs, cell_for
from pipeline.data.chips.sampling.class_index_build import build
from pipeline.data.chips.sampling.class_index_file import to_bytes
from pipeline.data.chips.sampling.order import Order
from pipeline.data.chips.sampling.window_draw import Worst
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.scene import Scene
from pipeline.recipe.sampling import Balanced, GridSampling, Hard, Locality, Sampling, Uniform

BINS = 8
CLASSES = 6
PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def shapes(scenes: int) -> list[tuple[int, int]]:
    return [(10_000 + i % 977, 10_000) for i in range(scenes)]


def planned(sampling: Sampling, scenes: int, draws: int) -> None:
    """One line: seconds and MB to plan, microseconds to draw a number, in order and anywhere."""
    sizes, worst = shapes(scenes), [Worst(i, Window(0, 0, 256, 256)) for i in range(0, scenes, 1000)]
    tracemalloc.start()
    Order(sizes, sampling, "d" * 64, 0, worst=worst)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    plan = Order(sizes, sampling, "d" * 64, 0, worst=worst)
    seconds = time.process_time() - began
    micros = []
    for stride in (1, 7_919_993):
        began = time.process_time()
        for i in range(draws):
            plan.chip(i * stride)
        micros.append((time.process_time() - began) / draws * 1e6)
    kind = getattr(sampling, "kind", "") + (" in blocks" if getattr(sampling, "locality", None) else "")
    kind += " of scales" if sampling.scale else ""
    print(f"{kind:<20}{plan.epoch_size:>16,}{seconds:>10.3f}{peak / 1e6:>10.1f}{micros[0]:>12.1f}{micros[1]:>12.1f}")


def presence(scenes: int, draws: int) -> None:
    """The same for what is drawn by masks, with patches of six classes."""
    size = 2048
    every = [
        Scene(f"s{i}", "", None, "train", "", size, size, None, PLAIN, "") for i in range(scenes)
    ]  # fmt: skip
    patches = np.random.default_rng(0).integers(0, CLASSES, (40, 40)).astype(np.uint8)
    patches[:4] = IGNORE
    mask = np.kron(patches, np.ones((64, 64), np.uint8))

    def read(_: Scene, window: Window) -> np.ndarray:
        return mask[window.row : window.row + window.height, window.col : window.col + window.width]

    began = time.process_time()
    index = build(every, read, num_classes=CLASSES, cell=64)
    seconds = time.process_time() - began
    print(
        f"\nindex of classes: {scenes} scenes of {size}², {seconds / scenes / size**2 * 1e9:.1f} ns CPU a pixel,"
        f" {len(to_bytes(index)) / scenes:,.0f} bytes a scene in the file"
    )
    names = [f"c{k}" for k in range(CLASSES)]
    for sampling in (Balanced(share=1.0), Uniform(min_valid=0.9), Balanced(min_valid=0.9, scale=(0.5, 2.0))):
        plan = Order([(size, size)] * scenes, sampling, "d" * 64, 0, presence=index, class_names=names)
        began = time.process_time()
        for i in range(draws):
            plan.chip(i)
        micros = (time.process_time() - began) / draws * 1e6
        print(f"  {sampling.kind}, min_valid {sampling.min_valid}: {micros:.1f} µs a number")


def footprints(scenes: int, side: int, cell: int) -> Presence:
    """The index of scenes that are valid between two slanted lines, of sixteen kinds."""
    length = side // cell
    down, right = np.mgrid[:length, :length] / length
    nothing = Runs(np.empty(0, np.int64), np.empty(0, np.int64))
    starts, shares, pixels = [], [], []
    for low, high in np.random.default_rng(0).uniform(0.05, 0.3, (16, 2)):
        left, rest = ((far * length).clip(0, 1) for far in (right - low - 0.2 * down, 1 - high + 0.1 * down - right))
        valid = (left * rest * FULL).astype(np.uint8).ravel()
        starts.append(np.flatnonzero(np.diff(valid.astype(np.int16), prepend=-1)))
        shares.append(valid[starts[-1]])
        pixels.append(int((left * rest).sum() * cell**2))
    kinds = [i % 16 for i in range(scenes)]
    return Presence(
        ids=("",) * scenes,
        shapes=np.tile(np.array([1, side, side]), (scenes, 1)),
        cell=cell,
        classes=(nothing,),
        foreground=nothing,
        valid_pixels=np.array([pixels[kind] for kind in kinds]),
        valid_starts=np.concatenate([starts[kind] + i * length**2 for i, kind in enumerate(kinds)]),
        valid_shares=np.concatenate([shares[kind] for kind in kinds]),
    )


def partly_valid(scenes: int, side: int, size: int, draws: int) -> None:
    """One line: the same for a grid's windows of which many are not valid enough."""
    sampling = GridSampling(size=size, min_valid=0.5)
    index = footprints(scenes, side, cell_for(sampling))
    began = time.process_time()
    plan = Order([(side, side)] * scenes, sampling, "d" * 64, 0, presence=index)
    seconds = time.process_time() - began
    tracemalloc.start()
    Order([(side, side)] * scenes, sampling, "d" * 64, 0, presence=index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    for i in range(draws):
        plan.chip(i)
    micros = (time.process_time() - began) / draws * 1e6
    print(
        f"  {scenes:,} scenes of {side}², windows of {size}²: {plan.epoch_size:,} of the grid are kept,"
        f" planned in {seconds:.2f} s and {peak / 1e6:.0f} MB, {micros:.1f} µs a number"
    )


def tiles(window: Window, tile: int) -> int:
    """Storage tiles that a window touches."""
    spans = ((window.row, window.height), (window.col, window.width))
    rows, cols = ((begin + length - 1) // tile - begin // tile + 1 for begin, length in spans)
    return rows * cols


def read_tiles(plan: Order, numbers: range, tile: int) -> int:
    """Storage tiles to decompress when each pool is read block by block."""
    pools: dict[range, list[int]] = {}
    for number in numbers:
        pools.setdefault(plan.pool(number), []).append(number)
    return sum(tiles(block.window, tile) for members in pools.values() for block in plan.blocks(members))


def class_of(scene: int, row: int, col: int) -> int:
    """Classes in patches of some 2000 pixels, other ones in each scene."""
    wave = np.sin(row / 700 + scene) + np.sin(col / 900 + 2 * scene) + np.sin((row + col) / 1500)
    return int((wave + 3) / 6 * CLASSES)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Per degree of freedom."""
    expected = expected * counts.sum() / expected.sum()
    kept = expected > 5
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum() / (kept.sum() - 1))


def in_batches(plan: Order, chips: int, batch: int) -> Iterator[tuple[int, int]]:
    """Scenes and blocks in each batch."""
    for first in range(0, chips - batch + 1, batch):
        refs = [plan.chip(number) for number in range(first, first + batch)]
        yield len({r.scene for r in refs}), len({(r.scene, r.block or r.window) for r in refs})


def mixing(near: Locality | None, size: int, sides: list[tuple[int, int]], chips: int, batch: int) -> list[float]:
    """One line of the table."""
    plan = Order(sides, Uniform(size=size, locality=near, epoch_size=chips), "d" * 64, 0)
    refs = [plan.chip(number) for number in range(chips)]
    scenes, places, classes = np.zeros(len(sides)), np.zeros((BINS, BINS)), np.zeros(CLASSES)
    for ref in refs:
        height, width = sides[ref.scene]
        scenes[ref.scene] += 1
        places[ref.window.row * BINS // (height - size + 1), ref.window.col * BINS // (width - size + 1)] += 1
        classes[class_of(ref.scene, ref.window.row + size // 2, ref.window.col + size // 2)] += 1
    random, area = np.random.default_rng(0), np.array([h * w for h, w in sides], float)
    truth = np.zeros(CLASSES)
    for scene in random.choice(len(sides), 100_000, p=area / area.sum()):
        row, col = (random.integers(0, length - size + 1) + size // 2 for length in sides[scene])
        truth[class_of(scene, row, col)] += 1
    mixed = np.array(list(in_batches(plan, chips, batch))).mean(axis=0)
    tile = 512 if near is None else near.tile
    return [
        *mixed,
        read_tiles(plan, range(chips), tile) / chips,
        chi_square(scenes, area),
        chi_square(places, np.ones_like(places)),
        chi_square(classes, truth),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--chips", type=int, default=9_216, help="for the mixing")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    # A billion windows, whatever the number of scenes.
    size = max(1, round((options.scenes * 1.05e8 / 1e9) ** 0.5))
    print(
        f"{options.scenes:,} scenes{'':<10}{'epoch':>10}{'plan, s':>12}{'MB':>8}{'µs in order':>14}{'µs anywhere':>13}"
    )
    for sampling in (
        Uniform(size=size),
        Uniform(size=size, scale=(0.5, 2.0)),
        Uniform(size=size, locality=Locality(tile=64)),
        GridSampling(size=size),
        Hard(size=size, report="r"),
    ):
        planned(sampling, options.scenes, options.draws)
    presence(min(options.scenes, 200), options.draws)
    print("\ngrid with min_valid, every scene partly valid")
    for scenes, side, pixels in ((10_000, 1024, 256), (options.scenes, 1024, 256), (10_000, 8192, 512)):
        partly_valid(scenes, side, pixels, options.draws)
    sides = [(3000 + 500 * (i % 9), 3000 + 700 * (i % 7)) for i in range(60)]
    print(f"\n{options.chips} windows of 512² from {len(sides)} scenes in tiles of 512², batches of {options.batch}")
    heads = ["scenes", "blocks", "tiles a chip", "χ² scenes", "χ² places", "χ² classes"]
    print(f"{'':<34}" + "".join(f"{head:>14}" for head in heads))
    for near in (
        None,
        Locality(tiles=2, chips=4, pool=16),
        Locality(tiles=2, chips=4, pool=64),
        Locality(pool=8),
        Locality(),
        Locality(pool=128),
        Locality(tiles=4, chips=16),
    ):
        name = (
            "each on its own"
            if near is None
            else f"{near.tiles}×{near.tiles} tiles, {near.chips} chips, pool {near.pool}"
        )
        values = mixing(near, 512, sides, options.chips, options.batch)
        print(f"{name:<34}" + "".join(f"{value:>14.2f}" for value in values))


if __name__ == "__main__":
    main()
