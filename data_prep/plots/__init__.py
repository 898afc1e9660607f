"""Figures of a corpus."""
