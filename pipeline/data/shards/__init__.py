"""Shards: scenes stored once more, for fast reading."""
