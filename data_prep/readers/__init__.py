"""Readers of image series: one file per container."""
