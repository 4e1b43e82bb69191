"""Losses against those of segmentation_models_pytorch and MONAI: forward and backward, time and memory, in one run.

    python -m bench.losses                    # 8×6×512² and 8×19×512² float32 on one thread
    python -m bench.losses --only lovasz --repeats 3 --size 256

Repetitions alternate, so that a machine that slows down slows both. Time is CPU time of the process, ratios are medians
of the ratios of neighbours. Memory is what a process of its own takes at most above what it held before, the gradient
of the logits included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import torch
from monai.losses import GeneralizedDiceLoss, HausdorffDTLoss, SoftclDiceLoss
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.losses import create_loss

Run = Callable[[Tensor, Tensor], Tensor]
MODE = "multiclass"


class Case(NamedTuple):
    ours: Callable[[int], Run]
    theirs: Callable[[int], Run]
    peer: str


def both(*losses: Run) -> Run:
    return lambda logits, mask: sum(loss(logits, mask) for loss in losses)


def hot(loss: Run, classes: int) -> Run:
    """A loss of one-hot masks, made as its users make them."""
    return lambda logits, mask: loss(logits, F.one_hot(mask, classes).movedim(-1, 1).float())


CASES = {
    "cross-entropy + Dice": Case(
        lambda k: create_loss(["cross_entropy", "dice"], k),
        lambda k: both(smp.losses.SoftCrossEntropyLoss(smooth_factor=0), smp.losses.DiceLoss(MODE)),
        "SMP",
    ),
    "cross-entropy": Case(lambda k: create_loss("cross_entropy", k), lambda k: F.cross_entropy, "torch"),
    "focal": Case(lambda k: create_loss("focal", k), lambda k: smp.losses.FocalLoss(MODE), "SMP"),
    "Jaccard": Case(lambda k: create_loss("jaccard", k), lambda k: smp.losses.JaccardLoss(MODE), "SMP"),
    "Tversky": Case(lambda k: create_loss("tversky", k), lambda k: smp.losses.TverskyLoss(MODE), "SMP"),
    "Lovász": Case(lambda k: create_loss("lovasz", k), lambda k: smp.losses.LovaszLoss(MODE), "SMP"),
    "Lovász per chip": Case(
        lambda k: create_loss("lovasz", k), lambda k: smp.losses.LovaszLoss(MODE, per_image=True), "SMP"
    ),
    "generalised Dice": Case(
        lambda k: create_loss("generalised_dice", k),
        lambda k: hot(GeneralizedDiceLoss(softmax=True, batch=True), k),
        "MONAI",
    ),
    "Hausdorff": Case(
        lambda k: create_loss("hausdorff", k),
        lambda k: hot(HausdorffDTLoss(include_background=True, softmax=True), k),
        "MONAI",
    ),
    "clDice": Case(lambda k: create_loss("cldice", k), lambda k: hot(SoftclDiceLoss(softmax=True), k), "MONAI"),
}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        print(memory(*options.child, options))
        return
    print(
        f"{options.chips}×C×{options.size}² float32, {options.threads} threads: ours / peer, CPU time and extra memory"
    )
    print(f"{'loss':<22}{'peer':<7}{'C':>3}{'ms':>8}{'peer ms':>9}{'ratio':>7}{'MB':>8}{'peer MB':>9}{'ratio':>7}")
    for name, case in CASES.items():
        for classes in options.classes:
            if options.only and options.only.lower() not in name.lower():
                continue
            ours, theirs = times(case, classes, options)
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            our_mb, their_mb = (in_child(name, side, classes, options) for side in ("ours", "theirs"))
            print(
                f"{name:<22}{case.peer:<7}{classes:>3}{statistics.median(ours):>8.0f}{statistics.median(theirs):>9.0f}"
                f"{ratio:>7.2f}{our_mb:>8.0f}{their_mb:>9.0f}{our_mb / their_mb:>7.2f}",
                flush=True,
            )


def times(case: Case, classes: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """CPU milliseconds of each repetition, ours and theirs."""
    logits, mask = batch(classes, options)
    runs = case.ours(classes), case.theirs(classes)
    spent: tuple[list[float], list[float]] = ([], [])
    for repetition in range(options.repeats + 1):
        for run, into in zip(runs, spent, strict=True):
            began = time.process_time()
            step(run, logits, mask)
            if repetition:  # the first of each pays for what happens once
                into.append(1e3 * (time.process_time() - began))
    return spent


def step(run: Run, logits: Tensor, mask: Tensor) -> None:
    run(logits, mask).backward()
    logits.grad = None


def batch(classes: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Patches of classes, and logits that are right more often than not."""
    torch.manual_seed(0)
    shape = (options.chips, options.size // 16, options.size // 16)
    mask = torch.randint(classes, shape).repeat_interleave(16, 1).repeat_interleave(16, 2)
    logits = torch.randn(options.chips, classes, options.size, options.size)
    logits.scatter_add_(1, mask[:, None], torch.full_like(logits[:, :1], 1.5))
    return logits.requires_grad_(), mask


def in_child(name: str, side: str, classes: int, options: argparse.Namespace) -> float:
    """`memory` in a process that gives back what it frees at once."""
    command = [sys.executable, "-m", "bench.losses", "--child", name, side, str(classes)]
    for key in ("chips", "size", "threads"):
        command += [f"--{key}", str(getattr(options, key))]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return float(json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout))


def memory(name: str, side: str, classes: str, options: argparse.Namespace) -> float:
    """MB at the highest point of a step above what was held before it; Linux only."""
    run = getattr(CASES[name], side)(int(classes))
    small = argparse.Namespace(chips=1, size=64)
    step(run, *batch(int(classes), small))
    logits, mask = batch(int(classes), options)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest point so far
    before = status("VmRSS")
    step(run, logits, mask)
    return (status("VmHWM") - before) / 1e3


def status(key: str) -> int:
    """A number of kB from Linux's account of this process."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a loss's name")
    parser.add_argument("--classes", type=int, nargs="+", default=[6, 19])
    parser.add_argument("--chips", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
