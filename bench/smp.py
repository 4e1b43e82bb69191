"""SMP's 76 encoders against ours with the same weights: the largest difference of any feature.

    python -m bench.smp                        # all, as a table
    python -m bench.smp --only 'resnet*' mit_b0
    python -m bench.smp --write                # and into docs/smp.md

Weights are random, with the running moments of a random batch; no scale is 1 and no offset 0. A difference is over the
largest value of the feature. In float32 both sides round, which random networks amplify from layer to layer; the column
beside says how far SMP is from itself in float64. What is left in float64 shows that the functions are equal.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from pipeline.model.encoders.deferred_init import Drawing, ShapeOnlyInit
from pipeline.model.smp.encoder_taps import ENCODERS
from pipeline.model.smp.smp_encoder import SMPEncoder
from tests.model.smp.smp_peers import image, settle, stir

DOCS = Path(__file__).parents[1] / "docs" / "smp.md"
BEGIN, END = "<!-- python -m bench.smp --write -->\n", "<!-- end -->\n"
HEADER = """| SMP | timm | float32 | SMP's own rounding | float64 | float64, stride held at 8 |
|---|---|---|---|---|---|
"""
SIZE = (64, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(HEADER, end="")
    rows = []
    for name, source in ENCODERS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.only):
            found = [f"{d:.0e}" for d in differences(name, 32)]
            found.append(f"{differences(name, 8)[2]:.0e}" if source.dilates else "SMP refuses")
            rows.append(f"| {name} | {source.model} | {' | '.join(found)} |\n".replace("0e+00", "0"))
            print(rows[-1], end="", flush=True)
    if options.write:
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}{HEADER}{''.join(rows)}{END}{rest.partition(END)[2]}")


@torch.no_grad()
def differences(name: str, output_stride: int) -> tuple[float, float, float]:
    """Ours from SMP's in float32, SMP's in float32 from its own in float64, ours from SMP's in float64."""
    torch.manual_seed(0)
    with Drawing() as drawing:
        theirs = smp.encoders.get_encoder(name, weights=None, output_stride=output_stride)
        drawing.finish(theirs)
    settle(theirs, image(8, 3, *SIZE))
    stir(theirs)
    # Ours has no memory of its own: the largest encoders have 0.8e9 weights.
    with torch.device("meta"), ShapeOnlyInit():
        ours = SMPEncoder(name, output_stride=output_stride)
    x = image(2, 3, *SIZE)
    single, ours_single = features(theirs.eval(), ours, x)
    double, ours_double = features(theirs.double(), ours, x.double())
    return apart(single, ours_single), apart(double, single), apart(double, ours_double)


def features(theirs: nn.Module, ours: SMPEncoder, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    state = theirs.state_dict()
    ours.load_state_dict({key: state[found] for key, found in ours.find(state).items()}, assign=True)
    # SMP gives the image itself, or a feature of its size, and empty features, which nothing takes.
    return [f for f in theirs(x) if f.shape[1] and f.shape[2] < x.shape[2]], ours.eval()(x)


def apart(expected: list[Tensor], found: list[Tensor]) -> float:
    assert [f.shape for f in expected] == [f.shape for f in found]
    alive = min(float((f[0] - f[1]).abs().max() / f.abs().max()) for f in expected)
    assert alive > 0.01, "the features do not depend on the image: nothing is shown"
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))


if __name__ == "__main__":
    main()
