"""Pretraining: stream -> Video Swin -> land-cover fractions, with DeepSpeed ZeRO."""
