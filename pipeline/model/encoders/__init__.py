"""Encoders: timm models as lists of features at growing strides, and those of segmentation_models_pytorch."""
