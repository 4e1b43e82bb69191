"""Data: rasters, labels, scenes, chips and the feed, each importing only what stands before it in this list."""
