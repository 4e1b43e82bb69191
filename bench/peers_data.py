"""TorchGeo and Raster Vision on given windows; run by bench.data with an interpreter that has them.

python bench/peers_data.py torchgeo windows.json    # prints [CPU seconds, wall seconds], imports excluded
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    name, path = sys.argv[1:]
    task = json.loads(Path(path).read_text())
    run = {"torchgeo": torchgeo, "rastervision": rastervision}[name](task)
    began, before = time.perf_counter(), cpu_seconds()
    run()
    print(json.dumps([cpu_seconds() - before, time.perf_counter() - began]))


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def torchgeo(task: dict):
    """RasterDataset for image and mask, intersected, windows by a sampler, the DataLoader that its docs show."""
    import rasterio
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples

    images = sorted({w[0] for w in task["windows"]})
    labels = sorted({w[1] for w in task["windows"]})

    class Labels(RasterDataset):
        is_image = False

    # Scenes that lie over each other are separate data sets: a window is of one scene.
    pairs = {i: RasterDataset(paths=[i]) & Labels(paths=[m]) for i, m in zip(images, labels, strict=True)}
    queries = []
    for image, _, row, col, height, width in task["windows"]:
        with rasterio.open(image) as file:
            left, top = file.transform * (col, row)
            right, bottom = file.transform * (col + width, row + height)
        data = pairs[image]
        queries.append((data, query(data, min(left, right), max(left, right), min(top, bottom), max(top, bottom))))

    class Windows:
        def __len__(self) -> int:
            return len(queries)

        def __getitem__(self, position: int):
            data, where = queries[position]
            return data[where]

    loader = DataLoader(Windows(), batch_size=task["batch"], num_workers=task["workers"], collate_fn=stack_samples)
    return lambda: [None for _ in loader]


def query(data, left: float, right: float, low: float, high: float):
    """A window as this version of TorchGeo wants it."""
    try:
        from torchgeo.datasets import BoundingBox
    except ImportError:
        return slice(left, right), slice(low, high)
    return BoundingBox(left, right, low, high, data.bounds.mint, data.bounds.maxt)


def rastervision(task: dict):
    """A raster source and a label source per scene, asked for windows; no workers, which it leaves to others."""
    from rastervision.core.box import Box
    from rastervision.core.data import ClassConfig, RasterioSource, SemanticSegmentationLabelSource

    classes = ClassConfig(names=["low", "high"])
    sources = {}
    for image, label, *_ in task["windows"]:
        if image not in sources:
            sources[image] = (
                RasterioSource(image),
                SemanticSegmentationLabelSource(RasterioSource(label), class_config=classes),
            )

    def run() -> None:
        for image, _, row, col, height, width in task["windows"]:
            box = Box(row, col, row + height, col + width)
            pixels, labels = sources[image]
            pixels[box], labels[box]

    return run


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
