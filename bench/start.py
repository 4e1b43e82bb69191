"""Seconds from typing `segpipe train` to the first step, on Ray with two workers and in one process.

    .venv/bin/python -m bench.start

The manifest and the statistics are made before, so that only the start is timed. The clock stops when the first line
of metrics.jsonl is there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pipeline
from pipeline.data.chips.statistics.compute import cached
from pipeline.data.scenes.synthetic import make_world

ROOT = Path(__file__).parent.parent
WAYS = {
    "ray, 2 workers, Ray Data": ["compute.num_workers=2"],
    "ray, 2 workers, local feed": ["compute.num_workers=2", "compute.feed=local"],
    "one process": ["compute.num_workers=1", "compute.runner=local", "compute.feed=local"],
}


def first_step(overrides: list[str], output: Path) -> tuple[float, float]:
    """Seconds to the first step, and to the end of a run of three steps."""
    command = [sys.executable, "-m", "pipeline", "train", "jobs/recipes/demo.yaml", *overrides]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = float("nan")
    while process.poll() is None:
        if first != first and any(p.stat().st_size for p in output.rglob("metrics.jsonl")):
            first = time.perf_counter() - begin
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return first, time.perf_counter() - begin


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        make_world(world, num_scenes=12, size=256)
        print(f"{'way':<28}{'first step, s':>14}{'end, s':>10}")
        for number, (way, overrides) in enumerate(WAYS.items()):
            output = Path(folder) / f"runs-{number}"
            common = [f"data.root={world}", f"compute.output={output}", "train.steps=3", "train.log_every=1"]
            common += ["train.global_batch=2", "train.checkpoint_every=3"]
            recipe = pipeline.load(ROOT / "jobs/recipes/demo.yaml", common + overrides)
            cached(recipe, pipeline.index(recipe))
            first, end = first_step(common + overrides, output)
            print(f"{way:<28}{first:>14.1f}{end:>10.1f}")


if __name__ == "__main__":
    main()
