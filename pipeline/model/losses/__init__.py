"""Losses as sums over valid pixels: sums travel between workers, the ratio is made last.

`sums` of a batch that is divided add up to the `sums` of the whole, so that the loss and its gradient do not depend on
the number of workers. Pixels with IGNORE are in no sum and get a gradient of exactly zero.

    evidence.py, fused.py   what terms are made of: one pass over the logits
    pixel.py, region.py, lovasz.py, distance.py, skeleton.py   the terms
    loss.py                 their weighted sum, also over auxiliary outputs
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.model.losses.distance import BoundaryTerm, HausdorffTerm
from pipeline.model.losses.evidence import Task, Term
from pipeline.model.losses.loss import Loss, Supervised, number, supervised
from pipeline.model.losses.lovasz import LovaszTerm
from pipeline.model.losses.pixel import CrossEntropyTerm, EdgeTerm, FocalTerm, HardestTerm
from pipeline.model.losses.region import DiceTerm, GeneralisedDiceTerm, JaccardTerm, MCCTerm, TverskyTerm
from pipeline.model.losses.skeleton import ClDiceTerm
from pipeline.recipe import losses as sections
from pipeline.recipe.losses import LossTerm

__all__ = ["LOSSES", "Loss", "Supervised", "Task", "Term", "build", "create_loss", "supervised"]

Weights = tuple[float, ...] | None
ALL: Final[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")
YES_NO: Final[tuple[Task, ...]] = ("binary", "multilabel")


@dataclass(frozen=True)
class Kind:
    """Makes a term from its section."""

    make: Callable[[Any, int, Task, Weights], Term]
    """From the section, the number of channels of the logits, the task and the class weights."""
    tasks: tuple[Task, ...] = ALL


def _cross_entropy(s: sections.CrossEntropy, classes: int, task: Task, weights: Weights) -> Term:
    return CrossEntropyTerm(weights, s.label_smoothing, every=weights or (1.0,) * classes)


def _bce(s: sections.BCE, classes: int, task: Task, weights: Weights) -> Term:
    return CrossEntropyTerm(weights, s.label_smoothing, _per_class(s.pos_weight, classes, "pos_weight"))


def _focal(s: sections.Focal, classes: int, task: Task, weights: Weights) -> Term:
    if s.alpha is not None and task == "multiclass":
        raise RecipeError("loss: focal has no alpha for multiclass", "use class_weights: one factor per class")
    return FocalTerm(s.gamma, s.alpha, weights)


def _ohem(s: sections.OHEM, classes: int, task: Task, weights: Weights) -> Term:
    return HardestTerm(s.share, s.threshold, s.min_kept, weights)


def _edge(s: sections.EdgeCrossEntropy, classes: int, task: Task, weights: Weights) -> Term:
    return EdgeTerm(s.w0, s.sigma, weights)


def _dice(s: sections.Dice, classes: int, task: Task, weights: Weights) -> Term:
    return DiceTerm(classes, s.absent == "skip", s.smooth, weights)


def _jaccard(s: sections.Jaccard, classes: int, task: Task, weights: Weights) -> Term:
    return JaccardTerm(classes, s.absent == "skip", s.smooth, weights)


def _generalised_dice(s: sections.GeneralisedDice, classes: int, task: Task, weights: Weights) -> Term:
    return GeneralisedDiceTerm(classes, s.absent == "skip", s.smooth, weights, s.power)


def _tversky(s: sections.Tversky, classes: int, task: Task, weights: Weights) -> Term:
    return TverskyTerm(classes, s.absent == "skip", s.smooth, weights, s.alpha, s.beta)


def _focal_tversky(s: sections.FocalTversky, classes: int, task: Task, weights: Weights) -> Term:
    power = 1 / s.gamma
    return TverskyTerm(classes, s.absent == "skip", s.smooth, weights, s.alpha, s.beta, power)


def _mcc(s: sections.MCC, classes: int, task: Task, weights: Weights) -> Term:
    return MCCTerm(classes, class_weights=weights)


def _lovasz(s: sections.Lovasz, classes: int, task: Task, weights: Weights) -> Term:
    hinge = task != "multiclass"
    return LovaszTerm(s.absent == "skip" if s.absent else not hinge, hinge, weights)


def _boundary(s: sections.Boundary, classes: int, task: Task, weights: Weights) -> Term:
    return BoundaryTerm(weights)


def _hausdorff(s: sections.Hausdorff, classes: int, task: Task, weights: Weights) -> Term:
    return HausdorffTerm(s.alpha, weights)


def _cldice(s: sections.ClDice, classes: int, task: Task, weights: Weights) -> Term:
    return ClDiceTerm(classes, s.iterations, s.smooth, s.absent == "skip", weights)


LOSSES: Final[dict[str, Kind]] = {
    "cross_entropy": Kind(_cross_entropy, ("multiclass",)),
    "bce": Kind(_bce, YES_NO),
    "focal": Kind(_focal),
    "ohem": Kind(_ohem),
    "edge_cross_entropy": Kind(_edge),
    "dice": Kind(_dice),
    "jaccard": Kind(_jaccard),
    "generalised_dice": Kind(_generalised_dice),
    "tversky": Kind(_tversky),
    "focal_tversky": Kind(_focal_tversky),
    "mcc": Kind(_mcc),
    "lovasz": Kind(_lovasz),
    "boundary": Kind(_boundary),
    "hausdorff": Kind(_hausdorff),
    "cldice": Kind(_cldice),
}


def build(terms: Sequence[LossTerm], num_classes: int, *, task: Task = "multiclass") -> Loss:
    """The loss that a recipe's `loss` describes.

    Args:
        terms: sections of `pipeline.recipe.losses`.
        num_classes: channels of the logits; 1 for binary.
        task: multiclass (mask of class ids [N,H,W]), binary (logits [N,1,H,W], mask of 0 and 1 [N,H,W]) or multilabel
            (mask of 0 and 1 [N,K,H,W]); all with IGNORE (255) where nothing is known.

    Raises:
        RecipeError: a term that is not for the task, class weights for another number of classes, or no term.
    """
    if task not in ALL:
        raise RecipeError(f"no task {task!r}", _near(task, ALL))
    if not terms:
        raise RecipeError("a loss needs at least one term")
    if task == "binary" and num_classes != 1:
        raise RecipeError(f"the task binary has one channel, not {num_classes}", "for more, multiclass or multilabel")
    if not 1 <= num_classes <= 255:
        raise RecipeError(f"num_classes is {num_classes}, not within 1..255")
    made = []
    for term in terms:
        kind = LOSSES[term.kind]
        if task not in kind.tasks:
            fitting = ", ".join(name for name, other in LOSSES.items() if task in other.tasks)
            raise RecipeError(f"loss: {term.kind} is for {' and '.join(kind.tasks)}, not {task}", f"use {fitting}")
        weights = _per_class(term.class_weights, num_classes, "class_weights")
        made.append(kind.make(term, num_classes, task, weights))
    return Loss(tuple(made), tuple(t.weight for t in terms), number([t.kind for t in terms]), num_classes, task)


def create_loss(
    terms: str | LossTerm | Sequence[str | LossTerm | Mapping[str, Any]],
    num_classes: int,
    *,
    task: Task = "multiclass",
    **options: Any,
) -> Loss:
    """A loss for other people's loops: `create_loss("focal", 4, gamma=2.0)(logits, mask)`.

    Args:
        terms: a kind of loss, or several kinds, sections or mappings such as `{"kind": "dice", "weight": 2}`.
        num_classes: channels of the logits; 1 for binary.
        task: see `build`.
        options: fields of the section, where `terms` is one kind.

    Raises:
        RecipeError: an unknown kind or option, or as `build`.
    """
    if isinstance(terms, str):
        return build([_section({**options, "kind": terms})], num_classes, task=task)
    if options:
        raise RecipeError("options go with a single kind", "give several as mappings: {'kind': 'dice', 'weight': 2}")
    listed = [terms] if isinstance(terms, config.Section) else terms
    made = [_section({"kind": t} if isinstance(t, str) else t) if isinstance(t, str | Mapping) else t for t in listed]
    return build(made, num_classes, task=task)


def _section(fields: Mapping[str, Any]) -> LossTerm:
    by_kind = dict(zip(LOSSES, get_args(get_args(LossTerm)[0]), strict=True))
    kind = str(fields.get("kind"))
    if kind not in by_kind:
        raise RecipeError(f"no loss {kind!r}", _near(kind, by_kind))
    section: LossTerm = config.validate(by_kind[kind], fields, f"loss {kind}")
    return section


def _near(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.4)
    return (f"did you mean {near[0]}? " if near else "") + f"known are {', '.join(known)}"


def _per_class(values: Sequence[float] | None, classes: int, name: str) -> Weights:
    if values is not None and len(values) != classes:
        raise RecipeError(f"loss: {len(values)} {name} for {classes} classes")
    return None if values is None else tuple(float(v) for v in values)
