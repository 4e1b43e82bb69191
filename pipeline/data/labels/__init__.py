"""Labels: whatever was delivered, raster or vector, becomes a mask on the grid of its scene."""

from pipeline.data.labels.looks import LabelLook, look
from pipeline.data.labels.masks import encode, mask, nearest, refusal, shapes_of

__all__ = ["LabelLook", "encode", "look", "mask", "nearest", "refusal", "shapes_of"]
