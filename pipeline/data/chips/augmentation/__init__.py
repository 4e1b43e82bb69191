"""Augmentation: transforms of albumentations by name, on any number of bands and any dtype."""
