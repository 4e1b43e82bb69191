"""Augmentation: what a recipe names of albumentations, on any bands and any dtype."""
