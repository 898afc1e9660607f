"""Data loading: what is drawn, read and batched."""
