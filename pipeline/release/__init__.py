"""Release: the gate that a challenger must pass before an alias moves to it."""
