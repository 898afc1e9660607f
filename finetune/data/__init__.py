"""Labelled data for fine-tuning: scenes, samples, windows, seasons and frames."""
