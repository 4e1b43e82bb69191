"""How a recipe is read: extends, overrides, the kind rule, YAML 1.2, errors, origins, fingerprint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, recipe
from pipeline.errors import RecipeError

BASE = """\
name: base
data:
  root: somewhere
  images: "*.png"
  labels: "{id}_mask.png"
  classes: [{name: no}, {name: yes}]
train:
  optimizer: {kind: adamw, lr: 1e-3, betas: [0.8, 0.99]}
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def child(base, text, name="child.yaml"):
    path = base.with_name(name)
    path.write_text("extends: base.yaml\n" + text)
    return path


def test_yaml_is_version_1_2(base):
    read = recipe.load(child(base, "train: {steps: 010}\n"), ["data.classes=[{name: off}, {name: 12:30:45}]"])
    assert [c.name for c in read.data.classes] == ["off", "12:30:45"]
    assert read.train.optimizer.lr == 1e-3
    assert read.train.steps == 10


def test_a_file_extends_and_overrides_win(base):
    path = child(base, "name: child\ntrain: {steps: 7, optimizer: {lr: 0.5}}\n")
    read = recipe.load(path, ["train.steps=9"])
    assert (read.name, read.train.steps, read.train.optimizer.lr) == ("child", 9, 0.5)
    assert read.train.optimizer.betas == (0.8, 0.99), "what the child does not say stays"


def test_bases_apply_left_to_right(base):
    child(base, "train: {steps: 1, global_batch: 2}\n", "left.yaml")
    child(base, "train: {steps: 3}\n", "right.yaml")
    path = base.with_name("both.yaml")
    path.write_text("extends: [left.yaml, right.yaml]\n")
    assert recipe.load(path).train.steps == 3
    assert recipe.load(path).train.global_batch == 2


def test_another_decoder_keeps_the_encoder(base):
    path = child(base, "model: {encoder: convnext_atto, decoder_channels: [8, 8, 8, 8, 8], dropout: 0.3}\n")
    for overrides in (["model.kind=fpn"], ["model.dropout=0.3", "model.kind=fpn"]):
        expected = recipe.networks.FPN(encoder="convnext_atto", dropout=0.3)
        assert recipe.load(path, overrides).model == expected
        assert recipe.replace(recipe.load(path), overrides).model == expected
    assert recipe.load(path, ["model.kind=unet"]).model.decoder_channels == [8] * 5, "the same kind keeps everything"
    pspnet = recipe.replace(recipe.load(base), ["model.kind=pspnet"]).model
    assert pspnet == recipe.networks.PSPNet(), "defaults are those of the new kind"


def test_another_kind_replaces_in_files_and_overrides(base):
    path = child(base, "train: {optimizer: {kind: sgd}}\n")
    assert recipe.load(path).train.optimizer == recipe.SGD()
    assert recipe.load(base, ["train.optimizer.kind=sgd"]).train.optimizer == recipe.SGD()
    read = recipe.load(base, ["train.optimizer.kind=sgd", "train.optimizer.lr=0.3"])
    assert read.train.optimizer == recipe.SGD(lr=0.3)
    assert recipe.load(base, ["train.optimizer.kind=adamw"]).train.optimizer.betas == (0.8, 0.99), "same kind merges"


