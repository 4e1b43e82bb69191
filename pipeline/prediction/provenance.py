"""Provenance of predicted rasters: tags that name what made them, by which a later run knows what is finished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pipeline import store
from pipeline.data.rasters.raster_writer import tags_of
from pipeline.model import weights_io
from pipeline.model.bundle import Bundle
from pipeline.recipe import Predict
from pipeline.redaction import redacted

_MODEL: Final = "SEGPIPE_MODEL"
_DATE: Final = "SEGPIPE_DATE"
_VERSION: Final = "SEGPIPE_VERSION"
_IMAGE: Final = "SEGPIPE_IMAGE"
_NOT_COMPARED: Final = frozenset({_MODEL, _DATE, _VERSION, _IMAGE})
"""A model and an image have several names; digests and the stamp identify them."""


def tags(bundle: Bundle, section: Predict, image: str, *, source: str) -> dict[str, str]:
    """GeoTIFF tags of the raster that a bundle makes of an image.

    Args:
        bundle: what predicts.
        section: window, overlap and blending.
        image: URI of the image, whose size and date (or ETag) are among the tags.
        source: URI that names the bundle for people, such as models:/NAME@ALIAS.

    Raises:
        FileNotFoundError: there is no such image.
        StorageError: the store does not answer.
    """
    return {
        _MODEL: redacted(source),
        _DATE: datetime.now(UTC).isoformat(timespec="seconds"),
        _VERSION: weights_io.program(),
        "SEGPIPE_WEIGHTS": bundle.weights_sha256,
        "SEGPIPE_BUNDLE": bundle.meta_sha256 or "",
        "SEGPIPE_WINDOW": str(section.window),
        "SEGPIPE_OVERLAP": f"{section.overlap:g}",
        "SEGPIPE_BLEND": section.blend,
        _IMAGE: redacted(image),
        "SEGPIPE_IMAGE_STAMP": store.stamp(image),
    }


def finished(target: str, wanted: dict[str, str]) -> bool:
    """Whether a raster exists and was made by the same bundle and settings from the same image.

    A raster appears when it is complete, so that one that exists is whole.

    Raises:
        StorageError: the store does not answer.
    """
    try:
        found = tags_of(target)
    except FileNotFoundError:
        return False
    return all(found.get(key) == value for key, value in wanted.items() if key not in _NOT_COMPARED)
