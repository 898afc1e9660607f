"""Colours that all pictures share."""

INK, MUTED = "#202020", "#6a6a6a"  # text, and text of less weight
