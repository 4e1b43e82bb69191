"""Encoders, networks, losses, metrics, bundles and prediction."""
