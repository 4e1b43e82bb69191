"""Which of timm's models are encoders, and why the others are not: every one drawn without weights and measured.

    python -m bench.encoders [--pattern 'vit*'] [--processes 3] [--write]

`--write` replaces the table in the package that `segpipe models list` shows; `--docs` makes docs/encoders.md of that
table, without measuring.
"""

from __future__ import annotations

import argparse
import collections
import csv
import fnmatch
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from pipeline.errors import RecipeError
from pipeline.model.encoders import feature_plan

TABLE = Path(feature_plan.__file__).with_name("timm_encoders.csv")
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
DOCS = Path(__file__).parents[1] / "docs" / "encoders.md"
PATIENCE = 60  # seconds of processor time for one model
MAIN_STAGES = 2  # fewer than two growing strides make no decoder


class Late(BaseException):
    """Not an Exception: what a model raises while it is tried out is caught on the way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="*")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    if options.docs:
        DOCS.write_text(page(read()))
        return
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
        request = feature_plan.Request(name)
        found = feature_plan.plan(request)
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
        row["output_strides"] = _few(s for s in feature_plan.OUTPUT_STRIDES if _held(request, found, s))
        row["verdict"] = "ok"
    except RecipeError as error:
        row["reason"] = str(error).splitlines()[0]
    except Late:
        row["reason"] = f"not drawn within {PATIENCE} s"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        feature_plan.plan.cache_clear()
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


def page(rows: Sequence[dict[str, str]]) -> str:
    """The table in short: families, what they give, and what is refused."""
    accepted = [row for row in rows if row["verdict"] == "ok"]
    lines = [
        "# Encoders",
        "",
        '    network = pipeline.create_model("upernet", encoder="convnext_tiny", bands=13, classes=7, pretrained=True)',
        "",
        f"{len(accepted)} of the {len(rows)} models of timm {timm.__version__} are encoders, for every family",
        "of decoders. `segpipe models list --encoder 'PATTERN*'` shows each; this page is made by",
        "`python -m bench.encoders --docs` of the table that `python -m bench.encoders --write` measures.",
        "",
        "- **conv, hierarchical**: stages at growing strides, as timm gives them.",
        "- **flat**: plain transformers and mixers. Four blocks at equal distances become a pyramid at strides 4, 8,",
        "  16, 32 (ViTDet, Li et al. 2022); DPT, PSPNet, DeepLab, FCN and OCRNet take the blocks as they are. Patches",
        "  of 14 pixels are laid 16 apart by shrinking the image to 7/8.",
        "- **resized**: made for one image size; each image is resized to it inside the encoder, and features back.",
        "  `image_size` builds those that can be built for another size.",
        "- `output_stride` 8 or 16 keeps deep stages at that stride by dilation, as far as the third column says.",
        "",
        "| family | models | kinds | strides | output strides | sizes | example |",
        "|---|---|---|---|---|---|---|",
    ]
    families = collections.defaultdict(list)
    for row in accepted:
        families[re.split(r"[_\d]", row["name"], maxsplit=1)[0]].append(row)
    for family, members in sorted(families.items()):
        cells = [
            family,
            str(len(members)),
            *(_distinct(row[column] for row in members) for column in ("kind", "strides", "output_strides")),
            _distinct(row["any_size"].partition(" ")[0].replace("yes", "any") for row in members),
            min(members, key=lambda row: int(row["params"]))["name"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Refused:", "", "| model | reason |", "|---|---|"]
    lines += [f"| {row['name']} | {row['reason']} |" for row in rows if row["verdict"] != "ok"]
    return "\n".join(lines) + "\n"


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(v for v in values if v)) or "-"


def _held(request: feature_plan.Request, found: feature_plan.FeaturePlan, stride: int) -> bool:
    """True if the deepest feature can be kept at `stride`, without or with dilation."""
    if found.kind == "flat" or found.strides[-1] <= stride:
        return True
    try:
        return feature_plan.possible(replace(request, output_stride=stride))
    except RecipeError:
        return False


def _few(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _late(*_: Any) -> None:
    raise Late


if __name__ == "__main__":
    main()
