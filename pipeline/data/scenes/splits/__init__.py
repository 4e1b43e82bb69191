"""Splits: which scenes, or parts of them, train, validate and test."""
