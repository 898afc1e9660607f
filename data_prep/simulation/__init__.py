"""Simulated scenes: spectra from radiative transfer, landscapes, seasons, sensors, and the containers of archives."""
