"""Rasters: windows, grids, and pixels with their validity, read and written by whatever format a file has."""
