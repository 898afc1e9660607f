"""Labelled data: scenes, samples, windows, seasons."""
