"""Statistics of the train split, and what networks normalise by."""
