"""Public data sets of labelled samples, read where they lie."""
