"""Models: encoder with decoder, and baselines."""
