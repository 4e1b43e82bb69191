"""Weights of segmentation_models_pytorch: its encoders, its families, its checkpoints."""
