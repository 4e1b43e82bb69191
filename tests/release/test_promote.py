"""promote, against a real MLflow registry: who becomes champion, who does not, and what is written down about it."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace as change
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.data.scenes.index import index
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import BundleError, SceneError
from pipeline.evaluation import report
from pipeline.model.bundle import Bundle
from pipeline.recipe import Promote, Recipe, replace
from pipeline.release.promote import compare, promote
from tests.evaluation.test_evaluate import make_bundle
from tests.factory import recipe_for, world

GROUND, DISC, MORE_GROUND, ALSO_GROUND = (3.0, 0.0), (0.0, 3.0), (4.0, 0.0), (5.0, 0.0)
"""Logits of bundles that always predict one class; equal in what they predict, different in their weights."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Manifest, dict[tuple[float, ...], Bundle]]:
    folder = world(tmp_path_factory.mktemp("scenes"))
    recipe = recipe_for(folder, **{"evaluate.examples": 1, "predict.window": 96})
    manifest = index(recipe)
    made = {
        always: make_bundle(folder / f"bundle{position}", recipe, manifest, always=always)
        for position, always in enumerate((GROUND, DISC, MORE_GROUND, ALSO_GROUND))
    }
    return recipe, manifest, made


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def recipe(base, empty_registry: Path, tmp_path: Path) -> Recipe:
    """With an output and a registry of its own."""
    output = tmp_path / "out"
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    return replace(base[0], {"compute.output": str(output), "compute.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})


@pytest.fixture
def manifest(base) -> Manifest:
    return base[1]


@pytest.fixture
def made(base) -> dict[tuple[float, ...], Bundle]:
    return base[2]


def registry(recipe: Recipe) -> MlflowClient:
    return MlflowClient(recipe.compute.tracking_uri)


def aliases(recipe: Recipe) -> dict[str, str]:
    found = registry(recipe).get_registered_model("tiny").aliases
    return {alias: str(version) for alias, version in found.items()}


def tags(recipe: Recipe, version: str) -> dict[str, str]:
    return dict(registry(recipe).get_model_version("tiny", version).tags)


def written_at(uri: str | None) -> int:
    return (Path(str(uri)) / "report.json").stat().st_mtime_ns


def test_the_first_promotes_itself_the_same_again_changes_nothing(recipe, manifest, made):
    decision = promote(recipe, made[GROUND].uri, manifest=manifest)
    assert decision.promoted and decision.state == "promoted"
    assert decision.reasons == ("tiny had no champion yet",)
    assert (decision.version, decision.champion_version) == ("1", None)
    assert aliases(recipe)["champion"] == "1" and "previous" not in aliases(recipe)

    written = tags(recipe, "1")
    assert written["promotion.decision"] == "promoted" and written["promotion.reasons"] == "tiny had no champion yet"
    assert written["promotion.at"] and written["promotion.manifest"] == manifest.digest
    assert float(written["test.miou"]) == pytest.approx(decision.scores["miou"], abs=1e-6)
    assert float(written["test.iou.disc"]) == 0.0
    beside = json.loads((Path(decision.report_uri) / "decision.json").read_text())
    assert beside["promoted"] is True and beside["reasons"] == ["tiny had no champion yet"]
    assert "tiny had no champion yet" in (Path(decision.report_uri) / "report.html").read_text()

    again = promote(recipe, made[GROUND].uri, manifest=manifest)
    assert (again.state, again.promoted, again.version) == ("unchanged", False, "1")
    assert again.reasons == ("version 1 is the champion already",)
    assert tags(recipe, "1") == written, "the champion's own record was overwritten"
    assert len(registry(recipe).search_model_versions("name='tiny'")) == 1, "registered twice"


def test_better_is_promoted_and_worse_is_refused(recipe, manifest, made):
    promote(recipe, made[DISC], manifest=manifest)
    decision = promote(recipe, made[GROUND], manifest=manifest)
    assert decision.promoted and (decision.version, decision.champion_version) == ("2", "1")
    gain = decision.scores["miou"] - decision.champion_scores["miou"]
    assert gain > 0.2 and f"gain {gain:+.4f}, more than 0 is asked" in decision.reasons[0]
    now = aliases(recipe)
    assert (now["champion"], now["previous"]) == ("2", "1")

    refused = promote(recipe, "models:/tiny/1", manifest=manifest)
    assert (refused.state, refused.promoted) == ("refused", False)
    assert refused.reasons[0].endswith(f"gain {-gain:+.4f}, more than 0 is asked - not enough")
    assert aliases(recipe) == now, "a refused model moved an alias"
    assert tags(recipe, "1")["promotion.decision"] == "refused"
    assert tags(recipe, "2")["promotion.decision"] == "promoted"
    page = (Path(refused.report_uri) / "report.html").read_text()
    assert "tiny version 1: refused" in page and "not enough" in page
    assert json.loads(json.dumps(refused.to_json()))["promoted"] is False


def test_an_equal_one_is_refused_unless_a_loss_is_tolerated(recipe, manifest, made):
    promote(recipe, made[GROUND], manifest=manifest)
    equal = promote(recipe, made[MORE_GROUND], manifest=manifest)
    assert equal.scores == equal.champion_scores and equal.state == "refused" and equal.version == "2"
    tolerant = replace(recipe, {"promote.min_gain": -0.01})
    assert promote(tolerant, made[ALSO_GROUND], manifest=manifest).promoted


def test_a_class_that_loses_too_much_stops_a_better_mean(recipe, manifest, made):
    promote(recipe, made[DISC], manifest=manifest)
    strict = replace(recipe, {"promote.max_drop": {"disc": 0.05}})
    decision = promote(strict, made[GROUND], manifest=manifest)
    lost = decision.champion_scores["iou.disc"]
    assert decision.state == "refused" and decision.scores["miou"] > decision.champion_scores["miou"]
    assert decision.reasons[1] == f"IoU of disc fell by {lost:.4f}, 0.0500 is tolerated - too much"
    assert aliases(recipe)["champion"] == "1"


@pytest.mark.parametrize(
    ("least", "new", "old", "passes"),
    [
        (0.0, 0.8, 0.8, False),
        (0.0, 0.8001, 0.8, True),
        (0.02, 0.82, 0.80, True),  # 0.82 - 0.80 is a little less than 0.02 in floating point
        (0.02, 0.819, 0.80, False),
        (-0.01, 0.79, 0.8, True),
        (-0.01, 0.78, 0.8, False),
        (0.0, math.nan, 0.8, False),
        (0.0, 0.8, math.nan, False),
    ],
)
def test_the_gain_that_is_asked_for(least, new, old, passes):
    assert compare(Promote(min_gain=least), {"miou": new}, {"miou": old})[0] is passes


def test_every_rule_gives_its_reason():
    section = Promote(metric="mdice", max_drop={"a": 0.1, "b": 0.1, "c": 0.1})
    old = {"mdice": 0.5, "iou.a": 0.5, "iou.b": 0.5, "iou.c": math.nan}
    passed, reasons = compare(section, {"mdice": 0.6, "iou.a": 0.4, "iou.b": 0.6, "iou.c": math.nan}, old)
    assert not passed, "what cannot be judged does not pass"
    assert reasons == (
        "mdice 0.6000 against 0.5000: gain +0.1000, more than 0 is asked",
        "IoU of a fell by 0.1000, 0.1000 is tolerated",
        "IoU of b grew by 0.1000, 0.1000 is tolerated",
        "IoU of c cannot be compared: one of the two has none on this split",
    )


def test_reports_are_used_again_if_they_were_made_just_so(recipe, manifest, made):
    promote(recipe, made[DISC], manifest=manifest)
    first = promote(recipe, made[GROUND], manifest=manifest)
    stamps = {uri: written_at(uri) for uri in (first.report_uri, first.champion_report_uri)}
    second = promote(recipe, "models:/tiny/1", manifest=manifest)
    assert {second.report_uri, second.champion_report_uri} == set(stamps)
    assert {uri: written_at(uri) for uri in stamps} == stamps
    promote(replace(recipe, {"predict.window": 64}), "models:/tiny/1", manifest=manifest)
    assert all(written_at(uri) > stamps[uri] for uri in stamps)
    assert {report.read(uri).predict["window"] for uri in stamps} == {64}


class WhenEvaluated(logging.Handler):
    """Does something at the moment when the challenger has been evaluated: what another person might do meanwhile."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action

    def emit(self, record: logging.LogRecord) -> None:
        self.action()


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], object]], None]]:
    logger, handlers = logging.getLogger("pipeline.evaluation.evaluate"), []
    level = logger.level

    def add(action: Callable[[], object]) -> None:
        handlers.append(WhenEvaluated(action))
        logger.addHandler(handlers[-1])

    logger.setLevel(logging.INFO)
    yield add
    logger.setLevel(level)
    for handler in handlers:
        logger.removeHandler(handler)


def test_an_alias_that_moved_meanwhile_is_left_alone(recipe, manifest, made, meanwhile):
    promote(recipe, made[DISC], manifest=manifest)
    promote(recipe, made[MORE_GROUND], manifest=manifest)
    registry(recipe).set_registered_model_alias("tiny", "champion", "1")
    meanwhile(lambda: registry(recipe).set_registered_model_alias("tiny", "champion", "2"))
    decision = promote(recipe, made[GROUND], manifest=manifest)
    assert (decision.state, decision.promoted, decision.version) == ("conflict", False, "3")
    assert decision.reasons[0] == "the alias champion moved from version 1 to 2 meanwhile; promote again"
    assert aliases(recipe)["champion"] == "2"
    assert tags(recipe, "3")["promotion.decision"] == "conflict"


def test_a_champion_of_other_classes_cannot_be_judged_and_stays(recipe, manifest, made, tmp_path):
    names = change(manifest.classes, names=("ground", "blob"))
    old = make_bundle(tmp_path / "old", recipe, change(manifest, classes=names), always=DISC)
    with pytest.raises(BundleError, match="predicts the classes ground, blob; the recipe has ground, disc"):
        promote(recipe, old, manifest=manifest)
    other = replace(recipe, {"data.classes.1.name": "blob"})
    assert promote(other, old, manifest=change(manifest, classes=names)).promoted
    decision = promote(recipe, made[GROUND], manifest=manifest)
    assert decision.state == "refused" and aliases(recipe)["champion"] == "1"
    assert "the champion, version 1, cannot be judged on this split" in decision.reasons[0]
    assert "ground, blob" in decision.reasons[0] and "registry.model" in decision.reasons[1]


def test_a_challenger_with_other_bands_is_an_error_and_is_not_registered(recipe, manifest, tmp_path):
    four = change(manifest, bands=("a", "b", "c", "d"))
    wide = make_bundle(tmp_path / "wide", recipe, four)
    with pytest.raises(SceneError, match=r"the scenes have 3 bands .* was trained on 4 \(a, b, c, d\)"):
        promote(recipe, wide, manifest=manifest)
    assert not registry(recipe).search_registered_models()


def test_a_challenger_that_saw_the_test_split_is_refused(recipe, manifest, tmp_path):
    rows = (Path(recipe.data.root) / "splits.csv").read_text().replace("s5,test", "s5,train")
    (tmp_path / "all.csv").write_text(rows)
    everything = index(replace(recipe, {"data.split.path": str(tmp_path / "all.csv")}))
    cheat = make_bundle(tmp_path / "cheat", recipe, everything, always=GROUND)
    decision = promote(recipe, cheat, manifest=manifest)
    assert decision.state == "refused" and not aliases(recipe).get("champion")
    assert decision.reasons == ("the challenger was trained on 1 scenes of the test split: s5",)


def test_a_challenger_of_an_unknown_manifest_is_judged_and_the_doubt_is_written_down(recipe, manifest, tmp_path):
    foreign = make_bundle(tmp_path / "foreign", recipe, change(manifest, digest="f" * 64), always=GROUND)
    decision = promote(recipe, foreign, manifest=manifest)
    assert decision.promoted
    assert decision.reasons[1] == (
        "the challenger was trained on manifest ffffffffffff, which is not here: "
        "whether it saw these scenes is not known"
    )


def test_the_report_is_attached_to_the_run_that_trained_the_challenger(recipe, manifest, made, tmp_path):
    client = registry(recipe)
    run = client.create_run(client.create_experiment("tiny", artifact_location=(tmp_path / "artifacts").as_uri()))
    decision = promote(recipe, change(made[GROUND], run_id=run.info.run_id), manifest=manifest)
    assert decision.promoted
    folder = f"reports/{Path(decision.report_uri).name}"
    names = {Path(entry.path).name for entry in client.list_artifacts(run.info.run_id, folder)}
    assert names == {"report.html", "report.json", "decision.json"}


def test_on_a_server(recipe, manifest, made, mlflow_server):
    remote = replace(recipe, {"compute.tracking_uri": mlflow_server, "registry.model": "promoted-remotely"})
    assert promote(remote, made[DISC], manifest=manifest).promoted
    decision = promote(remote, made[GROUND], manifest=manifest)
    assert decision.promoted and decision.champion_version == "1"
    found = MlflowClient(mlflow_server).get_registered_model("promoted-remotely")
    assert (str(found.aliases["champion"]), str(found.aliases["previous"])) == ("2", "1")
    by_alias = promote(remote, "models:/promoted-remotely@previous", manifest=manifest)
    assert (by_alias.state, by_alias.version) == ("refused", "1")
