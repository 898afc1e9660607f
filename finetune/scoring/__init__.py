"""Scores of maps: pixels, boundaries, objects, intervals."""
