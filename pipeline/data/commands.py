"""The commands about data besides `index`: doctor, prepare, data preview. Each takes a recipe."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any, Final

from pipeline import log, store
from pipeline import recipe as recipes
from pipeline.command import Command, Result
from pipeline.recipe import Recipe


def _recipe(options: Namespace) -> Recipe:
    recipe = recipes.load(options.recipe, options.overrides)
    store.configure(recipe.compute.storage)
    return recipe


def _doctor_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", help="directory of the report; by default under compute.output")


def _doctor(options: Namespace) -> Result:
    from pipeline.data import doctor  # pictures take a second to import

    recipe = _recipe(options)
    out = options.out or store.join(recipe.compute.output, recipe.name, "doctor")
    with log.progress("scenes") as advance:
        audit = doctor.examine(recipe, out, progress=advance)
    return audit.to_json(), audit.text(), audit.exit_code


def _prepare_arguments(parser: ArgumentParser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--advise", action="store_true", help="only say whether it would pay")
    only.add_argument("--verify", action="store_true", help="only compare the checksums of what was prepared")
    parser.add_argument("--split", default="train", choices=["train", "val", "test"], help="by default train")


def _prepare(options: Namespace) -> Result:
    from pipeline.data.indexing import build
    from pipeline.data.mapping import choice
    from pipeline.data.shards import prepare

    recipe = _recipe(options)
    manifest = build.current(recipe)
    if options.verify:
        return _verify(prepare.place(recipe, manifest, options.split), manifest.digest)
    advice = prepare.advise(recipe, manifest, split=options.split)
    record: dict[str, Any] = {"advice": asdict(advice) | {"pays": advice.pays, "epochs_until": advice.epochs_until}}
    if options.advise:
        return record, advice.text(), 0
    with log.progress("pixels") as advance, choice.chosen(recipe.compute) as mapped:
        prepared = prepare.prepare(recipe, manifest, split=options.split, mapped=mapped, progress=advance)
    record["prepared"] = asdict(prepared)
    written = (
        f"{prepared.num_scenes} scenes in {prepared.num_shards} shards, {prepared.stored_bytes / 1e6:,.0f} MB "
        f"({prepared.stored_bytes / max(1, prepared.raw_bytes):.2f} of the raw pixels), {prepared.seconds:.1f} s: "
    )
    left_out = [f"left out: {scene}" for scene in prepared.unreadable]
    return record, "\n".join([advice.text(), written + prepared.uri, *left_out]), 0


def _verify(uri: str, digest: str) -> Result:
    from pipeline.data.shards.reading import Shards

    shards = Shards.open(uri, digest)
    with log.progress("scenes") as advance:
        found = shards.verify(advance)
    text = (
        f"{found.num_scenes} scenes in {found.num_shards} shards, {found.stored_bytes / 1e6:,.0f} MB, "
        f"are as they were written: {found.uri}"
    )
    return {"verified": asdict(found)}, text, 0


def _preview_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", default="preview.png", help="picture to write; by default preview.png")
    parser.add_argument("--chips", type=int, default=24, help="number of chips; by default 24")


def _preview(options: Namespace) -> Result:
    from pipeline.data import preview

    written = preview.write(_recipe(options), options.out, chips=options.chips)
    return {"picture": written}, written, 0


VERBS: Final = (
    Command("doctor", "audit the data before training: report.html, report.json", _doctor_arguments, _doctor),
    Command("prepare", "read all scenes once and write shards, if that pays", _prepare_arguments, _prepare),
)
DATA: Final = (Command("preview", "a picture of augmented chips with their masks", _preview_arguments, _preview),)
