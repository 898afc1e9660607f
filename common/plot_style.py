"""Colours of text in all figures."""

INK, MUTED = "#202020", "#6a6a6a"  # for titles and values, and for less important text
