"""Evaluation: predictions against labels, counted, and written as a report."""
