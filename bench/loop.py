"""Step time of the loop against a plain PyTorch loop: same network, batch, precision and loss, in one process.

    python -m bench.loop [--precision bf16] [--device cuda] [--blocks 12]

Blocks of steps of both alternate, so that a machine that slows down slows both. The plain loop runs inside the feed of
ours, whose steps are timed from batch to batch: log, checks and everything else that the loop does is in the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from pipeline import recipe
from pipeline.data.feed.batches import Batch
from pipeline.model import losses, networks
from pipeline.train import loop
from pipeline.train.host import LocalHost, NoTracker
from pipeline.train.state import DTYPES
from pipeline.world import World

SIZE, CHIPS, CLASSES = 256, 8, 4


def plain_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch: Batch,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """What one would write by hand."""
    image = batch.image.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    mask = batch.mask.to(device, non_blocking=True).long()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = network(image)
    logits = logits.float()
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), CLASSES).permute(0, 3, 1, 2) * valid[:, None]
    chance = logits.softmax(1) * valid[:, None]
    over = (0, 2, 3)
    dice = 1 - 2 * (chance * truth).sum(over) / (chance.sum(over) + truth.sum(over)).clamp(min=1e-6)
    loss = F.cross_entropy(logits, mask, ignore_index=255) + dice.mean()
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    dtype = DTYPES[options.precision]
    steps = options.blocks * options.block + 1
    section = recipe.Train(
        steps=steps, global_batch=CHIPS, precision=options.precision, checkpoint_every=10 * steps, log_every=10
    )
    batches = [make_batch(number) for number in range(4)]
    torch.manual_seed(0)
    ours = networks.create_model(encoder="resnet18", bands=4, classes=CLASSES)
    theirs = networks.create_model(encoder="resnet18", bands=4, classes=CLASSES)
    theirs = theirs.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1)
    plain: list[float] = []
    looped: list[float] = []

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def plain_block() -> None:
        began = wait()
        for number in range(options.block):
            plain_step(theirs, optimizer, schedule, batches[number % 4], dtype, device)
        plain.append((wait() - began) / options.block)

    def feed(start: int) -> Iterator[Batch]:
        began = wait()
        for step in range(start, steps):
            if step % options.block == 0:
                if step:
                    looped.append((wait() - began) / options.block)
                if step < steps - 1:
                    plain_block()
                began = wait()
            numbers = tuple(range(step * CHIPS, (step + 1) * CHIPS))
            yield Batch(batches[step % 4].image, batches[step % 4].mask, numbers)

    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            loop.Job(section, folder, "bench"),
            network=ours,
            loss=losses.build([recipe.CrossEntropy(), recipe.Dice()], CLASSES),
            batches=feed,
            world=World(),
            host=LocalHost(),
            tracker=NoTracker(),
            device=device,
        )
    # The first block of each pays for what happens once.
    ratios = [a / b for a, b in zip(looped[1:], plain[1:], strict=True)]
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "loop_ms": round(1000 * statistics.median(looped[1:]), 2),
        "plain_ms": round(1000 * statistics.median(plain[1:]), 2),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(result))


def make_batch(number: int) -> Batch:
    draw = torch.Generator().manual_seed(number)
    image = torch.randint(0, 4000, (CHIPS, 4, SIZE, SIZE), generator=draw, dtype=torch.int16)
    mask = torch.randint(0, CLASSES, (CHIPS, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    return Batch(image, mask, ())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--block", type=int, default=4, help="steps in a block")
    return parser.parse_args()


if __name__ == "__main__":
    main()
