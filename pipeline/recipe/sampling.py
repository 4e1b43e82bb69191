"""Sections about sampling and splits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Positive, Section, Share

NotNegative = Annotated[int, Field(ge=0)]


class TableSplit(Section):
    """Splits as a table says."""

    kind: Literal["table"] = "table"
    path: str = "splits.csv"
    """CSV with a row per scene; relative to `data.root`."""
    id: str = "id"
    """Its column with the scene's id."""
    split: str = "split"
    """Its column with the split: train, val or test."""
    group: str = "group"
    """Its column with the group. Without it, each scene is a group of its own."""


class Shares(Section):
    """Shares of the splits that are not for training."""

    val: Share = 0.0
    """Share of the groups for validation during training."""
    test: Share = 0.2
    """Share of the groups for the frozen test split."""

    @model_validator(mode="after")
    def _leave_some(self) -> Shares:
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} + test {self.test} leaves nothing to train on")
        return self


class HashSplit(Shares):
    """Splits by a hash of the group: no group is in two splits, and groups that were indexed keep theirs when others
    are added."""

    kind: Literal["hash"] = "hash"
    group: str | None = None
    """Regular expression on the scene id; its first bracket (or all it matches) is the group. By default each
    scene is a group of its own."""
    seed: NotNegative = 0
    """Another one gives another division, in which no group keeps its split."""
    groups: str | None = None
    """CSV with the columns id and group, relative to `data.root`, such as the doctor's groups.csv: scenes in it have
    the group that it says, all others that of `group`."""


class BlocksSplit(Shares):
    """Splits by where scenes lie: the ground is divided into square blocks, and a hash of the block decides.

    Scenes that reach over a line between two splits are cut there."""

    kind: Literal["blocks"] = "blocks"
    block: Annotated[float, Field(gt=0)]
    """Side of a block, in units of the scenes' CRS; for scenes without one, in pixels."""
    buffer: NotNegative = 0
    """No pixel is nearer to a pixel of another split than so many pixels; those between belong to none."""
    min_side: Positive = 64
    """Pieces that cutting leaves with a shorter side, in pixels, belong to no split."""


class FoldsSplit(Section):
    """One of k divisions for cross-validation: by a hash of the group, each group tests in exactly one fold."""

    kind: Literal["folds"] = "folds"
    folds: Annotated[int, Field(ge=2)] = 5
    """How many."""
    fold: NotNegative = 0
    """Which one tests, from 0."""
    val: bool = False
    """The next fold validates during training; by default none does."""
    group: str | None = None
    """Regular expression on the scene id; its first bracket (or all it matches) is the group, such as a patient. By
    default each scene is a group of its own."""
    groups: str | None = None
    """CSV with the columns id and group, relative to `data.root`: scenes in it have the group that it says."""

    @model_validator(mode="after")
    def _possible(self) -> FoldsSplit:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of the {self.folds}, which are counted from 0")
        if self.val and self.folds < 3:
            raise ValueError("val: with two folds, nothing is left to train on")
        return self


Split = Annotated[TableSplit | HashSplit | BlocksSplit | FoldsSplit, Field(discriminator="kind")]


class Sampling(Section):
    """Options of all kinds of sampling."""

    size: Annotated[int, Field(gt=0, le=16_384)] = 256
    """Height and width of a chip in pixels."""
    weight: Literal["area", "scene"] = "area"
    """Scenes are drawn in proportion to their area, or all alike."""
    epoch_size: Positive | None = None
    """Chips in an epoch; by default as many as cover the train split once."""
    min_valid: Share = 0.0
    """Least share of a window's pixels that are valid and annotated, as far as a coarse index of the scene knows. Of
    scenes that cannot give it, the best window found is taken."""
    scale: tuple[float, float] | None = None
    """Least and largest side of the window as a multiple of `size`, drawn uniformly; the chip is resampled to `size`.
    Beyond 1 shows more ground, with smaller things on it."""

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Sampling:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: a least and a largest multiple are needed, not {list(self.scale)}")
        if self.smallest < 1:
            raise ValueError("scale: the smallest windows have no pixel")
        return self

    @property
    def smallest(self) -> int:
        """Side of the smallest window in pixels."""
        return self.size if self.scale is None else round(self.size * self.scale[0])

    @property
    def largest(self) -> int:
        """Side of the largest window in pixels."""
        return self.size if self.scale is None else round(self.size * self.scale[1])


class Locality(Section):
    """Several windows from one block of storage tiles, so that each tile is decompressed once for all of them."""

    tiles: Positive = 3
    """Height and width of a block in storage tiles."""
    chips: Positive = 9
    """Windows from one block."""
    pool: Positive = 32
    """The windows of so many blocks are shuffled together, then those of the next ones. A larger pool shuffles
    better and takes more memory: pool × chips chips."""
    tile: Positive = 512
    """Height and width of the files' storage tiles in pixels."""


class Uniform(Sampling):
    """Windows at uniform positions."""

    kind: Literal["uniform"] = "uniform"
    locality: Locality | None = None
    """Draw several windows from one block of storage tiles. By default each is drawn on its own."""

    @model_validator(mode="after")
    def _windows_fit_blocks(self) -> Uniform:
        near = self.locality
        if near is not None and near.tiles * near.tile < self.largest + near.tile - 1:
            least = -(-(self.largest + near.tile - 1) // near.tile)
            raise ValueError(
                f"locality.tiles: windows of {self.largest} pixels need blocks of {least} tiles of {near.tile} pixels"
            )
        return self


class GridSampling(Sampling):
    """Windows of a grid over each scene: every one once, then all again in another order.

    With `weight: scene`, each scene gives equally many windows, drawn from its grid."""

    kind: Literal["grid"] = "grid"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a window that it has in common with the next one."""
    jitter: NotNegative = 0
    """Windows are moved by up to so many pixels down or up and right or left, differently each time."""


class Balanced(Sampling):
    """A share of the windows contains given classes, each class equally often; the others are at uniform positions."""

    kind: Literal["balanced"] = "balanced"
    classes: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the classes; by default all."""
    share: Share = 0.5
    """Share of the windows that are drawn to contain one of them; others contain them by chance."""


class Foreground(Sampling):
    """A share of the windows contains something: any class but the first."""

    kind: Literal["foreground"] = "foreground"
    share: Share = 0.5
    """Share of the windows that are drawn to contain a class other than the first (of multilabel data any class);
    others contain them by chance."""


class Hard(Sampling):
    """A share of the windows lies where a model was worst, the others at uniform positions."""

    kind: Literal["hard"] = "hard"
    report: str
    """Folder or s3:// prefix of a report of the train split (`segpipe evaluate --split train`)."""
    share: Share = 0.5
    """Share of the windows that lie on the report's worst windows, each equally often."""
    jitter: NotNegative = 64
    """These are moved by up to so many pixels down or up and right or left, differently each time."""


AnySampling = Annotated[Uniform | GridSampling | Balanced | Foreground | Hard, Field(discriminator="kind")]
