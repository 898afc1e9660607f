"""Comparisons of encoders over tasks, shares of the labels and seeds."""
