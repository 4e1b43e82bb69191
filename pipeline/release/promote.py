"""The verb `promote`: judge challenger and champion on the same test split; move the alias if the challenger passes.

The rules: the challenger's `promote.metric` must exceed the champion's by `promote.min_gain`, and no class in
`promote.max_drop` may lose more IoU than it allows. With `min_gain` 0 an equal challenger is refused, since moving
every consumer to another model for nothing is not free; a negative `min_gain` tolerates a loss.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline import store
from pipeline.data.scenes.index import current
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import BundleError, ManifestError, SceneError, StorageError, TrackingError
from pipeline.evaluation import report
from pipeline.evaluation.evaluate import check, evaluate, report_uri, split_digest
from pipeline.evaluation.report import Report
from pipeline.model.bundle import Bundle
from pipeline.recipe import Promote, Recipe
from pipeline.registry import versions
from pipeline.registry.open_uri import open_bundle
from pipeline.registry.server import asking, put_artifact
from pipeline.text import some

logger = logging.getLogger(__name__)

SPLIT = "test"
"""The gate's split is not a knob: val chose the challenger's settings, train its weights."""
PREVIOUS = "previous"
"""Alias of the version that was champion before."""
DECISION_NAME = "decision.json"

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Decision:
    """The gate's decision, and its reasons."""

    state: Literal["promoted", "refused", "unchanged", "conflict"]
    """unchanged: it is the champion already. conflict: somebody else moved the alias meanwhile."""
    reasons: tuple[str, ...]
    name: str
    """Registered model."""
    alias: str
    version: str
    """The challenger's."""
    champion_version: str | None
    """Whom the alias pointed at before."""
    report_uri: str | None = None
    champion_report_uri: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    champion_scores: dict[str, float] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        """True if the alias now points at the challenger because of this decision."""
        return self.state == "promoted"

    def to_json(self) -> dict[str, Any]:
        """As plain values; NaN becomes null."""
        tree: dict[str, Any] = store.nan_to_null(asdict(self) | {"promoted": self.promoted})
        return tree


def promote(recipe: Recipe, model: str | Bundle, *, manifest: Manifest | None = None) -> Decision:
    """Let a model pass the gate; moves the alias `registry.alias` if it does, and says why not otherwise.

    A model that is not registered yet is registered first. Without a champion the challenger becomes it. Reports of
    the same bundle on the same split are used again. The decision is written to tags of the model version, to
    decision.json next to the challenger's report, and into its page; the report is attached to the challenger's run.

    Args:
        recipe: its promote and registry sections are the rules.
        model: a bundle, or its URI (directory, s3://, runs:/, models:/NAME/VERSION, models:/NAME@ALIAS).
        manifest: by default the recipe's current one.

    Raises:
        TrackingError: the MLflow server does not answer.
        BundleError, SceneError: the challenger cannot be judged on this split at all.
        ManifestError: the test split is empty or not labelled.
    """
    store.configure(recipe.compute.storage)
    uri = versions.tracking_uri(recipe)
    versions.check(uri)
    client = versions.client(uri)
    challenger = open_bundle(model, recipe=recipe)
    manifest = manifest if manifest is not None else current(recipe)
    check(challenger, manifest, manifest.split(SPLIT), recipe.data.task)
    name, alias = recipe.registered_model, recipe.registry.alias
    version = _version(client, recipe, model, challenger, uri)
    before = versions.alias(client, name, alias)
    if before == version:
        reason = f"version {version} is the {alias} already"
        return Decision("unchanged", (reason,), name, alias, version, before)

    judged = _judge(recipe, challenger, f"models:/{name}/{version}", manifest)
    draft = Decision("refused", (), name, alias, version, before, report_uri=judged.uri, scores=judged.scores)
    decision = _decide(recipe, draft, challenger, manifest, uri)
    if decision.promoted:
        decision = _move(client, decision)
    _record(client, decision, judged, manifest)
    if challenger.run_id is not None:
        try:
            log_report(judged, uri, challenger.run_id)
        except TrackingError as error:  # the decision stands, and is in decision.json
            logger.warning("the report is not attached to the run %s: %s", challenger.run_id, error.message)
    logger.info("%s version %s: %s; %s", name, version, decision.state, "; ".join(decision.reasons))
    return decision


