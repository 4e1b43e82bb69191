"""Which of timm's models are encoders, and why the others are not: every one drawn without weights and measured.

    python -m bench.encoders [--pattern 'vit*'] [--processes 3] [--write]

`--write` replaces the table in the package that `segpipe models list` shows.
"""

from __future__ import annotations

import argparse
import collections
import csv
import fnmatch
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from pipeline.errors import RecipeError
from pipeline.model.encoders import plan

TABLE = Path(plan.__file__).with_name("timm_encoders.csv")
COLUMNS = [
    "name",
    "kind",
    "strides",
    "channels",
    "params",
    "any_size",
    "multiple",
    "output_strides",
    "verdict",
    "reason",
]
PATIENCE = 60  # seconds of processor time for one model
MAIN_STAGES = 2  # fewer than two growing strides make no decoder


class Late(BaseException):
    """Not an Exception: what a model raises while it is tried out is caught on the way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="*")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = fnmatch.filter(timm.list_models(), options.pattern)
    begin = time.perf_counter()
    rows = list(scan(names, options.processes))
    for row in rows:
        if row["verdict"] != "ok":
            print(f"{row['name']}: {row['reason']}")
    for count, what in summary(rows):
        print(f"{count:5d}  {what}")
    accepted = sum(row["verdict"] == "ok" for row in rows)
    print(f"{accepted} of {len(rows)} accepted, {time.perf_counter() - begin:.0f} s")
    if options.write:
        write(rows)


def scan(names: Iterable[str], processes: int) -> Iterator[dict[str, Any]]:
    """A row of the table for each name, in order."""
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, row in enumerate(pool.map(measured, names, chunksize=4), 1):
            if sys.stderr.isatty():
                print(f"\r{done} ", end="", file=sys.stderr)
            yield row


def measured(name: str) -> dict[str, Any]:
    """The row of one model."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"name": name, "verdict": "refused"}
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        request = plan.Request(name)
        found = plan.plan(request)
        row |= {
            "kind": found.kind,
            "strides": _few(found.strides),
            "channels": _few(found.channels),
            "params": found.parameters,
            "any_size": f"resized to {found.size[0]}x{found.size[1]}" if found.size else "yes",
            "multiple": found.multiple,
        }
        if len(set(found.strides)) < MAIN_STAGES:
            row["reason"] = "features at one stride only"
            return row
        row["output_strides"] = _few(s for s in plan.OUTPUT_STRIDES if _held(request, found, s))
        row["verdict"] = "ok"
    except RecipeError as error:
        row["reason"] = str(error).splitlines()[0]
    except Late:
        row["reason"] = f"not drawn within {PATIENCE} s"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        plan.plan.cache_clear()
    return row


def summary(rows: Iterable[dict[str, Any]]) -> list[tuple[int, str]]:
    """How many models there are of each kind, the most first."""
    counts = collections.Counter(
        f"{row['kind']}, strides {row['strides']}, {str(row['any_size']).partition(' ')[0] or '-'} size"
        if row["verdict"] == "ok"
        else "refused"
        for row in rows
    )
    return [(count, what) for what, count in counts.most_common()]


def write(rows: Iterable[dict[str, Any]]) -> None:
    """Replace the package's table."""
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read() -> list[dict[str, str]]:
    """The package's table."""
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def _held(request: plan.Request, found: plan.Plan, stride: int) -> bool:
    """True if the deepest feature can be kept at `stride`, without or with dilation."""
    if found.kind == "flat" or found.strides[-1] <= stride:
        return True
    try:
        return plan.possible(replace(request, output_stride=stride))
    except RecipeError:
        return False


def _few(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _late(*_: Any) -> None:
    raise Late


if __name__ == "__main__":
    main()
