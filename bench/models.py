"""Networks against those of segmentation_models_pytorch, with the same weights, in one run.

    python -m bench.models                                        # every architecture, 512², batch 1 and 4
    python -m bench.models --only unet fpn --batch 1 --threads 2
    python -m bench.models --layout channels_last --precision bf16

Ours are made by `pipeline.from_smp` of the state of theirs, on ResNet-34 (DPT: ViT-S/16); the logits must agree. Then
the two take turns, so that a machine that slows down slows both: a forward pass in eval mode without gradients, and a
forward and backward pass in training mode, which some of theirs cannot do with one image. What counts is CPU time of
the process, and the most memory that tensors ever held above what they held before, from the allocator's own record.
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
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import pipeline
from pipeline.model.networks import Network

BANDS, CLASSES, ENCODER = 3, 6, "resnet34"
TOLERANCE = 1e-5
PEERS: dict[str, type[nn.Module]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "pan": smp.PAN,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": smp.DPT,
}
OWN_ENCODERS: dict[str, tuple[str, dict[str, bool]]] = {
    "dpt": ("tu-vit_small_patch16_224", {"dynamic_img_size": True}),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Step = Callable[[nn.Module, Tensor], None]


def main() -> None:
    options = arguments()
    if options.row:
        rows(options.only[0], options)
        return
    print(
        f"\nours / SMP {smp.__version__}: {ENCODER}, {options.size}², {options.precision} {options.layout}, "
        f"{options.threads} threads, medians of {options.repeat} turns\n"
    )
    print("| architecture | batch | forward | forward + backward | peak of forward | peak of step | difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind in options.only:
        # In one process the heap that one architecture leaves behind would slow or speed the next.
        command = [sys.executable, "-m", "bench.models", *sys.argv[1:], "--row", "--only", kind]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL if options.quiet else None)


def rows(kind: str, options: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(options.threads)
    layout = {"memory_format": LAYOUTS[options.layout]}  # a bundle's network comes in channels_last
    for batch in options.batch:
        # New ones: steps of training leave moments that differ by rounding.
        pair = [network.to(**layout) for network in twins(kind)]  # type: ignore[call-overload]
        image = torch.randn(batch, BANDS, options.size, options.size).to(**layout)  # type: ignore[call-overload]
        print(row(kind, pair, image, options), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=[*PEERS], metavar="KIND", help=", ".join(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4], help="chips at once")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7, help="turns of each")
    parser.add_argument("--layout", choices=LAYOUTS, default="contiguous")
    parser.add_argument("--row", action="store_true", help="of the first architecture only, in this process")
    parser.add_argument("--quiet", action="store_true", help="without what the profiler says on stderr")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 by autocast")
    return parser.parse_args()


def twins(kind: str) -> tuple[Network, nn.Module]:
    """Ours and theirs with the same weights and moments, none of which are 0 or 1."""
    torch.manual_seed(0)
    name, extra = OWN_ENCODERS.get(kind, (ENCODER, {}))
    theirs = PEERS[kind](name, encoder_weights=None, in_channels=BANDS, classes=CLASSES, **extra)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            for tensor in (module.weight, module.bias, getattr(module, "running_mean", None)):
                if tensor is not None:
                    tensor.data.add_(torch.randn_like(tensor), alpha=0.1)
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    shape = {"classes": CLASSES, "in_channels": BANDS}
    return pipeline.from_smp(theirs.state_dict(), architecture=kind, encoder=name, **shape, **extra).network, theirs


def row(kind: str, pair: list[nn.Module], image: Tensor, options: argparse.Namespace) -> str:
    context = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16")
    with context:
        for network in pair:
            network.eval()
        with torch.no_grad():
            ours, theirs = (network(image).float() for network in pair)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        del ours, theirs
        assert difference < TOLERANCE or options.precision != "fp32", f"{kind}: the logits differ by {difference:.1e}"
        passing, held = timed(pair, image, forward, options.repeat), [peak(n, image, forward) for n in pair]
        for network in pair:
            network.train()
        try:
            learning, trained = timed(pair, image, step, options.repeat), [peak(n, image, step) for n in pair]
        except ValueError:  # BatchNorm of a single value
            learning, trained = [], []
    cells = [shown(passing, 1e-3, "ms"), shown(learning, 1e-3, "ms"), shown(held, 2**20, "MiB")]
    cells.append(shown(trained, 2**20, "MiB"))
    return f"| {kind} | {len(image)} | {' | '.join(cells)} | {difference:.0e} |"


def forward(network: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        network(image)


def step(network: nn.Module, image: Tensor) -> None:
    network(image).square().mean().backward()
    network.zero_grad(set_to_none=True)


def timed(pair: list[nn.Module], image: Tensor, do: Step, repeat: int) -> list[float]:
    """Median CPU seconds of each, taking turns."""
    taken: list[list[float]] = [[], []]
    for turn in range(repeat + 1):
        for network, times in zip(pair, taken, strict=True):
            began = time.process_time()
            do(network, image)
            if turn:  # the first one allocates
                times.append(time.process_time() - began)
    return [statistics.median(times) for times in taken]


def peak(network: nn.Module, image: Tensor, do: Step) -> float:
    """Most bytes of tensors at once, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        do(network, image)
    events: Any = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def shown(pair: list[float], unit: float, name: str) -> str:
    if not pair:
        return "theirs fails"
    return f"**{pair[0] / pair[1]:.2f}** ({pair[0] / unit:.0f} / {pair[1] / unit:.0f} {name})"


if __name__ == "__main__":
    main()
