"""Labels: whatever was delivered, raster or vector, becomes a mask on the grid of its scene."""

from pipeline.data.labels.across_scenes import contradictions, declared_nodata
from pipeline.data.labels.looks import FootprintLook, LabelLook, look, look_at_footprint, remembered
from pipeline.data.labels.masks import encode, mask, nearest, refusal, shapes_of

__all__ = [
    "FootprintLook",
    "LabelLook",
    "contradictions",
    "declared_nodata",
    "encode",
    "look",
    "look_at_footprint",
    "mask",
    "nearest",
    "refusal",
    "remembered",
    "shapes_of",
]
