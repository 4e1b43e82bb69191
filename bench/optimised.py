"""Defaults against defaults: U-Net on ResNet-34 from here and from segmentation_models_pytorch, in one run.

    python -m bench.optimised                                # 512², one thread
    python -m bench.optimised --bundle runs/roads/.../bundle --images 'data/images/*.tif'

Theirs is what one gets without doing anything: float32, NCHW, eager. Ours is `bundle.optimised()` for inference, and
for training what the loop does: bfloat16 autocast where the processor has it, channels_last. The two take turns, so
that a machine that slows down slows both; what counts is CPU time of the process. Only the start of a model, which is
done on all processors, is elapsed time. With a bundle of a trained network and images, the share of pixels that keep
their class is counted too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import store
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import cover
from pipeline.model import bundle as bundles
from pipeline.model.networks import create_model
from pipeline.model.optimise import Precision, faster_precision, layout_of, optimised

BANDS, CLASSES, ENCODER = 3, 6, "resnet34"
WINDOW = 512
STARTS = {
    "SMP": (
        "import segmentation_models_pytorch as smp",
        "smp.create_model('unet', 'tu-resnet34', encoder_weights=None)",
    ),
    "ours": ("from pipeline.model.networks import create_model", "create_model('unet', encoder='resnet34')"),
}


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(options.threads)
    network = create_model("unet", encoder=ENCODER, bands=BANDS, classes=CLASSES).eval()
    fast = faster_precision(network, layout_of(network))
    print(
        f"\nours / SMP {smp.__version__} eager float32 NCHW: U-Net on {ENCODER}, {options.size}², "
        f"{options.threads} threads, medians of {options.repeat} turns; {fast} is what this processor is fast in\n"
    )
    print("| what | SMP, ms | ours, ms | ratio |\n|---|---|---|---|", flush=True)
    for batch in options.batch:
        image = torch.randn(batch, BANDS, options.size, options.size)
        for what, pair in (
            (f"inference, optimised ({fast}), batch {batch}", inference(image, "auto")),
            (f"inference, optimised (fp32), batch {batch}", inference(image, "fp32")),
            (f"training step ({fast}, channels_last), batch {batch}", training(image, half=fast == "bf16")),
        ):
            row(what, *turns(pair, options.repeat))
    row("create_model in a new process, elapsed", *starts(options.starts))
    if options.bundle:
        agreement(options.bundle, options.images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="chips at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9, help="turns")
    parser.add_argument("--starts", type=int, default=5, help="processes of each")
    parser.add_argument("--bundle", help="of a trained network, to count what bfloat16 does to its classes")
    parser.add_argument("--images", nargs="+", default=[], help="paths or globs")
    return parser.parse_args()


def inference(image: Tensor, precision: Precision) -> tuple[Callable[[], object], Callable[[], object]]:
    theirs = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).eval()
    ours = optimised(create_model("unet", encoder=ENCODER, bands=BANDS, classes=CLASSES), precision=precision)

    def forward(network: nn.Module) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return network(image)

        return run

    return forward(theirs), forward(ours)


def training(image: Tensor, *, half: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    mask = torch.randint(0, CLASSES, (image.shape[0], *image.shape[2:]))
    theirs = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).train()
    ours = create_model("unet", encoder=ENCODER, bands=BANDS, classes=CLASSES)
    ours = ours.to(memory_format=torch.channels_last).train()

    def step(network: nn.Module, pixels: Tensor, *, half: bool) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = network(pixels)
            F.cross_entropy(logits.float(), mask).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    laid = image.contiguous(memory_format=torch.channels_last)
    return step(theirs, image, half=False), step(ours, laid, half=half)


def turns(pair: tuple[Callable[[], object], Callable[[], object]], repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of both, turn by turn; the first turn pays for what happens once and does not count."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for run, times in zip(pair, taken, strict=True):
            begin = time.process_time()
            run()
            if turn:
                times.append(time.process_time() - begin)
    return taken


def starts(repeat: int) -> tuple[list[float], list[float]]:
    """Seconds that the first network of a process takes, imports not counted."""
    taken: dict[str, list[float]] = {"SMP": [], "ours": []}
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for _ in range(repeat):
        for who, (imports, call) in STARTS.items():
            code = f"import time; {imports}; t = time.perf_counter(); {call}; print(time.perf_counter() - t)"
            command = [sys.executable, "-W", "ignore", "-c", code]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
            taken[who].append(float(out.stdout.split()[-1]))
    return taken["SMP"], taken["ours"]


def row(what: str, theirs: list[float], ours: list[float]) -> None:
    ratio = statistics.median(b / a for a, b in zip(theirs, ours, strict=True))
    middle = [1000 * statistics.median(times) for times in (theirs, ours)]
    print(f"| {what} | {middle[0]:.0f} | {middle[1]:.0f} | {ratio:.2f} |", flush=True)


def agreement(uri: str, patterns: list[str]) -> None:
    """Share of the pixels of images that keep their class in bfloat16."""
    bundle = bundles.load(uri)
    plain, fast = bundle.network, bundle.optimised(precision="bf16")
    same = total = 0
    for path in (path for pattern in patterns for path in store.glob(pattern)):
        grid = raster_io.describe(path).grid
        for window in cover(grid.height, grid.width, WINDOW):
            pixels, valid = raster_io.read(path, window)
            image = torch.from_numpy(pixels)[None]
            with torch.no_grad():
                kept = (plain(image).argmax(1) == fast(image).argmax(1))[0].numpy()
            same += int(kept[valid].sum())
            total += int(valid.sum())
    print(f"\n{same / total:.4%} of {total} pixels keep their class in bfloat16")


if __name__ == "__main__":
    main()
