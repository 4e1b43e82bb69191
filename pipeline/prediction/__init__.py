"""Prediction: a bundle on rasters of any size, in overlapping windows that are blended."""
