"""What a recipe says about pixel values: augmentation and normalisation."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from pipeline.config import Section


class Augment(Section):
    """One albumentations transform by class name; all other keys are its own arguments."""

    model_config = ConfigDict(extra="allow")
    transform: str
    """Class name in albumentations, such as HorizontalFlip."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The transform's own arguments."""
        return dict(self.model_extra or {})
