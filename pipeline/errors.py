"""The tree of errors.

    PipelineError                     message, hint
    ├── RecipeError                   2   the recipe: unknown key, wrong value, impossible combination
    ├── OutputExists                  2   the output is there already and --overwrite was not given
    ├── DataError                     3
    │   ├── SceneError                3   a raster cannot be opened or read, is misaligned, has other bands
    │   ├── LabelError                3   a label holds a value without a class: value, count, scene
    │   ├── ManifestError             3   no scenes, an empty split, a group in two splits, stale manifest
    │   ├── BundleError               3   a bundle that is incomplete, foreign or newer than this program
    │   └── DamagedError              3   a file that this program wrote does not hold what it writes there
    ├── TrainingError                 4
    │   ├── DivergedError             4   the loss is not finite any more
    │   └── CheckpointError           4   a checkpoint of another recipe or another network
    ├── PromotionRefused              5   not a failure: the gate's reasons
    └── StorageError                 75   a store or server does not answer; try again
        ├── TrackingError            75   the MLflow server does not answer
        └── ClusterError             75   the Ray cluster is too small or not there

The number is the exit code of the command line. A message says what happened and where; the hint says what to do.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of all errors that this package raises on purpose.

    Args are positional so that the error survives pickling between the processes of a cluster.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class RecipeError(PipelineError, ValueError):
    """The recipe says something that cannot be."""

    exit_code = 2


class OutputExists(PipelineError):
    """The output is already there; nothing was changed."""

    exit_code = 2


class DataError(PipelineError):
    """The data are not what the recipe says."""

    exit_code = 3


class SceneError(DataError):
    """A raster cannot be opened or read, or lies on another grid than its label."""


class LabelError(DataError):
    """A label holds a value that no class claims."""


class ManifestError(DataError):
    """The manifest is missing, stale, or splits the scenes in an impossible way."""


class BundleError(DataError):
    """A bundle cannot be used: incomplete, not a bundle, or made by a newer version."""


class DamagedError(DataError):
    """A file that this program wrote does not hold what it writes there."""


class TrainingError(PipelineError):
    """Training cannot begin or go on."""

    exit_code = 4


class DivergedError(TrainingError):
    """The loss is not finite."""


class CheckpointError(TrainingError):
    """A checkpoint does not belong to this recipe or network."""


class PromotionRefused(PipelineError):
    """The challenger did not pass the gate."""

    exit_code = 5


class StorageError(PipelineError):
    """A store does not answer."""

    exit_code = 75
    retryable = True


class TrackingError(StorageError):
    """The MLflow server does not answer."""


class ClusterError(StorageError):
    """The Ray cluster is not there or too small."""
