"""Other programs as processes with an interpreter of their own: what bench.data and bench.remote share.

uv venv peers --python 3.13
uv pip install --python peers torchgeo rastervision_core rastervision_pytorch_learner
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.data.scenes.scene import Scene

CRS, PIXEL = "EPSG:32633", 10
TURNS = 4


class PeerFailed(RuntimeError):
    """The other program ended; its last words."""


@dataclass(frozen=True)
class Run:
    """An interpreter, one of `peers_data.WAYS`, and what its environment has besides ours."""

    python: str
    way: str
    env: dict[str, str]


@dataclass(frozen=True)
class Peer:
    """A program that has started its workers; `read(first, stop)` gives CPU and wall seconds for those windows."""

    version: str
    read: Callable[[int, int], tuple[float, float]]


@dataclass(frozen=True)
class Files:
    """Images, labels (or none), and the coordinates of their upper left corners."""

    images: tuple[str, ...]
    labels: tuple[str, ...]
    origins: tuple[tuple[float, float], ...]


# GDAL's own cache is 5 % of the memory in each process that reads; ours is 256 MiB.
_AS_OURS: Final = {"GDAL_CACHEMAX": "256"}
WAYS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "torchgeo": ("torchgeo", {}),
    "torchgeo, cache as ours": ("torchgeo", _AS_OURS),
    "torchgeo, own random windows": ("torchgeo-sampler", {}),
    "rastervision": ("rastervision", {}),
    "rastervision, cache as ours": ("rastervision", _AS_OURS),
}


@contextmanager
def peer(run: Run, task: dict[str, Any]) -> Iterator[Peer]:
    """Start a program on a task; it ends with the block.

    Raises:
        PeerFailed: it ended, or compared its pixels with rasterio's and found others.
    """
    command = [run.python, str(Path(__file__).with_name("peers_data.py")), run.way]
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=os.environ | run.env,
        )
        assert process.stdin is not None and process.stdout is not None
        to, back = process.stdin, process.stdout

        def ask(line: str) -> Any:
            try:
                to.write(f"{line}\n")
                to.flush()
                return json.loads(back.readline())
            except (BrokenPipeError, json.JSONDecodeError) as error:
                process.wait()
                words.seek(0)
                last = (words.read().strip().splitlines() or [f"ended with {process.returncode}"])[-1]
                raise PeerFailed(last) from error

        with process:
            version = ask(json.dumps(task))
            yield Peer(version, lambda first, stop: tuple(ask(f"{first} {stop}")))


def in_turns(run: Run, task: dict[str, Any], ours: Callable[[], object], chips: int) -> tuple[float, float, str]:
    """CPU and wall milliseconds per chip of a peer, and how its CPU compares with that of `ours`, which reads the next
    `chips` at each call. Of both the first turn does not count; of the others the medians do.

    What our feed reads ahead while the peer has its turn counts as ours: all that this process takes does.
    """
    found = []
    try:
        with peer(run, task) as other:
            for turn in range(1 + TURNS):
                before = _own_cpu_seconds()
                ours()
                theirs = other.read(turn * chips, (turn + 1) * chips)
                found.append([seconds / chips * 1e3 for seconds in (_own_cpu_seconds() - before, *theirs)])
    except PeerFailed as error:
        return float("nan"), float("nan"), str(error)[:80]
    our_cpu, cpu, wall = np.median(found[1:], axis=0).tolist()
    return cpu, wall, f"{cpu / our_cpu:.2f} × our feed in the same turns ({our_cpu:.2f} ms); {other.version}"


def _own_cpu_seconds() -> float:
    """Of this process without its children."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def task_of(files: Files, windows: Sequence[tuple[int, int, int]], **loader: int) -> dict[str, Any]:
    """Windows as (number of the file, row, column); of the loader `size`, `batch` and `workers`."""
    return asdict(files) | {"pixel": PIXEL, "windows": windows} | loader


def spread(scenes: Sequence[Scene], folder: Path) -> Files:
    """Links to the scenes' files, and beside each what says that it lies apart from the others, since TorchGeo merges
    what lies over each other."""
    folder.mkdir()
    images: list[str] = []
    labels: list[str] = []
    origins = []
    for number, scene in enumerate(scenes):
        left, top = origin(number, scene.width, scene.height)
        origins.append((left, top))
        for found, path in ((images, scene.image), (labels, str(scene.label))):
            link = folder / Path(path).name
            os.link(path, link)
            place = f"<GeoTransform>{left}, {PIXEL}, 0, {top}, 0, -{PIXEL}</GeoTransform>"
            link.with_name(f"{link.name}.aux.xml").write_text(f"<PAMDataset><SRS>{CRS}</SRS>{place}</PAMDataset>")
            found.append(str(link))
    return Files(tuple(images), tuple(labels), tuple(origins))


def origin(number: int, width: int, height: int) -> tuple[float, float]:
    """Upper left corner of a scene that touches no other: eight in a row."""
    down, right = divmod(number, 8)
    return 300_000 + right * (width + 64) * PIXEL, 6_000_000 - down * (height + 64) * PIXEL
