"""Sampling: which windows are drawn, and in which order."""
