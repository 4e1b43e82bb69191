"""Statistics of the train split, and the normalisation that networks apply."""
