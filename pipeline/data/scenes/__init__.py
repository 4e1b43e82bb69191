"""Scenes: how they are discovered, inspected, divided into splits, and listed in a manifest."""
