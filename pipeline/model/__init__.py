"""Encoders, decoders, losses, networks and bundles."""