def log_report(judged: Report, uri: str, run_id: str) -> None:
    """Attach a report, with the gate's decision if there is one, to an MLflow run, under reports/.

    Raises:
        TrackingError: the server does not answer, or knows no such run.
    """
    local = store.download_dir(judged.uri)
    folder = f"reports/{judged.uri.rstrip('/').rpartition('/')[2]}"
    client = versions.client(uri)
    with asking(uri):
        for name in (report.HTML_NAME, report.JSON_NAME, DECISION_NAME):
            if (local / name).exists():
                put_artifact(client, run_id, f"{folder}/{name}", (local / name).read_bytes())


def compare(
    section: Promote, challenger: Mapping[str, float], champion: Mapping[str, float]
) -> tuple[bool, tuple[str, ...]]:
    """Apply the rules to two reports' scores; returns whether the challenger passes, and every reason."""
    old, new = champion[section.metric], challenger[section.metric]
    gain, least = new - old, section.min_gain
    wanted = "more than 0" if least == 0 else f"at least {least:.4f}"
    # A score that is not there (NaN) compares as False: what cannot be judged does not pass.
    passed = gain > _ROUNDING if least == 0 else gain >= least - _ROUNDING
    reasons = [
        f"{section.metric} {new:.4f} against {old:.4f}: gain {gain:+.4f}, "
        f"{wanted} is asked{'' if passed else ' - not enough'}"
    ]
    for name, most in section.max_drop.items():
        drop = champion[f"iou.{name}"] - challenger[f"iou.{name}"]
        kept = drop <= most + _ROUNDING
        passed = passed and kept
        change = f"fell by {drop:.4f}" if drop > 0 else f"grew by {-drop:.4f}"
        if math.isnan(drop):
            reasons.append(f"IoU of {name} cannot be compared: one of the two has none on this split")
        else:
            reasons.append(f"IoU of {name} {change}, {most:.4f} is tolerated{'' if kept else ' - too much'}")
    return passed, tuple(reasons)


def _decide(recipe: Recipe, draft: Decision, challenger: Bundle, manifest: Manifest, uri: str) -> Decision:
    """The decision by the rules, with nothing moved yet."""
    leak, doubt = _seen_in_training(recipe, challenger, manifest)
    if leak:
        return replace(draft, reasons=(f"the challenger {leak}",))
    notes = [f"the challenger {doubt}"] if doubt else []
    if draft.champion_version is None:
        return replace(draft, state="promoted", reasons=(f"{draft.name} had no {draft.alias} yet", *notes))

    source = f"models:/{draft.name}/{draft.champion_version}"
    champion = versions.fetch(source, tracking=uri)
    try:
        check(champion, manifest, manifest.split(SPLIT), recipe.data.task)
    except (BundleError, SceneError) as error:
        reason = f"the champion, version {draft.champion_version}, cannot be judged on this split: {error.message}"
        advice = f"register under another name (registry.model), or move the alias {draft.alias} by hand"
        return replace(draft, reasons=(reason, advice))
    notes += [f"the champion {said}" for said in _seen_in_training(recipe, champion, manifest) if said]
    judged = _judge(recipe, champion, source, manifest)
    passed, reasons = compare(recipe.promote, draft.scores, judged.scores)
    return replace(
        draft,
        state="promoted" if passed else "refused",
        reasons=(*reasons, *notes),
        champion_report_uri=judged.uri,
        champion_scores=judged.scores,
    )


