"""Searches in STAC catalogues, whose items become scenes."""
