"""Attention inside shifted 3-D windows."""
