"""A corpus: its description, its index of samples, its statistics and checks."""
