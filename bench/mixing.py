"""Does drawing windows from blocks of tiles cost accuracy? The same recipe with and without, over several seeds.

    python -m bench.mixing jobs/recipes/buildings.yaml data.root=PATH train.steps=200 --seeds 5 \\
        --locality '{tile: 256}' --locality '{tile: 256, chips: 4, pool: 64}'

Every seed is trained with uniform windows and with each `locality`, and evaluated on the same split. Seeds are paired:
weights begin alike, so the difference within a seed says more than that of the means. `±` is the standard error over
seeds. With `--output`, what was trained before is not trained again, so seeds can be added.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence

import pipeline
from pipeline import log
from pipeline.data.feed import batch_diversity
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import OutputExists
from pipeline.evaluation import report
from pipeline.evaluation.evaluate import evaluate, report_uri
from pipeline.model import bundle
from pipeline.model.bundle import Bundle
from pipeline.recipe import Recipe
from pipeline.store import join
from pipeline.train.fit import fit, run_uri_of
from pipeline.train.host import BUNDLE


def main() -> None:
    options = arguments()
    log.setup()
    arms = ["null", *options.locality]
    with tempfile.TemporaryDirectory() as folder:
        output = options.output or folder
        scores: dict[str, list[float]] = {arm: [] for arm in arms}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for arm in arms:
                recipe = of_arm(options.recipe, options.overrides, arm, seed, output)
                manifest = current(recipe)
                scores[arm].append(score(recipe, manifest, options.metric))
                print(f"seed {seed}, {named(arm)}: {scores[arm][-1]:.4f}; {mixed(recipe, manifest)}", flush=True)
    table(scores, options.metric)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="a.b=c, as on the command line of segpipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--locality", action="append", help="a section to compare with; may come again")
    parser.add_argument("--metric", default="miou", help="score of the report")
    parser.add_argument("--output", help="folder to keep runs and reports in; by default a temporary one")
    options = parser.parse_args()
    options.locality = options.locality or ["{}", "{chips: 4, pool: 64}"]
    return options


def of_arm(path: str, overrides: Sequence[str], arm: str, seed: int, output: str) -> Recipe:
    """The recipe with windows as an arm says, in this process, which makes it comparable on any machine."""
    ours = [f"data.sampling.locality={arm}", f"seed={seed}", f"compute.output={output}"]
    return pipeline.load(path, ["compute.runner=local", "compute.feed=local", *overrides, *ours])


def score(recipe: Recipe, manifest: Manifest, metric: str) -> float:
    """Of the recipe's network, trained and evaluated now if that was not done before."""
    made = trained(recipe, manifest)
    try:
        found = evaluate(recipe, made, manifest=manifest)
    except OutputExists:
        found = report.read(report_uri(recipe, made, manifest, recipe.evaluate.split))
    return found.scores[metric]


def trained(recipe: Recipe, manifest: Manifest) -> Bundle:
    try:
        return fit(recipe, manifest=manifest, register=False)
    except OutputExists:
        return bundle.load(join(run_uri_of(recipe, manifest), BUNDLE))


def mixed(recipe: Recipe, manifest: Manifest) -> str:
    """What the run wrote down of its batches."""
    return batch_diversity.summary_text(batch_diversity.read(run_uri_of(recipe, manifest)))


def named(arm: str) -> str:
    return "each on its own" if arm == "null" else f"blocks {arm}"


def table(scores: dict[str, list[float]], metric: str) -> None:
    """A line for each arm: mean, and mean difference to the first one, each with its standard error."""
    alone, *_ = scores.values()
    print(f"\n{'windows':<44}{metric:>16}{'difference':>20}   by seed")
    for arm, values in scores.items():
        gains = [ours - theirs for ours, theirs in zip(values, alone, strict=True)]
        difference = "" if values is alone else f"{statistics.fmean(gains):+.4f} ± {error(gains):.4f}"
        mean = f"{statistics.fmean(values):.4f} ± {error(values):.4f}"
        print(f"{named(arm):<44}{mean:>16}{difference:>20}   {' '.join(f'{v:.3f}' for v in values)}")


def error(values: Sequence[float]) -> float:
    """Standard error of the mean; of one value it is not known."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
