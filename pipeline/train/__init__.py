"""Training: the loop, its state and checkpoints, and the fit of a recipe."""