def _judge(recipe: Recipe, bundle: Bundle, source: str, manifest: Manifest) -> Report:
    """The bundle's report on the test split; one that is there already is used if it was made just so."""
    uri = report_uri(recipe, bundle, manifest, SPLIT)
    if store.exists(store.join(uri, report.JSON_NAME)):
        found = report.read(uri)
        made = (found.bundle_digest, found.manifest_digest, found.split, found.split_digest, found.predict)
        digest = split_digest(manifest.split(SPLIT), manifest.classes)
        asked = (bundle.digest, manifest.digest, SPLIT, digest, recipe.predict.model_dump(mode="json"))
        if made == asked:
            return found
        logger.info("%s was made with other settings; evaluating again", uri)
    return evaluate(recipe, bundle, manifest=manifest, split=SPLIT, out=uri, overwrite=True, source=source)


def _seen_in_training(recipe: Recipe, bundle: Bundle, manifest: Manifest) -> tuple[str, str]:
    """Whether a bundle was trained on scenes of the test split: (what it saw, what cannot be known); '' if clean."""
    if bundle.manifest_digest == manifest.digest:
        return "", ""
    short = bundle.manifest_digest[:12]
    path = store.join(recipe.compute.output, recipe.name, "manifests", f"{short}.parquet")
    if not store.exists(path):
        return "", f"was trained on manifest {short}, which is not here: whether it saw these scenes is not known"
    try:
        trained = {scene.id for scene in Manifest.read(path).split("train")}
    except (ManifestError, StorageError) as error:
        return "", f"was trained on manifest {short}, which cannot be read ({error.message})"
    seen = sorted(trained & {scene.id for scene in manifest.split(SPLIT)})
    if not seen:
        return "", ""
    return f"was trained on {len(seen)} scenes of the {SPLIT} split: {some(seen)}", ""


def _version(client: Any, recipe: Recipe, model: str | Bundle, bundle: Bundle, uri: str) -> str:
    """The model version of the challenger: the one asked for, else one that is the same bundle, else a new one."""
    name = recipe.registered_model
    asked = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@(.+))", model) if isinstance(model, str) else None
    if asked and asked[1] == name:
        found = asked[2] or versions.alias(client, name, asked[3])
        assert found is not None, "pulled a moment ago"
        return str(found)
    known = versions.version_of(client, name, bundle)
    if known is not None:
        return known
    return versions.push(bundle, uri=uri, run_id=bundle.run_id, name=name, tags={})


def _move(client: Any, decision: Decision) -> Decision:
    """Move the alias, unless somebody else did meanwhile; MLflow has no compare-and-swap, so this is re-read late."""
    now = versions.alias(client, decision.name, decision.alias)
    if now != decision.champion_version:
        moved = f"from version {decision.champion_version} to {now}"
        reason = f"the alias {decision.alias} moved {moved} meanwhile; promote again"
        return replace(decision, state="conflict", reasons=(reason, *decision.reasons))
    if now is not None:
        versions.set_alias(client, decision.name, PREVIOUS, now)
    versions.set_alias(client, decision.name, decision.alias, decision.version)
    return decision


def _record(client: Any, decision: Decision, judged: Report, manifest: Manifest) -> None:
    """Write the decision to the version's tags, to decision.json and into the report's page."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {
        "promotion.decision": decision.state,
        "promotion.reasons": "\n".join(decision.reasons),
        "promotion.at": at,
        "promotion.champion": decision.champion_version or "",
        "promotion.manifest": manifest.digest,
        "promotion.split": judged.split_digest,
        **{f"{SPLIT}.{key}": f"{value:.6f}" for key, value in judged.scores.items() if math.isfinite(value)},
    }
    versions.set_tags(client, decision.name, decision.version, tags)
    record = decision.to_json() | {"at": at, "manifest_digest": manifest.digest, "split_digest": judged.split_digest}
    store.write_json(store.join(judged.uri, DECISION_NAME), record)
    heading = f"{decision.name} version {decision.version}: {decision.state}"
    report.add_decision(judged.uri, heading, decision.promoted, decision.reasons)
