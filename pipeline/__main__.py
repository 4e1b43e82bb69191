"""The command line: reads arguments, calls one verb, prints what came out, turns errors into exit codes.

Exit codes: 0 ok, 2 recipe or usage, 3 data, 4 training, 5 gate refused, 75 storage or infrastructure (try again),
130 interrupted, 1 a fault of this program.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pipeline
from pipeline import config, log, store
from pipeline.cli import data_commands, model_commands
from pipeline.cli.command import Result
from pipeline.data.chips import quarantine
from pipeline.errors import PipelineError, StorageError
from pipeline.recipe import Recipe
from pipeline.redaction import redacted, redacted_tree
from pipeline.world import World

logger = logging.getLogger("pipeline.cli")

_GATE_REFUSED = 5
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parse(argv)
    # Read when torch is loaded, also by the processes of a private Ray cluster. Threads that wait by spinning make
    # each other several times slower where more of them are busy than there are cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    world = World.detect()  # under torchrun every rank runs this, and the leader speaks
    log.setup(rank=world.rank, verbose=options.verbose)
    signal.signal(signal.SIGTERM, _interrupt)  # a stopped job must close its runs as KILLED
    run: Callable[[argparse.Namespace], Result] = options.run
    try:
        record, text, code = run(options)
    except PipelineError as error:
        if options.json:
            said = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
            _print(_json(redacted_tree(said)))
        print(redacted(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    if world.leader:
        return _print(_json(record) if options.json else text) or code
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also after options, where argparse alone would not take them."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _json(record: dict[str, Any]) -> str:
    return json.dumps(store.nan_to_null(record), default=str)


def _print(text: str) -> int:
    """Write to stdout, in whatever encoding it has; returns 75 if it cannot be written, else 0.

    A reader such as `head` that has read enough is no error.
    """
    if sys.stdout is None:  # the shell closed it
        return 0
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer is written when Python ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"error: the output cannot be written: {error}", file=sys.stderr)
        return StorageError.exit_code
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe: Recipe = pipeline.load(options.recipe, options.overrides)
    store.configure(recipe.compute.storage)
    return recipe


def _index(options: argparse.Namespace) -> Result:
    with log.progress("scenes") as advance:
        manifest = pipeline.index(_recipe(options), progress=advance)
    record = manifest.summary()
    return record, _table(record), 0


def _train(options: argparse.Namespace) -> Result:
    recipe = _recipe(options)
    bundle = pipeline.fit(recipe, overwrite=options.overwrite)
    record = {
        "bundle": bundle.uri,
        "step": bundle.step,
        "fingerprint": bundle.fingerprint,
        "manifest_digest": bundle.manifest_digest,
        "mlflow_run": bundle.run_id,
        "scores": bundle.scores,
    }
    left_out = quarantine.read(bundle.uri.rpartition("/")[0])
    text = "\n".join([_table(record), *(f"left out: {line}" for line in left_out.lines)])
    next_ = "next: " + shlex.join(["segpipe", "evaluate", options.recipe, *options.overrides, "--model", bundle.uri])
    return record | {"left_out": left_out.to_json()}, f"{text}\n\n{next_}", 0


def _evaluate(options: argparse.Namespace) -> Result:
    with log.progress("scenes") as advance:
        report = pipeline.evaluate(
            _recipe(options),
            options.model,
            split=options.split,
            out=options.out,
            overwrite=options.overwrite,
            progress=advance,
        )
    record = {"report": report.uri, "split": report.split, "scores": report.scores}
    text = "\n".join([_table(record), *(f"left out: {line}" for line in report.left_out.lines)])
    return record | {"left_out": report.left_out.to_json()}, text, 0


def _promote(options: argparse.Namespace) -> Result:
    decision = pipeline.promote(_recipe(options), options.model)
    record = decision.to_json()
    head = (
        f"{decision.name} version {decision.version} is {'now' if decision.promoted else 'not made'} {decision.alias}"
    )
    text = "\n".join([head, *(f"  - {reason}" for reason in decision.reasons)])
    return record, text, 0 if decision.promoted else _GATE_REFUSED


def _tune(options: argparse.Namespace) -> Result:
    with log.progress("trials") as advance:
        result = pipeline.search(_recipe(options), progress=advance)
    record = result.to_json()
    return record, result.table(), 0


def _predict(options: argparse.Namespace) -> Result:
    bundle = pipeline.pull(options.model, tracking=options.tracking_uri)
    with log.progress("scenes") as advance:
        written = pipeline.predict(
            bundle,
            options.images,
            options.out,
            overwrite=options.overwrite,
            device=options.device,
            window=options.window,
            overlap=options.overlap,
            source=options.model,
            progress=advance,
        )
    return {"rasters": written, "bundle": bundle.uri}, "\n".join(written), 0


def _recipe_show(options: argparse.Namespace) -> Result:
    recipe = _recipe(options)
    _, origins = config.load_tree(options.recipe, options.overrides, Recipe)
    tree = recipe.model_dump(mode="json")
    rows = {path: {"value": value, "origin": _origin(path, origins)} for path, value in config.leaves(tree)}
    width = max(len(path) for path in rows)
    texts = [f"{path:<{width}} = {json.dumps(row['value'])}   # {row['origin']}" for path, row in rows.items()]
    head = f"# fingerprint {recipe.fingerprint}"
    return {"fingerprint": recipe.fingerprint, "values": rows}, "\n".join([head, *texts]), 0


def _origin(path: str, origins: dict[str, str]) -> str:
    """Origin of a leaf: its own, or that of the mapping or list that it is part of."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return "default"


