"""Models: the encoder with a decoder, and baselines."""
