"""Labels: whatever was delivered, raster or vector, becomes a mask on the grid of its scene."""