def test_all_errors_at_once_with_path_and_nearest_name(base):
    path = child(base, "modle: {}\ntrain: {stpes: 3, global_batch: -1, optimizer: {kind: adam}}\n")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, ["data.augment=[{p: 1}]", "loss=[{kind: dice, wieght: 2}]"])
    text = str(caught.value)
    assert "child.yaml: 6 errors" in text
    assert "modle: unknown key; did you mean 'model'?" in text
    assert "train.stpes: unknown key; did you mean 'steps'?" in text
    assert "train.global_batch: Input should be greater than 0 (got -1)" in text
    assert "train.optimizer.kind: 'adam' is none of 'adamw', 'sgd'; did you mean 'adamw'?" in text
    assert "data.augment.0.transform: Field required" in text
    assert "loss.0.wieght: unknown key; did you mean 'weight'?" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "expected a.b=value"),
        ("data.classes.5.name=x", "'5' is no position in a list of 2"),
        ("data.classes=[{name: a}, {name: a}]", "two have the same name"),
        ("data.classes=[{name: a, values: [1]}, {name: b}]", "label value 1 belongs to a and to b"),
        ("compute.num_workers=3", r"8 chips do not divide over compute.num_workers 3; use 6 or 9 chips, or 1, 2, 4, 8"),
        ("promote.max_drop={road: 0.1}", "no class 'road'; classes are no, yes"),
        ("promote.metric=iou.road", "'iou.road' is no score; scores are miou, mdice"),
        ("loss=[{kind: cross_entropy, class_weights: [1]}]", "1 class_weights for 2 classes"),
        ("registry.alias=latest", "reserved by MLflow"),
        ("data.split={kind: hash, val: 0.5, test: 0.5}", "leaves nothing to train on"),
        ("tune.space={train.optimizer.lr: {kind: uniform, low: 2, high: 1}}", "low 2.0 is not below high 1.0"),
        ("train.optimizer.lr=.nan", "finite number"),
    ],
)
def test_impossible_values_say_what_is_possible(base, override, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load(base, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1\n", "a recipe is a mapping"), ("a: 1\na: 2\n", "not valid YAML")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe.load(path)


def test_a_missing_file_names_its_neighbour(base):
    with pytest.raises(RecipeError, match=r"did you mean .*base\.yaml"):
        recipe.load(base.with_name("bas.yaml"))


def test_a_circle_of_extends_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"extends itself through"):
        recipe.load(tmp_path / "a.yaml")


def test_origins_name_file_and_line(base):
    path = child(base, "train:\n  steps: 5\n")
    _, origins = config.load_tree(path, ["seed=3", "data.sampling={size: 64}"])
    assert origins["train.steps"] == f"{path}:3"
    assert origins["train.optimizer.lr"] == f"{base}:8"
    assert origins["seed"] == "override"
    assert origins["data.sampling.size"] == "override"


def test_fingerprint_is_what_is_computed_not_where(base):
    read = recipe.load(base)
    moved = recipe.load(base, ["compute.num_workers=4", "compute.output=s3://elsewhere"])
    assert moved.fingerprint == read.fingerprint
    assert recipe.load(base, ["train.steps=999"]).fingerprint != read.fingerprint
    assert len(read.fingerprint) == 12


def test_a_recipe_survives_json_and_the_inline_word(base):
    read = recipe.load(base, ["data.augment=[HorizontalFlip, {transform: RandomRotate90, p: 0.3}]"])
    assert recipe.Recipe.model_validate_json(read.model_dump_json()) == read
    word = config.inline(read)
    assert recipe.load(word) == read
    assert not set(word) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_=")
    assert read.data.augment[1].arguments == {"p": 0.3}
    with pytest.raises(RecipeError, match="damaged"):
        recipe.load(word[:-9])


def test_replace_takes_numpy_scalars_and_leaves_the_old_alone(base):
    read = recipe.load(base)
    new = recipe.replace(read, {"train.optimizer.lr": np.float32(0.25), "train.steps": np.int64(3)})
    assert (new.train.optimizer.lr, new.train.steps) == (0.25, 3)
    assert read.train.steps == 1000
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        recipe.replace(read, {"train.step": 3})


def test_a_recipe_is_frozen(base):
    with pytest.raises(ValueError, match="frozen"):
        recipe.load(base).seed = 5


def test_every_knob_is_documented():
    missing = [
        f"{name}.{key}"
        for name, section in vars(recipe).items()
        if isinstance(section, type) and issubclass(section, config.Section) and section.__module__ == recipe.__name__
        for key, field in section.model_fields.items()
        if not field.description
    ]
    undocumented_on_purpose = {"kind", "low", "high", "values", "data"}
    assert [m for m in missing if m.split(".")[1] not in undocumented_on_purpose] == []


@given(st.dictionaries(st.sampled_from(["train.steps", "train.log_every", "seed"]), st.integers(1, 10**6)))
def test_overrides_and_mapping_say_the_same(values):
    tree = {
        "name": "x",
        "data": {"root": "r", "images": "*", "labels": None, "classes": [{"name": "a"}, {"name": "b"}]},
    }
    read = config.validate(recipe.Recipe, tree)
    texts = [f"{k}={v}" for k, v in values.items()]
    assert recipe.replace(read, texts) == recipe.replace(read, values)
