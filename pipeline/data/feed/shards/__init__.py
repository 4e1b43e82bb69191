"""Shards: scenes stored once more, uncompressed or lightly compressed, for fast reading."""
