"""Counts from logits against argmax + SMP's get_stats and against torchmetrics: same logits, same mask, one process.

    python -m bench.metrics [--classes 6 19] [--threads 1 2] [--device cuda]

All ways take turns, so that a machine that slows down slows all of them. CPU time of the process, its threads
included: while they wait they sleep, or a busy machine would bill the waiting. On a GPU the time until it is done.
Every way's counts are compared before the clock runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0")  # read when torch is loaded

import segmentation_models_pytorch as smp
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from pipeline import metrics

IMAGES, SIZE = 8, 512
SMP, JACCARD, MATRIX = "argmax + SMP get_stats", "torchmetrics Jaccard", "torchmetrics matrix, no validation"
PEERS = (SMP, JACCARD, MATRIX)


def ways(logits: torch.Tensor, mask: torch.Tensor) -> dict[str, Callable[[], object]]:
    classes = logits.shape[1]
    bytes_ = mask.to(torch.uint8)
    tally = metrics.Tally(classes)
    jaccard = MulticlassJaccardIndex(classes).to(logits.device)
    matrix = MulticlassConfusionMatrix(classes, validate_args=False).to(logits.device)

    def peer_counts() -> object:
        return smp.metrics.get_stats(logits.argmax(1), mask, mode="multiclass", num_classes=classes)

    expected = peer_counts()
    for ours in (metrics.count(logits, mask), metrics.count(logits, bytes_)):
        for part, theirs in zip(ours, expected, strict=True):
            assert torch.equal(part.cpu(), theirs)
    assert torch.equal(metrics.confusion_of_logits(logits, mask), matrix(logits, mask))
    return {
        "count": lambda: metrics.count(logits, bytes_),
        "count, int64 mask": lambda: metrics.count(logits, mask),
        "confusion_of_logits": lambda: metrics.confusion_of_logits(logits, bytes_),
        "Tally.update": lambda: tally.update(logits, bytes_),
        "predict_classes alone": lambda: metrics.predict_classes(logits),
        "torch.argmax alone": lambda: logits.argmax(1),
        SMP: peer_counts,
        JACCARD: lambda: jaccard.update(logits, mask),
        MATRIX: lambda: matrix.update(logits, mask),
    }


def timed(way: Callable[[], object], device: str) -> float:
    """Milliseconds."""
    if device == "cpu":
        began = time.process_time()
        way()
        return 1000 * (time.process_time() - began)
    torch.cuda.synchronize()
    began = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def compare(classes: int, repeats: int, device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, classes, SIZE, SIZE, generator=draw).to(device)
    mask = torch.randint(0, classes, (IMAGES, SIZE, SIZE), generator=draw).to(device)
    todo = ways(logits, mask)
    times: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(repeats):
        for name, way in todo.items():
            times[name].append(timed(way, device))
    medians = {name: statistics.median(found) for name, found in times.items()}
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"\n{IMAGES} x {classes} x {SIZE} x {SIZE} float32, {where}, median of {repeats}")
    print(f"{'':<36}{'ms':>9}" + "".join(f"{'/ ' + peer.split(',')[0]:>26}" for peer in PEERS))
    for name, ms in medians.items():
        print(f"{name:<36}{ms:>9.1f}" + "".join(f"{ms / medians[peer]:>26.3f}" for peer in PEERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[6, 19])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    for threads in options.threads if options.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        for classes in options.classes:
            compare(classes, options.repeats, options.device)


if __name__ == "__main__":
    main()
