"""Shards: samples, the tar format, and writing."""
