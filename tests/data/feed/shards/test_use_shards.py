"""What a recipe says of shards, and what a person is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.config import replace
from pipeline.data.chips.statistics import compute
from pipeline.data.feed.planning import plan_of
from pipeline.data.feed.shards import prepare, use_shards
from pipeline.data.scenes.index import current
from pipeline.errors import ManifestError
from pipeline.recipe import Recipe
from tests.factory import recipe_for, world


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_for(world(tmp_path))


def shards_of(recipe: Recipe) -> str:
    """What a plan reads from."""
    manifest = current(recipe)
    return plan_of(recipe, manifest, compute.cached(recipe, manifest)).shards


def test_shards_are_read_as_the_recipe_says(recipe: Recipe) -> None:
    ways = {way: replace(recipe, {"compute.shards": way}) for way in ("auto", "never", "require")}
    assert len({each.fingerprint for each in ways.values()}) == 1
    assert shards_of(ways["auto"]) == shards_of(ways["never"]) == ""
    with pytest.raises(ManifestError, match="the train split is not prepared") as caught:
        shards_of(ways["require"])
    assert "segpipe prepare" in caught.value.hint
    made = prepare.prepare(recipe, current(recipe)).uri
    assert {way: shards_of(each) for way, each in ways.items()} == {"auto": made, "never": "", "require": made}


def test_shards_of_other_ways_of_reading_are_not_those_that_are_required(recipe: Recipe) -> None:
    prepare.prepare(recipe, current(recipe))
    other = replace(recipe, {"compute.shards": "require", "data.nodata": 5.0})
    with pytest.raises(ManifestError, match="there is nothing at"):
        use_shards.chosen(other, current(recipe))


def segpipe(recipe: Recipe, *words: str) -> int:
    path = Path(recipe.data.root, "recipe.json")
    path.write_text(recipe.model_dump_json())
    return main([words[0], str(path), *words[1:]])


def test_verify_on_the_command_line(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert segpipe(recipe, "prepare", "--verify") == 3
    assert "there are no prepared shards" in capsys.readouterr().err
    assert segpipe(recipe, "prepare") == 0
    capsys.readouterr()
    assert segpipe(recipe, "prepare", "--verify", "--json") == 0
    both = json.loads(capsys.readouterr().out)["verified"]
    assert {split: (each["num_scenes"], each["num_shards"]) for split, each in both.items()} == {
        "train": (4, 1),
        "val": (1, 1),
    }
    found = both["train"]
    shard = Path(found["uri"], "00000.shard")
    assert found["stored_bytes"] == shard.stat().st_size
    content = bytearray(shard.read_bytes())
    content[40] ^= 4
    shard.write_bytes(content)
    assert segpipe(recipe, "prepare", "--verify") == 3
    said = capsys.readouterr().err
    assert f"{shard}: damaged at scene s0" in said
    shard.unlink()  # as the hint says
    assert segpipe(recipe, "prepare") == 0
    assert segpipe(recipe, "prepare", "--verify") == 0


def test_training_says_what_it_reads(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train.steps=1", "compute.tracking_uri=http://127.0.0.1:9", "compute.tracking_required=false"]
    assert segpipe(recipe, "train", *words, "compute.shards=require") == 3
    assert segpipe(recipe, "prepare") == 0
    assert segpipe(recipe, "train", *words, "compute.shards=require") == 0
    said = capsys.readouterr().err
    for split, what in (("train", "chips"), ("val", "windows of validation")):
        assert f"{what} are read from {prepare.place(recipe, current(recipe), split)}" in said


def test_one_split_alone(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert segpipe(recipe, "prepare", "--split", "test", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["prepared"] and list(found["prepared"]) == ["test"]
    assert [bool(prepare.found(recipe, current(recipe), split)) for split in ("train", "val", "test")] == [0, 0, 1]
