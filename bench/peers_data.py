"""TorchGeo and Raster Vision on given windows; run by bench.peers with an interpreter that has them.

Reads what to do from the first line of its input as JSON, answers with its versions, and then for each line
`first stop` reads those windows by the loader that the program's own documentation shows, and answers with CPU and wall
seconds: of this process and its workers, which were started and have opened files before, imports excluded. Before all
that the pixels of some chips are compared with what rasterio reads.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

Chips = Iterator[tuple[Any, Any]]
"""Batches of images [N, C, H, W] in the values of the files, and of masks [N, H, W] (without labels: images)."""

Way = Callable[[range], Chips]
"""A pass over the windows of these numbers."""


def main() -> None:
    out = sys.stdout
    name, task = sys.argv[1], json.loads(sys.stdin.readline())
    with redirect_stdout(sys.stderr):  # they print
        way = WAYS[name](task)
        compare(way, task, exactly=name != "torchgeo-sampler")
        used = f"{name.partition('-')[0]} {version(DISTRIBUTIONS[name])}, rasterio {rasterio.__version__}"
        print(json.dumps(used), file=out, flush=True)
        for line in sys.stdin:
            began, before = time.perf_counter(), cpu_seconds()
            for _ in way(range(*map(int, line.split()))):
                pass
            print(json.dumps([cpu_seconds() - before, time.perf_counter() - began]), file=out, flush=True)


def compare(way: Way, task: dict[str, Any], *, exactly: bool) -> None:
    """What comes out of the workers against rasterio: the first two batches of each worker.

    Of a sampler that draws its own windows only the shape is known.
    """
    chips = range(min(len(task["windows"]), 2 * task["workers"] * task["batch"]))
    found = [chip for images, masks in way(chips) for chip in zip(images, masks, strict=True)]
    assert len(found) == len(chips), f"{len(found)} chips of {len(chips)}"
    for (image, mask), (scene, row, col) in zip(found, task["windows"], strict=False):
        assert image.shape[1:] == (task["size"],) * 2, f"a chip of {image.shape}"
        for paths, values in ((task["images"], image), (task["labels"], mask[None])) if exactly else ():
            if paths:
                with rasterio.open(paths[scene]) as file:
                    expected = file.read(window=Window(col, row, task["size"], task["size"]))
                assert np.array_equal(values.numpy(), expected), f"other pixels: {paths[scene]} {row} {col}"


def cpu_seconds() -> float:
    """Of this process and its living workers."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in children]
    ticks = sum(int(of[11]) + int(of[12]) for of in fields)
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


class Chosen:
    """A sampler whose keys are set before each pass, so that the workers can stay."""

    def __init__(self) -> None:
        self.keys: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def torchgeo(task: dict[str, Any]) -> Way:
    """One data set of images intersected with one of masks, its cache of handles on, and the given windows."""
    dataset, sampler = intersection(task), Chosen()
    times = slice(dataset.bounds[2].start, dataset.bounds[2].stop)
    step, side = task["pixel"], task["pixel"] * task["size"]
    keys = []
    for scene, row, col in task["windows"]:
        left, top = task["origins"][scene][0] + col * step, task["origins"][scene][1] - row * step
        keys.append((slice(left, left + side), slice(top - side, top), times))
    loader = geo_loader(dataset, sampler, task)

    def run(numbers: range) -> Chips:
        sampler.keys = [keys[n] for n in numbers]
        return ((batch["image"], batch.get("mask", batch["image"])) for batch in loader)

    return run


def torchgeo_sampler(task: dict[str, Any]) -> Way:
    """The same with its own random sampler, which draws other windows of the same kind."""
    from torchgeo.samplers import RandomGeoSampler

    dataset = intersection(task)
    sampler = RandomGeoSampler(dataset, size=task["size"])
    loader = geo_loader(dataset, sampler, task)

    def run(numbers: range) -> Chips:
        sampler.length = len(numbers)
        return ((batch["image"], batch.get("mask", batch["image"])) for batch in loader)

    return run


def intersection(task: dict[str, Any]) -> Any:
    from torchgeo.datasets import RasterDataset

    class Masks(RasterDataset):
        is_image = False

    images = RasterDataset(paths=task["images"])
    return images & Masks(paths=task["labels"]) if task["labels"] else images


def geo_loader(dataset: Any, sampler: Any, task: dict[str, Any]) -> Any:
    from torch.utils.data import DataLoader
    from torchgeo.datasets import stack_samples

    return DataLoader(
        dataset,
        batch_size=task["batch"],
        sampler=sampler,
        num_workers=task["workers"],
        collate_fn=stack_samples,
        persistent_workers=True,
    )


def rastervision(task: dict[str, Any]) -> Way:
    """A data set of sliding windows per scene, its windows replaced by the given ones, and a loader over all scenes."""
    from rastervision.core.box import Box
    from rastervision.core.data import ClassConfig
    from rastervision.pytorch_learner import SemanticSegmentationSlidingWindowGeoDataset
    from torch.utils.data import ConcatDataset, DataLoader

    side, classes = task["size"], ClassConfig(names=["low", "high"])
    sets = [
        SemanticSegmentationSlidingWindowGeoDataset.from_uris(
            image_uri=image, label_raster_uri=label, class_config=classes, size=side, stride=side
        )
        for image, label in zip(task["images"], task["labels"], strict=True)
    ]
    for one in sets:
        one.windows = []
    places = []
    for scene, row, col in task["windows"]:
        places.append((scene, len(sets[scene])))
        sets[scene].windows.append(Box(row, col, row + side, col + side))
    joined, sampler = ConcatDataset(sets), Chosen()
    first = [0, *joined.cumulative_sizes]
    loader = DataLoader(
        joined, batch_size=task["batch"], sampler=sampler, num_workers=task["workers"], persistent_workers=True
    )
    scale = np.iinfo(sets[0].scene.raster_source.dtype).max

    def run(numbers: range) -> Chips:
        sampler.keys = [first[scene] + place for scene, place in (places[n] for n in numbers)]
        return ((Scaled(images, scale), masks) for images, masks in loader)

    return run


class Scaled:
    """Images between 0 and 1, and what they were before when somebody looks."""

    def __init__(self, images: Any, scale: int) -> None:
        self.images, self.scale = images, scale

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images.double() * self.scale).round())


WAYS = {"torchgeo": torchgeo, "torchgeo-sampler": torchgeo_sampler, "rastervision": rastervision}
DISTRIBUTIONS = {"torchgeo": "torchgeo", "torchgeo-sampler": "torchgeo", "rastervision": "rastervision_core"}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
