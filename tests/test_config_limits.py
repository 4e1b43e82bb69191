"""Recipes that are damaged, hostile or only unquoted: one error that says where, and what to do; quickly."""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load
from tests.factory import recipe_for

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
DEEP = "[" * 10_000


def refused(path: Path, content: str | bytes, *overrides: str) -> str:
    """The error of a recipe with this content, as people see it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        config.load(Recipe, path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "r.yaml: more than 100,000 values\n  -> are aliases"),
        (f"a: {DEEP}", "r.yaml: nested more than 100 levels deep"),
        ("a: " + "{b: " * 200 + "1" + "}" * 200, "r.yaml: nested more than 100 levels deep"),
        (f"seed: {'9' * 5000}", "r.yaml: "),
        ("seed: 36893488147419103232", "a whole number of 66 bits; 64 are the most"),
        ("extends: 3\nname: x\n", "r.yaml:1: extends: 3 names no recipe"),
        ("name: x\nextends: [a.yaml, 3]\n", "r.yaml:2: extends: ['a.yaml', 3] names no recipe"),
        ("extends: {a: b}\n", "names no recipe"),
        ("extends: .\n", "it is a directory"),
        ("extends: r.yaml\n", "extends itself through r.yaml"),
        ("name: x\nname: y\n", "not valid YAML"),
        ("name: x\n\tdata: y\n", "not valid YAML"),
        (b"name: \xe9\n", "r.yaml:1: not UTF-8"),
        ("a: b\0c", "not valid YAML"),
        (b"# " + b"x" * (5 << 20), "r.yaml: more than 4 MiB"),
        ("a: 2001-02-30", "r.yaml: "),
    ],
)
def test_what_cannot_be_a_recipe(tmp_path, content, message):
    assert message in refused(tmp_path / "r.yaml", content)


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("images: *.tif", '"*.tif"'),
        ("labels: {id}_x.tif", '"{id}_x.tif"'),
        ("labels: [id]_x.tif", '"[id]_x.tif"'),
        ("images: @raw/*.tif", '"@raw/*.tif"'),
        ("images: `raw`", '"`raw`"'),
        ("images: %d.tif", '"%d.tif"'),
        ("color: #ff0000", '"#ff0000"'),
        ("- #ff0000", '"#ff0000"'),
        ("{images: %x}", '"%x"'),
        ("{root: a, images: @x}", '"@x"'),
        ("name: !x foo", '"!x ..."'),
        ("{a: !x {b: 1}}", '"!x ..."'),
        ("name: !!python/object:os.system x", '"!!python/object:os.system ..."'),
        ("name: !!binary aGVsbG8=", '"!!binary ..."'),
        ("{name: road, color: #ff0000}", '"#ff0000"'),
        ("values: [#ff0000]", '"#ff0000"'),
    ],
)
def test_what_must_be_quoted_is_shown_quoted(tmp_path, line, quoted):
    text = refused(tmp_path / "r.yaml", f"name: x\ndata:\n  {line}\n")
    assert "quote it" in text and quoted in text


def test_an_override_that_is_a_comment_in_yaml_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\n")
    with pytest.raises(RecipeError, match="# begins a comment in YAML") as caught:
        config.load_tree(path, ["name=#ff"])
    assert caught.value.hint == "quote it: 'name=\"#ff\"'"
    assert config.load_tree(path, ['name="#ff"'])[0] == {"name": "#ff"}
    assert config.load_tree(path, ["name=!!str 5"])[0] == {"name": "5"}


def test_comments_that_hold_colours_are_comments(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("# color: #ff0000\nname: x  # as - #00ff00\n")
    assert config.load_tree(path)[0] == {"name": "x"}


def test_a_byte_order_mark_is_no_part_of_the_name(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert config.load_tree(path)[0] == {"name": "x"}


def test_nothing_is_opened_that_is_no_file(tmp_path):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(RecipeError, match="it is not a regular file"):
            load(path)
    with pytest.raises(RecipeError, match="it is a directory"):
        load(tmp_path)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(RecipeError, match=r"cannot be read|no such file"):
            load(tmp_path / name)
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(RecipeError, match="cannot be read"):
        load(loop)


@pytest.mark.parametrize(
    "override",
    [
        f"train.steps={DEEP}",
        "train.steps=&x *x",
        "train..steps=1",
        "=1",
        ".=1",
        "train.steps=" + "9" * 5000,
        "train.optimizer.lr=.nan",
        "train.optimizer.lr=.inf",
        "seed=36893488147419103232",
        "data.images=*.tif",
        "data.classes.99.name=x",
        "data.classes.x=1",
        "data.classes.²=1",
        "data.classes." + "9" * 5000 + "=1",
        "train.optimizer.kind=[1]",
        "train.optimizer.kind={}",
        "name=!!set x",
    ],
)
def test_overrides_that_cannot_be(tmp_path, override):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(recipe_for(tmp_path).model_dump(mode="json")))
    with pytest.raises(RecipeError) as caught:
        load(recipe, [override])
    assert len(str(caught.value)) < 8000


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"xyz",
        zlib.compress(b"[]"),
        zlib.compress(b"null"),
        zlib.compress(b"{"),
        zlib.compress(b'{"a": ' + b" " * (300 << 20) + b"1}"),
        zlib.compress(b'{"a": ' * 20_000),
        zlib.compress(b"[" * 200_000),
        zlib.compress(b'{"a": 1}')[:-3],
    ],
)
def test_inline_recipes_that_are_damaged(packed):
    text = config.INLINE_PREFIX + base64.urlsafe_b64encode(packed).decode()
    with pytest.raises(RecipeError, match="the inline recipe is damaged"):
        load(text)


def test_an_inline_recipe_is_the_recipe(tmp_path):
    recipe = recipe_for(tmp_path)
    assert load(config.inline(recipe)) == recipe


@pytest.mark.parametrize("value", ["&a {<<: *a}", "!!omap 3", "!!bool x", "!!set x"])
def test_tags_and_merges_that_the_library_does_not_expect(tmp_path, value):
    said = refused(tmp_path / "r.yaml", f"name: {value}\n")
    assert "r.yaml: not valid YAML: a tag (!!name) or merge key (<<)" in said


def test_keys_that_a_merge_brings_have_a_value_and_a_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("x: &x {q: 1}\na:\n  <<: [*x]\n  r: 2\n")
    tree, origins = config.load_tree(path)
    assert tree["a"] == {"q": 1, "r": 2}
    assert origins["a.r"] == f"{path}:4"
    assert origins["a.q"].startswith(f"{path}:")


def test_a_home_of_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such user" in refused(Path("r.yaml"), "extends: ~nosuchuser/base.yaml\n")
    with pytest.raises(RecipeError, match="no such user"):
        load("~nosuchuser/r.yaml")


def test_bases_that_double_at_each_level_are_bounded(tmp_path):
    for level in range(30):
        (tmp_path / f"x{level}.yaml").write_text(f"extends: [x{level + 1}.yaml, x{level + 1}.yaml]\n")
    (tmp_path / "x30.yaml").write_text("seed: 1\n")
    with pytest.raises(RecipeError, match="extends more than 99 files"):
        load(tmp_path / "x0.yaml")


def test_a_long_chain_of_bases_is_bounded(tmp_path):
    for level in range(150):
        (tmp_path / f"c{level}.yaml").write_text(f"extends: c{level + 1}.yaml\n")
    with pytest.raises(RecipeError, match="extends more than 99 files"):
        load(tmp_path / "c0.yaml")
