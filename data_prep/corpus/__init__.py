"""A corpus: building it, dataset.json, the sample index, summaries and checks."""
