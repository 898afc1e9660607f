"""Comparison of encoders over tasks, fractions of the labels and seeds."""
