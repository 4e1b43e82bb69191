"""The commands on data other than `index`: doctor, prepare, data preview. Each takes a recipe."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from pipeline import log, store
from pipeline import recipe as recipes
from pipeline.cli.command import Command, Result
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.data.feed.shards.prepare import Prepared  # numpy and more, which --help does not need


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
    only.add_argument("--advise", action="store_true", help="only say whether it would pay for the train split")
    only.add_argument("--verify", action="store_true", help="only compare the checksums of what was prepared")
    parser.add_argument("--split", choices=["train", "val", "test"], help="by default train and val")


def _prepare(options: Namespace) -> Result:
    from pipeline.data.feed.shards import prepare, use_shards
    from pipeline.data.parallel import choose as maps
    from pipeline.data.scenes import index

    recipe = _recipe(options)
    manifest = index.current(recipe)
    splits = (options.split,) if options.split else use_shards.splits(manifest) or ("train",)
    if options.verify:
        there = [split for split in splits if prepare.found(recipe, manifest, split)] or splits[:1]
        return _verify({split: prepare.place(recipe, manifest, split) for split in there}, manifest.digest)
    record: dict[str, Any] = {}
    lines = []
    if options.advise or "train" in splits:
        advice = prepare.advise(recipe, manifest)
        record["advice"] = asdict(advice) | {"pays": advice.pays, "epochs_until": advice.epochs_until}
        lines.append(advice.text())
    if not options.advise:
        with maps.chosen(recipe.compute) as mapped:
            for split in splits:
                with log.progress("pixels") as advance:
                    done = prepare.prepare(recipe, manifest, split=split, mapped=mapped, progress=advance)
                record.setdefault("prepared", {})[split] = asdict(done)
                lines += _written(split, done)
    return record, "\n".join(lines), 0


def _written(split: str, done: Prepared) -> list[str]:
    written = (
        f"{split}: {done.num_scenes} scenes in {done.num_shards} shards, {done.stored_bytes / 1e6:,.0f} MB "
        f"({done.stored_bytes / max(1, done.raw_bytes):.2f} of the raw pixels), {done.seconds:.1f} s: {done.uri}"
    )
    return [written, *(f"left out: {scene}" for scene in done.unreadable)]


def _verify(places: Mapping[str, str], digest: str) -> Result:
    from pipeline.data.feed.shards.shard_reader import Shards

    record, lines = {}, []
    for split, uri in places.items():
        shards = Shards.open(uri, digest)
        with log.progress("scenes") as advance:
            found = shards.verify(advance)
        record[split] = asdict(found)
        lines.append(
            f"{split}: {found.num_scenes} scenes in {found.num_shards} shards, {found.stored_bytes / 1e6:,.0f} MB, "
            f"are as they were written: {uri}"
        )
    return {"verified": record}, "\n".join(lines), 0


def _preview_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", help="picture to write; by default preview.png under compute.output/name")
    parser.add_argument("--chips", type=int, default=24, help="number of chips; by default 24")


def _preview(options: Namespace) -> Result:
    from pipeline.data.feed import preview

    recipe = _recipe(options)
    out = options.out or store.join(recipe.compute.output, recipe.name, "preview.png")
    written = preview.write(recipe, out, chips=options.chips)
    return {"picture": written}, written, 0


VERBS: Final = (
    Command("doctor", "audit the data before training: report.html, report.json", _doctor_arguments, _doctor),
    Command("prepare", "read all scenes once and write shards, if that pays", _prepare_arguments, _prepare),
)
DATA: Final = (Command("preview", "a picture of augmented chips with their masks", _preview_arguments, _preview),)
