"""Formats: one reader for each family of raster files, each with the methods of `raster_reader.Reader`."""
