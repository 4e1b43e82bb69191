"""Sampling: which windows are drawn, and which of them comes when."""
