"""Readers: one file a container."""
