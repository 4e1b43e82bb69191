"""Time and memory of large vector labels and long lists of scenes.

    python -m bench.labels geojson [megabytes]      a GeoJSON of this size: read, and masks of some windows
    python -m bench.labels scenes [thousands]       a table of so many scenes: read and paired, nothing is opened

Every figure is of this process alone; run one at a time.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.data.labels import masks as label_masks
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import discovery
from pipeline.data.scenes.scene import Scene
from pipeline.recipe import Data

CLASSES = [{"name": "ground"}, {"name": "house"}]
SIDE = 100_000


def main(arguments: list[str]) -> None:
    """Run what is asked for."""
    kind, *size = arguments or [""]
    with tempfile.TemporaryDirectory() as folder:
        if kind == "geojson":
            _geojson(Path(folder), int(size[0]) if size else 200)
        elif kind == "scenes":
            _scenes(Path(folder), int(size[0]) if size else 1000)
        else:
            sys.exit(__doc__)


def _geojson(folder: Path, megabytes: int) -> None:
    path, shapes = folder / "labels.geojson", 0
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    with path.open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        while file.tell() < megabytes << 20:
            x, y, radius = *rng.uniform(20, SIDE - 20, 2), rng.uniform(3, 20)
            ring = np.round(np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)]), 2).tolist()
            geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
            feature = {"type": "Feature", "properties": {"kind": "house"}, "geometry": geometry}
            file.write((",\n" if shapes else "") + json.dumps(feature))
            shapes += 1
        file.write("]}\n")
    print(f"GeoJSON of {path.stat().st_size / 2**20:.0f} MB, {shapes} shapes of {len(angles)} vertices")
    data = Data(root=".", images="*", labels="*", classes=CLASSES, label={"attribute": "kind"})
    classes = Classes.from_section(data)
    where = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    scene = Scene("a", "a.tif", str(path), "train", "a", SIDE, SIDE, None, where, "")
    with _measured("first window (the file is read)"):
        label_masks.mask(scene, Window(0, 0, 512, 512), classes, data)
    with _measured("100 further windows of 512 × 512"):
        for row, col in rng.integers(0, SIDE - 512, (100, 2)):
            label_masks.mask(scene, Window(int(row), int(col), 512, 512), classes, data)


def _scenes(folder: Path, thousands: int) -> None:
    number = 1000 * thousands
    with (folder / "scenes.csv").open("w") as file:
        file.write("id,image,label\n")
        file.writelines(f"s{i:07},images/{i % 997}/s{i:07}.tif,masks/s{i:07}.png\n" for i in range(number))
    print(f"{number} scenes in a CSV of {(folder / 'scenes.csv').stat().st_size / 2**20:.0f} MB")
    data = Data(root=str(folder), scenes="scenes.csv", labels=None, classes=CLASSES)
    with _measured("scenes found"):
        assert len(discovery.find(data)) == number


@contextmanager
def _measured(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - begin:.1f} s, peak memory so far {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
