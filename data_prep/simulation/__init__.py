"""Simulated scenes: spectra from radiative transfer, seasons, landscapes, what sensors make of them, and archives of it."""
