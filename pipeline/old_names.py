"""Names of modules that files inside registered model versions import, and what they are called now.

A model version holds a copy of the file that MLflow runs. Until 0.1 that file imported these modules.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

MOVED: Final = {
    "pipeline.data.classes": "pipeline.data.labels.classes",
    "pipeline.data.readers": "pipeline.data.rasters.formats",
    "pipeline.data.readers.values": "pipeline.data.rasters.dtypes",
    "pipeline.data.scene_values": "pipeline.data.chips.statistics.per_scene",
    "pipeline.data.statistics": "pipeline.data.chips.statistics",
    "pipeline.data.statistics.scene_values": "pipeline.data.chips.statistics.per_scene",
    "pipeline.data.windows": "pipeline.data.rasters.windows",
    "pipeline.model.blend": "pipeline.prediction.blend",
    "pipeline.model.metrics": "pipeline.metrics",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module of the new name for the old one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for old names only."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An alias with the attributes of the module of the new name."""
        found = importlib.import_module(MOVED[spec.name])
        alias = ModuleType(spec.name)
        alias.__dict__.update({key: value for key, value in vars(found).items() if not key.startswith("__")})
        alias.__path__ = []  # of old packages, whose modules are found here, too
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module is complete."""


def install() -> None:
    """Let old names be imported; of names that exist, nothing changes."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
