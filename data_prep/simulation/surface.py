"""Reflectance of the objects of a landscape on any day.

Reflectance is linear in the objects: a pixel is the sum over its objects of their share times their spectrum, plus their
share times the variation within the object times the derivative of the spectrum. So a coarse pixel is exactly the mean of
the finer pixels inside it, and spectra are computed per object, not per pixel.
"""

from __future__ import annotations

import numpy as np

from data_prep.simulation.covers import COVERS
from data_prep.simulation.landscape import Kind
from data_prep.simulation.objects import Objects
from data_prep.simulation.phenology import State
from data_prep.simulation.randomness import normal
from data_prep.simulation.spectra import BACKGROUNDS, Spectra


class Surface:
    """Reflectance of the objects of one scene in the bands of one source, on any day."""

    VIGOUR = 0.13  # standard deviation of relative leaf area within an object
    BRIGHTNESS = 0.16  # standard deviation of the share of dark soil within an object

    def __init__(self, objects: Objects, spectra: Spectra, seed: int) -> None:
        self._spectra = spectra
        bare = np.array(
            [sum((share * spectra.surface(name) for name, share in c.surface), np.zeros(len(spectra.bands))) for c in COVERS]
        )[objects.cover]
        tone = np.exp(0.14 * normal(objects.key, "tone", seed))[:, None]
        self._bare = (bare * tone).astype(np.float32)
        self._hides_snow = np.array([c.hides_snow for c in COVERS], dtype=np.float32)[objects.cover]
        # Slow rivers and lakes vary less within themselves than roofs and gravel do.
        self._roughness = np.where(np.isin(objects.kind, (Kind.RIVER, Kind.LAKE)), 0.05, 0.12).astype(np.float32)[:, None]

    def spectra(self, state: State) -> np.ndarray:
        """Reflectance of the objects, and its derivatives by vigour and by brightness: float32 (3, N, bands)."""
        out = np.empty((3, *self._bare.shape), dtype=np.float32)
        out[0] = self._bare
        out[1] = 0.0
        out[2] = self._bare * self._roughness
        at = np.flatnonzero(state.plant >= 0)
        plant, lai, senescence, ground = state.plant[at], state.lai[at], state.senescence[at], state.ground[at]
        canopy = self._spectra.canopy(plant, lai, senescence, ground)
        out[0][at] = canopy
        more = self._spectra.canopy(plant, lai * 1.15, senescence, ground)
        out[1][at] = (more - canopy) * (self.VIGOUR / 0.15)
        darker = ground.copy()
        moved = 0.3 * (ground[:, 0] + ground[:, 2])
        darker[:, 0] *= 0.7
        darker[:, 2] *= 0.7
        darker[:, BACKGROUNDS.index("dark")] += moved
        out[2][at] = (self._spectra.canopy(plant, lai, senescence, darker) - canopy) * (self.BRIGHTNESS / 0.3)
        white = (state.snow * (1 - self._hides_snow))[:, None].astype(np.float32)
        if white.any():
            out *= 1 - white
            out[0] += white * self._spectra.surface("snow")
        return out
