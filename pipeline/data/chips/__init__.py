"""Chips: which window is chip i, what is read there, how it is augmented and normalised."""
