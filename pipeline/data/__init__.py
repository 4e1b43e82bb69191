"""Scenes, windows, statistics, order and batches."""
