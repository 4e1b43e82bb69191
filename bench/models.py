"""Networks against those of segmentation_models_pytorch, with the same weights, in one run.

    python -m bench.models                                        # every architecture, 512², batch 1 and 4
    python -m bench.models --only unet fpn --batch 1 --threads 2
    python -m bench.models --layout channels_last --precision bf16

Ours are built with `compat: smp` on ResNet-34 and take over the state of theirs; the logits must agree. Then the two
take turns, so that a machine that slows down slows both: a forward pass in eval mode without gradients, and a forward
and backward pass in training mode. What counts is CPU time of the process, and the most memory that tensors ever held
above what they held before, from the allocator's own record.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pipeline.model.networks import NETWORKS, Network, create_model

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
# DPT takes plain transformers, and SMP's through one option.
OWN_ENCODERS = {"dpt": ("vit_small_patch16_224", "tu-vit_small_patch16_224", {"dynamic_img_size": True})}
Step = Callable[[nn.Module, Tensor], None]


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(options.threads)
    print(
        f"\nours / SMP {smp.__version__}: {ENCODER}, {options.size}², {options.precision} {options.layout}, "
        f"{options.threads} threads, medians of {options.repeat} turns\n"
    )
    print("| architecture | batch | forward | forward + backward | peak of forward | peak of step | difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind in options.only:
        ours, theirs = twins(kind)
        layout = {"memory_format": torch.channels_last} if options.layout == "channels_last" else {}
        pair = [network.to(**layout) for network in (ours, theirs)]  # type: ignore[call-overload]
        for batch in options.batch:
            image = torch.randn(batch, BANDS, options.size, options.size).to(**layout)  # type: ignore[call-overload]
            print(row(kind, pair, image, options), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    built = [kind for kind in PEERS if kind in NETWORKS]
    parser.add_argument("--only", nargs="+", choices=built, default=built, metavar="KIND", help=", ".join(built))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4], help="chips at once")
    parser.add_argument("--size", type=int, default=512, help="pixels of a chip's side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7, help="turns of each")
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 by autocast")
    return parser.parse_args()


def twins(kind: str) -> tuple[Network, nn.Module]:
    """Ours and theirs with the same weights and moments, none of which are 0 or 1."""
    torch.manual_seed(0)
    name, their_name, extra = OWN_ENCODERS.get(kind, (ENCODER, ENCODER, {}))
    theirs = PEERS[kind](their_name, encoder_weights=None, in_channels=BANDS, classes=CLASSES, **extra)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            for tensor in (module.weight, module.bias, getattr(module, "running_mean", None)):
                if tensor is not None:
                    tensor.data.add_(torch.randn_like(tensor), alpha=0.1)
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    ours = create_model(kind, encoder=name, bands=BANDS, classes=CLASSES, compat="smp")
    ours.load_state_dict(moved(theirs.state_dict(), kind, ours))
    return ours, theirs


def moved(state: Mapping[str, Tensor], kind: str, ours: Network) -> dict[str, Tensor]:
    """SMP's state under our names: decoders by their tables, encoders and heads by position."""
    table = importlib.import_module(f"pipeline.model.decoders.{kind}").SMP_NAMES
    own, found = ours.state_dict(), {}
    for key, value in under(state, "decoder.").items():
        for pattern, name in table:
            key, hits = re.subn(f"^(?:{pattern})$", name, key)
            if hits:
                break
        found[f"decoder.{key}"] = value
    for part, theirs in (("encoder.", "encoder."), ("head.", "segmentation_head.")):
        # SMP keeps stages that nothing reads; they are the last ones.
        found |= dict(zip(under(own, part, keep=True), under(state, theirs).values(), strict=False))
    missing = [key for key in own if key not in found and key not in ("mean", "std")]
    assert not missing, f"{kind}: nothing of theirs for {missing[:5]}"
    return {key: found.get(key, value) for key, value in own.items()}


def under(state: Mapping[str, Tensor], prefix: str, *, keep: bool = False) -> dict[str, Tensor]:
    return {key if keep else key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


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
        learning, trained = timed(pair, image, step, options.repeat), [peak(n, image, step) for n in pair]
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
    return f"**{pair[0] / pair[1]:.3f}** ({pair[0] / unit:.0f} / {pair[1] / unit:.0f} {name})"


if __name__ == "__main__":
    main()