def _recipe_schema(options: argparse.Namespace) -> Result:
    schema = Recipe.model_json_schema()
    return schema, json.dumps(schema, indent=1), 0


def _submit(options: argparse.Namespace) -> Result:
    recipe = _recipe(options)
    arguments = ["--model", options.model] if options.model else []
    if options.overwrite:
        arguments.append("--overwrite")
    job, code = pipeline.submit(options.verb, recipe, arguments, address=options.address, wait=not options.no_wait)
    return (
        {"job": job, "exit_code": code},
        f"job {job} {'submitted' if options.no_wait else f'ended with {code}'}",
        code,
    )


def _table(record: dict[str, Any]) -> str:
    rows = [(path, value) for path, value in config.leaves(record) if value is not None]
    width = max(len(path) for path, _ in rows)
    return "\n".join(
        f"{path:<{width}}  {value:.4f}" if isinstance(value, float) else f"{path:<{width}}  {value}"
        for path, value in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segpipe", description=(pipeline.__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"segpipe {pipeline.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    _verb(verbs, "index", _index, "scan scenes, write the manifest with its digest, say what was found", recipe=True)
    train = _verb(verbs, "train", _train, "train on the manifest: MLflow run, checkpoints, bundle", recipe=True)
    _overwrite(train)
    evaluate = _verb(verbs, "evaluate", _evaluate, "score a model on a split: report.json and report.html", recipe=True)
    _model(evaluate)
    evaluate.add_argument("--split", choices=["train", "val", "test"], help="by default the recipe's evaluate.split")
    evaluate.add_argument("--out", help="directory of the report; by default under compute.output")
    _overwrite(evaluate)
    promote = _verb(
        verbs, "promote", _promote, "let a model pass the gate against the champion, or say why not", recipe=True
    )
    _model(promote)
    _verb(verbs, "tune", _tune, "search over the recipe's tune.space", recipe=True)
    predict = _verb(verbs, "predict", _predict, "predict scenes to GeoTIFFs", recipe=False)
    _model(predict)
    predict.add_argument("--images", required=True, nargs="+", help="paths or globs")
    predict.add_argument("--out", required=True, help="directory of the rasters")
    predict.add_argument("--window", type=int, help="height and width in pixels; by default the bundle's")
    predict.add_argument("--overlap", type=float, help="share from 0 to below 1; by default the bundle's")
    predict.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    predict.add_argument("--tracking-uri", help="MLflow server; by default MLFLOW_TRACKING_URI")
    _overwrite(predict)

    recipes = verbs.add_parser("recipe", help="look at a recipe").add_subparsers(metavar="show|schema", required=True)
    _verb(recipes, "show", _recipe_show, "the resolved recipe with the origin of each value", recipe=True)
    schema = _verb(recipes, "schema", _recipe_schema, "JSON Schema, for completion in editors", recipe=False)
    schema.add_argument("recipe", nargs="?", help="not needed; the schema is the same for all recipes")

    for command in data_commands.VERBS:
        command.arguments(_verb(verbs, command.name, command.run, command.text, recipe=True))
    data = verbs.add_parser("data", help="look at the data").add_subparsers(metavar="preview", required=True)
    for command in data_commands.DATA:
        command.arguments(_verb(data, command.name, command.run, command.text, recipe=True))

    models = verbs.add_parser("models", help="list the architectures and encoders, and show what a network costs")
    below = models.add_subparsers(metavar="list|show|export", required=True)
    for command in model_commands.MODELS:
        command.arguments(_verb(below, command.name, command.run, command.text, recipe=False))

    submit = _verb(verbs, "submit", _submit, "run a verb as a job on a Ray cluster", recipe=False)
    submit.add_argument("verb", choices=["index", "doctor", "prepare", "train", "evaluate", "promote", "tune"])
    _add_recipe(submit)
    submit.add_argument("--address", required=True, help="the job server, such as http://head:8265")
    submit.add_argument("--model", help="for evaluate and promote")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    _overwrite(submit)
    return parser


def _verb(parent: Any, name: str, run: Callable[[argparse.Namespace], Result], text: str, *, recipe: bool) -> Any:
    parser = parent.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON record instead of text")
    parser.add_argument("--verbose", action="store_true", help="log more")
    if recipe:
        _add_recipe(parser)
    return parser


def _add_recipe(parser: Any) -> None:
    parser.add_argument("recipe", help="path of a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that win over the file")


def _overwrite(parser: Any) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")


def _model(parser: Any) -> None:
    parser.add_argument("--model", required=True, help="bundle directory, s3://, runs:/ or models:/ URI")


if __name__ == "__main__":
    sys.exit(main())
