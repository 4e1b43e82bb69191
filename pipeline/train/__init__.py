"""The loop, its checkpoints, evaluation and the gate."""
